"""Tests of the published numbers: that they are all there and consistent, and how our rows stand beside them."""

import csv
import fnmatch
import io
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bdray.__main__ import main
from bdray.attacks import Attack
from bdray.data import Data
from bdray.defenses import Defense
from bdray.launch.expand import expand, read_sweep
from bdray.models import Model
from bdray.overrides import parse
from bdray.report.papers import ADVRBD, NFT, PAPERS, TRAINING_SAMPLES, WIDTHS, Paper, paper
from bdray.report.papers.beside import COLUMNS, OUTSIDE, Published, compare, outside_target, render
from bdray.spec import BadInput, Config, key_of
from bdray.store.row import Row, setting_of, to_table
from bdray.store.store import Store
from tests.report.test_table import make_row

AWAITED = {
    "attack": {"none", "physical", "tact", "adaptive_blend", "adaptive_patch", "troj_one", "troj_all", "dyn_one", "dyn_all"}
    | {"cba", "fba", "issba", "lira", "bppa"},
    "defense": {"advrbd", "abl", "dbr", "clp", "cutmix", "scan_ft", "anp", "i_bau", "awm", "ft_sam", "rnp"},
    "data": {"imagenet"},
    "model": {"resnet50"},
}
"""Names in the papers that may not be a member of ours."""


def printed(name: str) -> list[dict[str, str]]:
    """The lines of a paper's file."""
    return list(csv.DictReader(io.StringIO((files("bdray.report.papers") / f"{name}.csv").read_text())))


class TestNumbers:
    def test_every_printed_cell_is_there(self) -> None:
        """II and III: data sets x attacks x columns; IV: attacks x 2; V: attacks x rates and none; VI: attacks and none x 2
        models; VII: attacks x 2 and none x 2."""
        tables = {"II": 4 * 5 * 9, "III": 4 * 3 * 9, "IV": 8 * 2, "V": 7 * 3 + 1, "VI": 9 * 2, "VII": 8 * 2 + 2}
        assert Counter(row["table"] for row in printed("advrbd")) == tables
        assert Counter(row["data"] for row in printed("nft")) == {"cifar10": 15 * 7, "imagenet": 12 * 7}

    @pytest.mark.parametrize("name", sorted(PAPERS))
    def test_what_is_printed_twice_is_the_same(self, name: str) -> None:
        values = defaultdict(set)
        for row in printed(name):
            where = tuple(row[field] for field in ("data", "model", "attack", "rate", "defense", "setting"))
            values[where].add((row["accuracy"], row["asr"]))
        assert all(len(found) == 1 for found in values.values())
        cells = paper(name).cells()
        assert len(cells) == len(values)
        assert sum(len(cell.table.split()) for cell in cells) == len(printed(name))

    @pytest.mark.parametrize(
        ("name", "where", "accuracy", "asr"),
        [
            ("advrbd", ("cifar10", "resnet18", "badnets", 0.05, "advrbd", {"relabel": False}), "85.72", "0.00"),
            ("advrbd", ("cifar10", "resnet18", "adaptive_blend", 0.05, "advrbd", {"relabel": True}), "89.12", "0.00"),
            ("advrbd", ("imagenette", "resnet18", "physical", 0.05, "abl", {}), "63.37", "2.77"),
            ("advrbd", ("tiny_imagenet", "resnet18", "wanet", 0.05, "scan_ft", {}), "26.07", "0.00"),
            ("advrbd", ("cifar10", "mobilenet_v2", "none", 0.0, "advrbd", {"relabel": False}), "84.33", "0.00"),
            ("advrbd", ("cifar10", "resnet18", "none", 0.0, "none", {}), "87.86", "0.00"),
            ("nft", ("cifar10", "preact_resnet18", "label_consistent", 0.1, "nft", {}), "90.37", "1.04"),
            ("nft", ("imagenet", "resnet50", "lira", 0.1, "ft_sam", {}), "12.31", "3.16"),
        ],
    )
    def test_single_cells_against_the_page(self, name: str, where: tuple[Any, ...], accuracy: str, asr: str) -> None:
        (cell,) = [c for c in paper(name).cells() if (c.data, c.model, c.attack, c.rate, c.defense, c.setting) == where]
        assert (cell.accuracy, cell.asr) == (accuracy, asr)

    def test_the_test_samples_follow_from_the_numbers(self) -> None:
        """Before a defense all of tables II and III are fractions of the first number; after it nearly all are of the second,
        and less than half of the first."""
        for data, (before, after) in ADVRBD.tests.items():
            rows = [row for row in printed("advrbd") if row["data"] == data and row["table"] in ("II", "III")]
            first = [row[column] for row in rows for column in ("accuracy", "asr") if row["defense"] == "none"]
            rest = [row[column] for row in rows for column in ("accuracy", "asr") if row["defense"] != "none"]
            assert all(is_share(value, before) for value in first)
            assert sum(is_share(value, after) for value in rest) > 0.9 * len(rest)
            assert sum(is_share(value, before) for value in rest) < 0.5 * len(rest)

    @pytest.mark.parametrize("name", sorted(PAPERS))
    def test_names_are_ours_where_we_have_them(self, name: str) -> None:
        for field, contract in (("attack", Attack), ("defense", Defense), ("data", Data), ("model", Model)):
            known = set(contract.names()) | AWAITED[field]
            assert {row[field] for row in printed(name)} <= known
        assert {(row["attack"] == "none") == (float(row["rate"]) == 0) for row in printed(name)} == {True}

    def test_published_widths_are_the_models_defaults(self) -> None:
        assert {name: Model.of(name).config()["width"] for name in WIDTHS} == WIDTHS
        assert {row["model"] for row in printed("advrbd")} <= WIDTHS.keys()
        assert {row["data"] for row in printed("advrbd")} == TRAINING_SAMPLES.keys()

    def test_they_ship_with_the_package(self) -> None:
        patterns = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
            "bdray.report.papers"
        ]
        for name in PAPERS:
            file = files("bdray.report.papers") / f"{name}.csv"
            assert file.is_file()
            assert any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns)

    def test_an_unknown_paper(self) -> None:
        with pytest.raises(BadInput, match=r"no paper named 'advbrd'; did you mean 'advrbd'\?"):
            paper("advbrd")


def is_share(percent: str, whole: int) -> bool:
    """Whether a percentage of two decimals is that of a count of `whole`, rounded."""
    near = round(Fraction(percent) * whole / 100)
    gaps = [abs(Fraction(100 * count, whole) - Fraction(percent)) for count in (near - 1, near, near + 1)]
    return min(gaps) <= Fraction("0.005")


def ours(attack: Config | str, defense: Config | str = "none", seed: int = 0, **values: Any) -> Row:
    """A row of CIFAR-10 on a ResNet-18 of width 8, poisoned at 0.05; attacks and defenses need not be members."""
    names = {"data": values.pop("data", "cifar10"), "model": values.pop("model", "resnet18")}
    names |= {
        kind: part if isinstance(part, str) else part["name"] for kind, part in (("attack", attack), ("defense", defense))
    }
    config: Config = {
        "task": {"name": "image", "data": {"name": names["data"]}, "model": {"name": names["model"], "width": 8}},
        "attack": {"rate": 0.05, "target": 1, **({"name": attack} if isinstance(attack, str) else attack)},
        "training": {"epochs": 30},
        "defense": {"name": defense} if isinstance(defense, str) else defense,
        "seed": seed,
    }
    counts = {"clean_tests": 10000, "triggered_tests": 9000, "trained_on": 12001}
    chosen = {"spec": json.dumps(config), "key": key_of(config), "setting": setting_of(config), "seed": seed}
    chosen["victim"] = key_of({name: value for name, value in config.items() if name != "defense"})
    return make_row(**{**chosen, **names, **counts, **values})


def beside(*rows: Row, of: Paper = ADVRBD) -> list[dict[str, Any]]:
    return compare(to_table(list(rows)), of).records


class TestCounterparts:
    def test_ours_stand_beside_the_same_experiment(self) -> None:
        (record,) = beside(ours("blend", "abl", asr_after=0.5))
        assert (record["attack"], record["defense"], record["n"]) == ("blend", "abl", 1)
        assert (record["utility_before"], record["paper_utility_before"]) == (0.9, "84.50")
        assert (record["asr_before"], record["paper_asr_before"]) == (1.0, "99.90")
        assert (record["utility_after"], record["paper_utility_after"]) == (0.8, "82.20")
        assert (record["asr_after"], record["paper_asr_after"]) == (0.5, "5.71")
        assert (record["paper_tests_before"], record["paper_tests_after"], record["paper_table"]) == (1000, 910, "II")
        assert (record["width"], record["epochs"], record["trained_on"]) == (8, 30, 12001)

    def test_without_a_defense_there_is_only_before(self) -> None:
        (record,) = beside(ours("blend"))
        assert (record["paper_utility_before"], record["paper_asr_before"]) == ("84.50", "99.90")
        assert record["paper_table"] == "II VII"
        assert {name for name in COLUMNS if "after" in name and record[name] is not None} == set()

    @pytest.mark.parametrize(
        ("change", "count"),
        [({}, 1), ({"data": "gtsrb"}, 0), ({"model": "vgg19_bn"}, 0), ({"data": "cifar100"}, 1), ({"status": "failed"}, 0)],
    )
    def test_data_and_model_must_be_the_same(self, change: dict[str, Any], count: int) -> None:
        assert len(beside(ours("blend", "abl", **change))) == count

    @pytest.mark.parametrize(
        ("rate", "published", "accuracy"),
        [
            (0.0, 0.0, "86.04"),
            (0.01, 0.05, "85.72"),
            (0.05, 0.05, "85.72"),
            (0.075, 0.05, "85.72"),
            (0.11, 0.1, "85.82"),
            (0.125, 0.1, "85.82"),
            (0.126, 0.15, "85.38"),
            (0.5, 0.2, "82.20"),
        ],
    )
    def test_the_nearest_rate_and_no_poison_only_beside_none(self, rate: float, published: float, accuracy: str) -> None:
        (record,) = beside(ours({"name": "badnets", "rate": rate}, {"name": "advrbd", "relabel": False}))
        assert (record["rate"], record["paper_rate"], record["paper_utility_after"]) == (rate, published, accuracy)
        # of the rates of Table V only these are published without a defense
        assert (record["paper_utility_before"] is not None) == (published in (0.0, 0.05))

    def test_fields_that_the_published_defense_must_have(self) -> None:
        found = beside(*(ours("sig", {"name": "advrbd", "relabel": relabel}) for relabel in (True, False)))
        assert [(r["defense"], r["paper_asr_after"]) for r in found] == [
            ("advrbd relabel=False", "2.64"),
            ("advrbd relabel=True", "0.22"),
        ]
        assert beside(ours("sig", "advrbd")) == []

    def test_a_remedy_of_ours_is_not_the_published_defense(self) -> None:
        kinds: list[Config] = [{"balanced": False}, {"balanced": True}, {"relearn_rate": 1.0}, {"relearn_rate": 0.1}]
        found = [bool(beside(ours("sig", {"name": "advrbd", "relabel": False, **fields}))) for fields in kinds]
        assert found == [True, False, True, False]

    def test_the_order_is_the_papers(self) -> None:
        names = [("wanet", "none"), ("badnets", "abl"), ("badnets", "clp"), ("badnets", "none")]
        found = beside(*(ours(attack, defense) for attack, defense in names))
        assert [(r["attack"], r["defense"]) for r in found] == [names[3], names[2], names[1], names[0]]

    def test_nft(self) -> None:
        (record,) = beside(ours({"name": "blend", "rate": 0.1}, "nft", model="preact_resnet18"), of=NFT)
        assert (record["paper_utility_after"], record["paper_asr_after"]) == ("93.17", "0.31")
        assert record["paper_tests_after"] is None

    def test_what_stands_alone_is_counted(self) -> None:
        rows = [ours("blend", "abl"), ours("blend"), ours("blend", "nft"), ours("blendd")]
        rows += [ours("blendd", "abl", status="skipped")]
        found = compare(to_table(rows), ADVRBD)
        assert (len(found.records), found.unpublished, len(found.lacking), found.published) == (2, 2, 335, 337)
        assert all(record["n"] == 0 for record in found.lacking)
        # the victim's number is shown beside every defense on it
        assert len(compare(to_table(rows[:1]), ADVRBD).lacking) == 335


class TestSweeps:
    def test_they_are_the_papers_tables_on_cifar10(self) -> None:
        """Every experiment is published but the victims of other rates and models without a defense, and all that is published
        for CIFAR-10 is run but SCAn and what TaCT's source class is too small for: 0.15 and 0.2, and 0.1 not quite."""
        published, run = Published(ADVRBD), set()
        for name in ("tables", "rates", "models"):
            configs = [cell.experiment.config() for cell in expand(read_sweep(f"sweeps/advrbd_{name}.py"))]
            assert {config["seed"] for config in configs} == {0, 1, 2}
            for config in configs:
                cell = published.beside(config)
                attack, rate = config["attack"]["name"], config["attack"]["rate"]
                if cell is not None and cell.rate == (0.1 if (attack, rate) == ("tact", 0.095) else rate):
                    run.add(id(cell))
                else:
                    assert name != "tables"
                    assert config["defense"]["name"] == "none"
        wanted = [cell for cell in published.cells if cell.data == "cifar10" and cell.defense != "scan_ft"]
        left = [(cell.attack, cell.rate, cell.table) for cell in wanted if id(cell) not in run]
        assert left == [("tact", 0.15, "V"), ("tact", 0.2, "V")]

    def test_another_data_set_by_overrides(self) -> None:
        words = ["task.data=cifar100", "attack.preset=advrbd", 'attack=["blend","wanet"]']
        sweep = read_sweep("sweeps/advrbd_tables.py")
        for path, value in parse(words):
            sweep = sweep.with_override(path, value)
        configs = [cell.experiment.config() for cell in expand(sweep)]
        assert len(configs) == 2 * 9 * 3
        assert {(c["task"]["data"]["name"], c["attack"]["target"], c["attack"]["rate"]) for c in configs} == {
            ("cifar100", 1, 0.05)
        }


class TestOutsideTarget:
    def test_mean_and_spread_by_hand(self) -> None:
        rows = [
            ours("blend", "abl", seed=0, utility_after=0.80, target_utility_after=0.50),
            ours("blend", "abl", seed=1, utility_after=0.74, target_utility_after=0.20),
            ours("blend", "abl", seed=2, utility_after=0.77, target_utility_after=0.35),
        ]
        # (8000 - 500) / 9000, (7400 - 200) / 9000 and (7700 - 350) / 9000
        assert outside_target(to_table(rows)) == pytest.approx([7500 / 9000, 7200 / 9000, 7350 / 9000], abs=1e-12)
        (record,) = beside(*rows)
        assert record[OUTSIDE] == pytest.approx(7350 / 9000, abs=1e-12)
        assert record[f"{OUTSIDE}_spread"] == pytest.approx(150 / 9000, abs=1e-12)

    def test_a_model_that_never_predicts_the_target_class(self) -> None:
        """Nine classes right, the tenth never: 90 % on all, 100 % outside."""
        row = ours("blend", "abl", utility_after=0.9, target_utility_after=0.0)
        assert outside_target(to_table([row])) == pytest.approx([1.0], abs=1e-12)

    def test_an_attack_that_counts_one_source_class(self) -> None:
        tact = ours({"name": "tact", "source": 0}, "abl", triggered_tests=1000, utility_after=0.8, target_utility_after=0.5)
        assert outside_target(to_table([tact])) == [None]
        other = ours("blend", target_utility_after=0.8, triggered_tests=9100)
        # the other attack tells that 900 of the 10000 are of the target class: (8000 - 450) / 9100
        assert outside_target(to_table([tact, other]))[0] == pytest.approx(7550 / 9100, abs=1e-12)
        elsewhere = [ours({"name": "blend", "target": 2}), ours("blend", data="cifar100")]
        assert outside_target(to_table([tact, *elsewhere]))[0] is None

    @pytest.mark.parametrize("name", ["target_utility_after", "utility_after"])
    def test_what_was_not_measured(self, name: str) -> None:
        values: dict[str, Any] = {"target_utility_after": 0.5, name: float("nan")}
        row = ours("blend", "abl", **values)
        assert outside_target(to_table([row])) == [None]

    def test_no_sample_outside(self) -> None:
        assert outside_target(to_table([ours("blend", "abl", target_utility_after=0.5, triggered_tests=0)])) == [None]


TEXT = """\
AdvrBD: How to Train a Backdoor-Robust Model on a Poisoned Dataset without Auxiliary Data? (arXiv 2405.12719v1), Tables II to VII; the paper's numbers are as printed
cifar10/resnet18 width=8; percent; tests: clean, triggered

attack  defense  n  rate  paper's rate  accuracy before  paper's accuracy before  accuracy after  outside the target  paper's accuracy after   ASR before  paper's ASR before    ASR after  paper's ASR after        tests
------  -------  -  ----  ------------  ---------------  -----------------------  --------------  ------------------  ----------------------  -----------  ------------------  -----------  -----------------  -----------
blend   none     2  0.05          0.05      75.0 / 75.0                    84.50                                                              99.0 / 99.0               99.90                                  10000, 9000
blend   abl      2  0.05          0.05      75.0 / 75.0                    84.50     70.0 / 72.0         72.2 / 74.4                   82.20  99.0 / 99.0               99.90  25.0 / 75.0               5.71  10000, 9000

fewer than 3 victims: their values, victims apart by /, seeds of the defense by a comma
fewest triggered tests: 9000; there an ASR of 0 means 0.0 to 0.0 %, one of 50 means 49.0 to 51.0 % (95 %, Wilson)
cifar10/resnet18 width=8: 30 epochs on 12001 training samples of 50000 published, width 8 of 64 published
cifar10: the paper's numbers fit fractions of 1000 tests before a defense and of 910 after it, those outside the target class, as ours under 'outside the target'
the paper gives no seeds and no spread; its target class is 1
its PhysicalBA transforms clean images too, ours the poisoned ones alone, whose black edges help to tell them
attacks are matched by name and rate, not by their other fields
its pictures are Hello Kitty and Firefox, ours are drawn unless a file is given
its ASR before counts samples of the target class too, and TaCT's counts every class, ours only the source class
2 of our 3 experiments are in the paper; 335 of the paper's 337 are not among ours; --all shows them
not shown: 1 failed; their reasons: --sql "SELECT key, status, error FROM rows"
""".rstrip()  # noqa: E501


class TestRender:
    @pytest.fixture
    def rows(self) -> pa.Table:
        scores = {"utility_before": 0.75, "asr_before": 0.99, "target_utility_after": 0.5}
        made = [ours("blend", "abl", s, **scores, utility_after=0.7 + s / 50, asr_after=0.25 + s / 2) for s in (0, 1)]
        made += [ours("blend", "none", s, utility_before=0.75, asr_before=0.99) for s in (0, 1)]
        return to_table([*made, ours("blend", "nft"), ours("sig", "abl", status="failed")])

    def test_text(self, rows: pa.Table) -> None:
        assert render(rows, ADVRBD) == TEXT

    def test_markdown_is_a_github_table(self, rows: pa.Table) -> None:
        lines = [line for line in render(rows, ADVRBD, form="markdown").splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        plain = [line.split("  ") for line in TEXT.splitlines()[3:7]]
        assert [[c for c in line if c] for line in cells[2:]] == [[c.strip() for c in line if c.strip()] for line in plain[2:]]
        assert cells[0][:5] == ["attack", "defense", "n", "rate", "paper's rate"]
        assert len(set(cells[0])) == len(cells[0])

    def test_csv_is_of_one_unit(self, rows: pa.Table) -> None:
        first, second = csv.DictReader(io.StringIO(render(rows, ADVRBD, form="csv")))
        assert tuple(first) == COLUMNS
        assert (first["paper_utility_before"], first["paper_utility_after"], first[OUTSIDE]) == ("0.845", "", "")
        assert (second["utility_after"], second["paper_utility_after"]) == ("0.71", "0.822")
        assert float(second[OUTSIDE]) == pytest.approx((7100 - 500) / 9000, abs=1e-12)
        assert (second["n"], second["paper_table"], second["paper_rate"]) == ("2", "II", "0.05")
        assert [second[f"paper_tests_{when}"] for when in ("before", "after")] == ["1000", "910"]

    def test_all_shows_what_is_lacking(self, rows: pa.Table) -> None:
        shown = render(rows, ADVRBD, lacking=True)
        assert "--all" not in shown
        legend = [line for line in shown.splitlines() if re.match(r"\S+ #\d+: ", line)]
        name = next(line.partition(":")[0] for line in legend if line.endswith(": relabel=false"))
        assert len(shown.splitlines()) == len(TEXT.splitlines()) + 335 + len(legend)
        line = next(line for line in shown.splitlines() if line.startswith("cifar10/mobilenet_v2") and " sig " in line)
        assert line.split() == ["cifar10/mobilenet_v2", "sig", *name.split(), "0", "0.05", "82.31", "0.00"]
        assert len(render(rows, ADVRBD, lacking=True, form="csv").splitlines()) == 1 + 337

    def test_victims_of_several_scales_get_a_column_and_a_line(self, rows: pa.Table) -> None:
        other = ours("blend", "abl", data="cifar100", clean_tests=500, triggered_tests=490, trained_on=45000)
        lines = render(pa.concat_tables([rows, to_table([other])]), ADVRBD).splitlines()
        assert lines[3].split()[0] == "victim"
        assert lines[7].split()[:2] == ["cifar100/resnet18", "width=8"]
        assert lines[7].endswith("  500, 490")
        told = "30 epochs on 45000 training samples of 50000 published, width 8 of 64 published"
        assert f"cifar100/resnet18 width=8: {told}" in lines
        assert any(line.startswith("cifar100: ") and "1000 tests before a defense and of 988 after" in line for line in lines)

    def test_nothing_in_common(self) -> None:
        text = render(to_table([ours("blend", "abl", model="vgg19_bn")]), NFT)
        told = "0 of our 1 experiments are in the paper; 189 of the paper's 189 are not among ours; --all shows them"
        assert text.splitlines()[-1] == told
        assert render(to_table([ours("blend", status="failed")]), NFT, form="csv") == ",".join(COLUMNS)

    def test_only_a_paper_that_drops_the_target_class_gets_the_column(self) -> None:
        row = ours({"name": "blend", "rate": 0.1}, "nft", model="preact_resnet18", target_utility_after=0.5)
        assert "outside the target" not in render(to_table([row]), NFT).splitlines()[3]
        assert float(next(csv.DictReader(io.StringIO(render(to_table([row]), NFT, form="csv"))))[OUTSIDE]) > 0.8


class TestCommandLine:
    @pytest.fixture
    def place(self, store: Store) -> str:
        store.put_row(ours("blend", "abl"))
        return store.uri

    def test_beside_a_paper(self, place: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["table", "--store", place, "--paper", "advrbd", "attack=blend"]) == 0
        assert "82.20" in capsys.readouterr().out
        assert main(["table", "--store", place, "--paper", "advrbd", "--all", "--csv"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1 + 1 + 335

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--paper", "nf"], "no paper named 'nf'; did you mean 'nft'?"),
            (["--paper", "nft", "--sort", "n"], "got --paper and --sort, expected one of them"),
            (["--paper", "nft", "--sql", "SELECT 1"], "got --paper and --sql, expected one of them"),
            (["--all"], "got --all without --paper"),
            (["--sql", "SELECT 1", "--sort", "n"], "got --sort and --sql, expected one of them"),
        ],
    )
    def test_a_mistake_is_told_before_anything_is_read(
        self, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["table", "--store", "/dev/null/nosuch", *words]) == 2
        assert told in capsys.readouterr().err

    def test_it_imports_no_torch(self) -> None:
        words = "import sys, bdray.report.papers.beside\n"
        words += "bdray.report.papers.ADVRBD.cells()\nprint({'torch', 'ray'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"
