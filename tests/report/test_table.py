"""Tests of the table: groups against a hand computation, labels, forms, queries, one row in words, and the picture."""

import csv
import io
import json
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bdray.experiment import Experiment
from bdray.judge.validity import Bounds, interval
from bdray.report import query, table
from bdray.report.picture import draw
from bdray.spec import BadInput
from bdray.store.row import Row, setting_of, to_table
from tests.store.test_store import NOON
from tests.tiny import quick, tiny_config


def make_row(changes: dict[str, Any] | None = None, **values: Any) -> Row:
    """The row of a tiny experiment with some fields of its dict and some columns changed."""
    experiment = Experiment.of({**tiny_config(), **(changes or {})})
    config = experiment.config()
    chosen: dict[str, Any] = {
        "key": experiment.key(),
        "setting": setting_of(experiment.identity()),
        "victim": experiment.victim_key(),
        "sweep": "s",
        "status": "done",
        "task": "image",
        "data": experiment.task.data.name,
        "model": experiment.task.model.name,
        "attack": experiment.attack.name,
        "defense": experiment.defense.name,
        "seed": experiment.seed,
        "utility_name": "accuracy",
        "utility_before": 0.9,
        "utility_after": 0.8,
        "asr_before": 1.0,
        "asr_after": 0.25,
        "seconds": 2.0,
        "time": NOON,
        "spec": json.dumps(config, sort_keys=True),
    }
    return Row(**{**chosen, **values})


def task(data: str | dict[str, Any] = "miniature", **model: Any) -> dict[str, Any]:
    """The dict of an image task."""
    return {"name": "image", "data": data, "model": {"name": "resnet18", "width": 4, **model}}


def labels(*changes: dict[str, Any]) -> list[tuple[str, ...]]:
    """The labels of one row each, in the order of the rows."""
    rows = [make_row(change, utility_after=number / 100) for number, change in enumerate(changes)]
    records = sorted(table.groups(to_table(rows)), key=lambda record: record["utility_after"])
    assert len(records) == len(rows)
    return [tuple(record[name] for name in table.LABELS) for record in records]


class TestGroups:
    def test_mean_spread_and_n_by_hand(self) -> None:
        rows = [make_row({"seed": s}, asr_after=v) for s, v in enumerate((0.1, 0.2, 0.6))]
        (record,) = table.groups(to_table(rows))
        assert record["n"] == 3
        assert record["asr_after"] == pytest.approx(0.3, abs=1e-15)
        # ((0.2)^2 + (0.1)^2 + (0.3)^2) / 2 = 0.07
        assert record["asr_after_spread"] == pytest.approx(math.sqrt(0.07), abs=1e-15)
        assert record["utility_after_spread"] == pytest.approx(0, abs=1e-15)
        assert (record["asr_after_least"], record["asr_after_most"]) == (0.1, 0.6)
        assert set(record) == {*table.COLUMNS, "counts", "values"}

    def test_many_groups_against_the_standard_library(self) -> None:
        values = {(w, s): math.sin(17 * w + s) ** 2 for w in range(1, 8) for s in range(5)}
        rows = [make_row({"task": task(width=w), "seed": s}, asr_after=v) for (w, s), v in values.items()]
        records = table.groups(to_table(rows[::-1]))
        assert [r["victim"] for r in records] == [f"miniature/resnet18 width={w}" for w in range(1, 8)]
        for width, record in enumerate(records, start=1):
            mine = [values[width, s] for s in range(5)]
            assert record["asr_after"] == pytest.approx(statistics.fmean(mine), abs=1e-14)
            assert record["asr_after_spread"] == pytest.approx(statistics.stdev(mine), abs=1e-14)

    def test_the_defense_seed_is_a_seed_too(self) -> None:
        rows = [make_row({"defense": {"name": "nft", "seed": s}}, asr_after=s / 2) for s in (0, 1)]
        (record,) = table.groups(to_table(rows))
        assert (record["n"], record["asr_after"], record["defense"]) == (2, 0.25, "nft")

    def test_seeds_of_the_defense_are_averaged_within_their_victim_first(self) -> None:
        """Three victims, of which one has three seeds of the defense and the others one: 0.3, 0.4 and 0.5."""
        seeds = [(0, 0, 0.1), (0, 1, 0.2), (0, 2, 0.6), (1, 0, 0.4), (2, 0, 0.5)]
        rows = [make_row({"seed": v, "defense": {"name": "nft", "seed": d}}, asr_after=asr) for v, d, asr in seeds]
        (record,) = table.groups(to_table(rows[::-1]))
        assert (record["n"], record["victims"], record["counts"]) == (5, 3, [3, 1, 1])
        assert record["asr_after"] == pytest.approx(0.4)
        assert record["asr_after_spread"] == pytest.approx(0.1)
        assert (record["asr_after_least"], record["asr_after_most"]) == (0.1, 0.6)
        line = table.render(to_table(rows)).splitlines()[4].split()
        assert line[2] == "3x1-3"
        assert "40.0 ± 10.0" in " ".join(line)

    def test_three_seeds_on_one_victim_are_no_three_victims(self) -> None:
        rows = [make_row({"defense": {"name": "nft", "seed": s}}, asr_after=v) for s, v in enumerate((0.1, 0.2, 0.6))]
        (record,) = table.groups(to_table(rows))
        assert (record["n"], record["victims"], record["asr_after_spread"]) == (3, 1, None)
        text = table.render(to_table(rows))
        assert text.splitlines()[4].split()[2:] == ["1x3", "90.0", "80.0", "100.0", "10.0,", "20.0,", "60.0"]
        assert "±" not in text
        assert "n: victims x seeds of the defense" in text

    def test_victims_that_did_not_plant_stand_apart(self) -> None:
        rows = [
            make_row({"seed": s}, asr_before=b, asr_after=a) for s, (b, a) in enumerate([(0.9, 0.3), (0.5, 0.1), (0.49, 0.0)])
        ]
        planted, bare = table.groups(to_table(rows))
        assert (planted["planted"], planted["n"], planted["asr_after"]) == (True, 2, pytest.approx(0.2))
        assert (bare["planted"], bare["n"], bare["asr_after"]) == (False, 1, 0.0)
        text = table.render(to_table(rows))
        assert [line.split()[2:3] for line in text.splitlines()[4:6]] == [["2"], ["1"]]
        assert [line.endswith("not planted") for line in text.splitlines()[4:6]] == [False, True]
        assert "not planted: ASR before below 50 %" in text
        assert len(table.groups(to_table(rows), Bounds(planted=0.4))) == 1
        assert len(table.groups(to_table(rows), Bounds(planted=0.95))) == 1
        lines = list(csv.DictReader(io.StringIO(table.render(to_table(rows), form="csv"))))
        assert [(line["planted"], line["n"]) for line in lines] == [("True", "2"), ("False", "1")]

    def test_a_lost_class_is_counted_and_flagged(self) -> None:
        falls = [(0.9, 0.71), (0.9, 0.7), (0.9, 0.69), (None, 0.1)]
        rows = [
            make_row({"seed": s}, target_utility_after=after, **({} if before is None else {"target_utility_before": before}))
            for s, (before, after) in enumerate(falls)
        ]
        (record,) = table.groups(to_table(rows))
        assert (record["n"], record["class_lost"], record["utility_lost"]) == (4, 1, 0)
        assert table.render(to_table(rows)).splitlines()[4].endswith("class lost 1/4")
        assert table.groups(to_table(rows), Bounds(class_budget=0.18))[0]["class_lost"] == 3
        (record,) = table.groups(to_table([make_row(utility_after=0.69)]))
        assert record["utility_lost"] == 1

    def test_a_filter_that_saw_no_two_groups_is_flagged(self) -> None:
        rows = [make_row({"seed": s}, separation=v) for s, v in enumerate((0.79, 0.8, float("nan")))]
        (record,) = table.groups(to_table(rows))
        assert (record["n"], record["unseparated"], table.flags(record)) == (3, 1, "not separated 1/3")
        text = table.render(to_table(rows))
        assert "not separated 1/3" in text
        assert "not separated: what the filter takes for poison lies less than 0.8 apart" in text
        assert "class lost:" not in text

    def test_a_field_that_came_later_is_no_difference(self) -> None:
        """The older row's spec lacks what the newer one's spells out."""
        rows = []
        for rate in (0.1, 0.2):
            row = make_row({"defense": quick("advrbd", partition_rate=rate)})
            spec = json.loads(row.spec)
            assert (spec["defense"].pop("isolate"), spec["defense"].pop("unlearn_by")) == ("argmax", "ascent")
            rows.append(replace(row, spec=json.dumps(spec)) if rate == 0.1 else row)
        assert [r["defense"] for r in table.groups(to_table(rows))] == [
            "advrbd partition_rate=0.1",
            "advrbd partition_rate=0.2",
        ]

    def test_by_the_der_a_filters_guess_is_no_cheat(self) -> None:
        rows = to_table([make_row({"defense": "advrbd"}, asr_after=0.0, separation=0.7), make_row({"defense": "clp"})])
        lines = table.render(rows, sort="-der").splitlines()
        assert [line.split()[1] for line in lines[4:6]] == ["advrbd", "clp"]
        assert "sorted by DER" not in table.render(rows, sort="-der")

    def test_intervals_by_hand(self) -> None:
        """Wilson: of 0 of 30 at most 11.35 %, of 15 of 30 from 33.15 to 66.85; Newcombe 1998 gives the first."""
        rows = to_table(
            [make_row({"seed": s}, asr_before=1.0, asr_after=v, triggered_tests=n) for s, v, n in ((0, 0.4, 30), (1, 0.6, 40))]
        )
        (record,) = table.groups(rows)
        assert record["triggered_tests"] == 30
        assert (record["asr_after_low"], record["asr_after_high"]) == (
            pytest.approx(0.3315, abs=1e-4),
            pytest.approx(0.6685, abs=1e-4),
        )
        assert (record["utility_after_low"], record["utility_after_high"]) == (None, None)
        assert interval(0.0, 30) == (0.0, pytest.approx(0.1135, abs=1e-4))
        assert "fewest triggered tests: 30; there an ASR of 0 means 0.0 to 11.4 %" in table.render(rows)
        assert "40.0 / 60.0 [33.2, 66.8]" in table.render(rows, intervals=True)

    def test_one_seed_has_no_spread(self) -> None:
        (record,) = table.groups(to_table([make_row()]))
        assert (record["n"], record["asr_after"], record["asr_after_spread"]) == (1, 0.25, None)
        assert "±" not in table.render(to_table([make_row()])).partition("\n")[2]

    def test_what_was_not_measured_is_left_out_of_the_mean(self) -> None:
        rows = [make_row({"seed": s}, flag_recall=v) for s, v in enumerate((0.5, float("nan"), 0.7))]
        (record,) = table.groups(to_table(rows))
        assert record["n"] == 3
        assert record["flag_recall"] == pytest.approx(0.6)
        assert (record["flag_recall_least"], record["flag_recall_most"]) == (0.5, 0.7)
        assert record["flag_recall_spread"] is None
        (record,) = table.groups(to_table(rows[:2]))
        assert (record["flag_recall"], record["flag_recall_spread"]) == (0.5, None)
        assert (record["false_alarm"], record["false_alarm_spread"]) == (None, None)

    def test_only_done_rows_are_averaged_the_others_counted_below(self) -> None:
        rows = [
            make_row(),
            make_row({"seed": 1}, status="failed", asr_after=0.9),
            make_row({"seed": 2}, status="skipped", error="no sense"),
            make_row({"seed": 3}, status="skipped"),
            make_row({"seed": 4}, status="lost", error="its worker died 3 times"),
        ]
        (record,) = table.groups(to_table(rows))
        assert (record["n"], record["asr_after"]) == (1, 0.25)
        last = table.render(to_table(rows)).splitlines()[-1]
        assert "2 skipped, 1 failed, 1 lost" in last
        assert "--sql" in last
        assert "not shown" not in table.render(to_table(rows[:1]))

    def test_no_done_row_at_all(self) -> None:
        rows = to_table([make_row(status="failed")])
        assert table.render(rows).splitlines()[0] == "no finished row"
        assert "1 failed" in table.render(rows)
        assert table.render(rows, form="csv") == ",".join((*table.COLUMNS, "flags"))


class TestLabels:
    def test_names_alone_where_they_suffice(self) -> None:
        assert labels({}, {"attack": "sig"}, {"defense": "nft"}) == [
            ("miniature/resnet18 width=4", "blend", "none"),
            ("miniature/resnet18 width=4", "sig", "none"),
            ("miniature/resnet18 width=4", "blend", "nft"),
        ]

    def test_exactly_the_fields_in_which_those_of_one_name_differ(self) -> None:
        nft = {"name": "nft", "steps": 10}
        found = labels(
            {"defense": {**nft, "lr": 0.1}},
            {"defense": {**nft, "lr": 0.2, "bn": "eval"}},
            {"defense": {"name": "fine_tuning", "lr": 0.3}},
            {"attack": {"name": "sig", "rate": 0.01}},
        )
        assert [(attack, defense) for _, attack, defense in found] == [
            ("blend", "nft bn=train lr=0.1"),
            ("blend", "nft bn=eval lr=0.2"),
            ("blend", "fine_tuning"),
            ("sig", "none"),
        ]

    def test_seeds_are_no_field(self) -> None:
        found = labels(*({"seed": s, "defense": {"name": "nft", "lr": 0.1 + s, "seed": s}} for s in (1, 2)))
        assert [defense for _, _, defense in found] == ["nft lr=1.1", "nft lr=2.1"]

    def test_victims_differ_in_data_model_and_training(self) -> None:
        found = labels(
            {"task": task()},
            {"task": task(width=8)},
            {"task": task({"name": "miniature", "per_class": 41})},
            {"task": task({"name": "miniature", "per_class": 41}), "training": {"epochs": 3, "batch": 32}},
            {"task": task("digits")},
            {"task": {"name": "image", "data": "miniature", "model": {"name": "vgg19_bn", "width": 4}}},
        )
        victims = [victim for victim, _, _ in found]
        assert len(set(victims)) == 6
        # width 8 stands alone under its name: nothing else of it need be said
        assert victims[1] == "miniature/resnet18 width=8"
        assert victims[3] == "miniature/resnet18 width=4 data.per_class=41 training.epochs=3"
        assert victims[5] == "miniature/vgg19_bn width=4"

    def test_close_numbers_are_told_apart(self) -> None:
        found = labels(*({"defense": {"name": "nft", "lr": lr}} for lr in (0.123456, 0.123467, 0.5)))
        assert [defense for _, _, defense in found] == ["nft lr=0.12346", "nft lr=0.12347", "nft lr=0.5"]

    def test_a_field_that_rows_of_an_older_version_lack(self) -> None:
        rows = [make_row(utility_after=0.1), make_row({"seed": 1}, utility_after=0.2)]
        spec = json.loads(rows[1].spec)
        del spec["attack"]["rate"]
        older = make_row({"seed": 1}, utility_after=0.2, setting="older", spec=json.dumps(spec))
        found = {r["utility_after"]: r["attack"] for r in table.groups(to_table([rows[0], older]))}
        assert found == {0.1: "blend rate=0.1", 0.2: "blend"}


class TestOnly:
    def test_by_paths_of_the_spec(self) -> None:
        rows = to_table([make_row({"seed": s, "attack": {"name": "sig", "rate": r}}) for s in (0, 1) for r in (0.05, 0.1)])
        assert len(table.only(rows, [])) == 4
        assert len(table.only(rows, [("attack", "sig"), ("task.data", "miniature")])) == 4
        assert table.only(rows, [("attack.rate", 0.05), ("seed", 1)])["seed"].to_pylist() == [1]
        assert len(table.only(rows, [("task.model.width", 4)])) == 4

    def test_what_no_row_has(self) -> None:
        rows = to_table([make_row()])
        with pytest.raises(BadInput, match=r"no field of these rows named 'atack'; did you mean 'attack'\?"):
            table.only(rows, [("atack", "blend")])
        with pytest.raises(BadInput, match="no row has attack=sig and seed=0; leave some of them out"):
            table.only(rows, [("attack", "sig"), ("seed", 0)])


class TestRender:
    @pytest.fixture
    def rows(self) -> pa.Table:
        """Two attacks and two defenses, two seeds; one score of one of them was not measured."""
        made = []
        for number, (attack, defense) in enumerate([("blend", "none"), ("blend", "nft"), ("sig", "none"), ("sig", "nft")]):
            for seed in (0, 1):
                change = {"attack": attack, "defense": defense, "seed": seed}
                recall = float("nan") if number in (0, 3) else number / 10
                made.append(make_row(change, asr_after=number / 4 + seed / 10, flag_recall=recall))
        return to_table(made)

    def test_text(self, rows: pa.Table) -> None:
        lines = table.render(rows).splitlines()
        assert lines[0] == "miniature/resnet18 width=4; percent; utility is accuracy"
        heads = [
            "attack",
            "defense",
            "n",
            "utility before",
            "utility after",
            "ASR before",
            "ASR after",
            "target class",
            "flags",
        ]
        assert re.split("  +", lines[2]) == heads
        assert " ".join(lines[4].split()) == "blend nft 2 90.0 / 90.0 80.0 / 80.0 100.0 / 100.0 25.0 / 35.0"
        assert len(lines) == 10
        assert lines[9] == "fewer than 3 victims: their values, victims apart by /, seeds of the defense by a comma"

    def test_several_victims_get_a_column(self, rows: pa.Table) -> None:
        more = pa.concat_tables([rows, to_table([make_row({"task": task("digits")})])])
        lines = table.render(more).splitlines()
        assert lines[2].split()[:3] == ["victim", "attack", "defense"]
        assert [line.split("  ")[0] for line in lines[4:9]] == ["digits/resnet18 width=4"] + ["miniature/resnet18 width=4"] * 4

    @pytest.mark.parametrize(
        ("sort", "order"),
        [
            ("asr_after", [0, 1, 2, 3]),
            ("-asr_after", [3, 2, 1, 0]),
            ("flag_recall", [1, 2, 0, 3]),
            ("-flag_recall", [2, 1, 0, 3]),
            ("defense", [1, 3, 0, 2]),
            ("-n", [1, 0, 3, 2]),
            ("seconds", [1, 0, 3, 2]),
        ],
    )
    def test_sort_with_what_was_not_measured_last(self, rows: pa.Table, sort: str, order: list[int]) -> None:
        """What is equal stays in the order of the labels."""
        names = [("blend", "none"), ("blend", "nft"), ("sig", "none"), ("sig", "nft")]
        lines = list(csv.DictReader(io.StringIO(table.render(rows, sort, "csv"))))
        assert [names.index((line["attack"], line["defense"])) for line in lines] == order

    def test_sort_by_no_column(self, rows: pa.Table) -> None:
        with pytest.raises(BadInput, match=r"no column named 'asr_aftr'; did you mean 'asr_after'\?"):
            table.render(rows, "-asr_aftr")

    def test_csv_keeps_every_digit(self, rows: pa.Table) -> None:
        lines = list(csv.DictReader(io.StringIO(table.render(rows, form="csv"))))
        for line, record in zip(lines, table.groups(rows), strict=True):
            told = {name: text for name, text in line.items() if name not in (*table.LABELS, "flags")}
            parsed = {name: {"": None, "True": True, "False": False}.get(text, text) for name, text in told.items()}
            parsed = {name: float(value) if isinstance(value, str) else value for name, value in parsed.items()}
            assert parsed == {name: record[name] for name in parsed}
            assert {name: line[name] for name in table.LABELS} == {name: record[name] for name in table.LABELS}

    def test_markdown_is_a_github_table(self, rows: pa.Table) -> None:
        lines = [line for line in table.render(rows, form="markdown").splitlines() if line.startswith("|")]
        assert len(lines) == 6
        assert {line.count("|") for line in lines} == {10}
        assert table.render(rows, form="markdown").splitlines()[-1].startswith("- fewer than 3 victims")
        assert all(set(cell) <= set(":- ") and "-" in cell for cell in lines[1].strip("|").split("|"))
        assert "0.3" not in lines[2]

    def test_an_older_row_without_seconds(self) -> None:
        rows = to_table([make_row(seconds=float("nan"), utility_before=float("nan"))])
        assert table.render(rows).splitlines()[-1].split() == ["blend", "none", "1", "80.0", "100.0", "25.0"]

    @pytest.fixture
    def several(self) -> pa.Table:
        """Three settings of one defense, of which one has no field of its own to show, and victims that are as different."""
        nft = {"name": "nft", "bn": "eval", "steps": 7}
        defenses = [{**nft, "lr": 10.5, "alpha": 0.2}, {**nft, "lr": 2.5, "alpha": 0.2}, "none"]
        return to_table(
            [
                make_row({"defense": d, "seed": s, "task": task(width=w), "training": {"epochs": e, "batch": 32}})
                for d in defenses
                for s in (0, 1)
                for w, e in ((4, 1), (4, 2), (8, 1))
            ]
        )

    def test_settings_that_differ_are_numbered_and_told_below(self, several: pa.Table) -> None:
        text = table.render(several)
        lines = text.splitlines()
        assert [line.split("  ")[0] for line in lines[4:13]] == [
            *["miniature/resnet18 width=4 #1"] * 3,
            *["miniature/resnet18 width=4 #2"] * 3,
            *["miniature/resnet18 width=8"] * 3,
        ]
        assert "\nnft #1: lr=2.5\nnft #2: lr=10.5\n" in text
        assert "\nminiature/resnet18 width=4 #2: training.epochs=2\n" in text
        assert text.count("lr=") == 2
        assert "lr=2.5" in table.render(several, form="csv")

    def test_a_number_stays_with_its_setting(self, several: pa.Table) -> None:
        """However it is sorted; and the legend has what is shown, no more."""
        rows = table.only(several, [("task.model.width", 8)])
        for sort in (None, "defense", "-defense", "-asr_after"):
            assert "nft #1: lr=2.5\nnft #2: lr=10.5" in table.render(rows, sort)
        assert "#" not in table.render(rows, columns=["attack", "n"])

    @pytest.mark.parametrize("columns", [20, 80, 120, 160])
    def test_nothing_is_wider_than_the_terminal(self, several: pa.Table, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
        plain = table.render(several)
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = table.render(several)
        assert max(map(len, shown.splitlines())) <= columns
        assert shown.count("80.0 / 80.0") == plain.count("80.0 / 80.0") == 9
        for form in ("csv", "markdown", "latex"):
            text = table.render(several, form=form)
            monkeypatch.delenv("COLUMNS")
            assert table.render(several, form=form) == text
            monkeypatch.setenv("COLUMNS", str(columns))

    def test_columns_by_name(self, rows: pa.Table) -> None:
        lines = table.render(rows, columns=["defense", "asr_after", "asr_after_least", "planted"]).splitlines()
        assert re.split("  +", lines[2]) == ["defense", "ASR after", "asr after least", "planted"]
        assert lines[4].split() == ["nft", "25.0", "/", "35.0", "25.0", "yes"]
        assert table.render(rows, form="csv", columns=["n", "attack"]).splitlines()[:2] == ["n,attack", "2,blend"]
        with pytest.raises(BadInput, match=r"no column named 'asr_aftr'; did you mean 'asr_after'\?"):
            table.render(rows, columns=["asr_aftr"])

    def test_wide_has_all_that_was_measured(self, rows: pa.Table) -> None:
        heads = re.split("  +", table.render(rows, wide=True).splitlines()[2])
        assert heads[-3:] == ["flag recall", "seconds", "flags"]
        assert "DER" in heads
        assert "held utility" not in heads
        assert "DER" in table.render(rows, "der").splitlines()[2]

    def test_no_two_heads_are_alike(self) -> None:
        heads = [table.head(name) for name in (*table.COLUMNS, "flags")]
        assert len(heads) == len(set(heads))

    def test_matrix(self, rows: pa.Table) -> None:
        more = to_table([make_row({"attack": "sig", "seed": 5}, asr_before=0.1, asr_after=0.1)])
        lost = to_table([make_row({"attack": "tact"}, target_utility_before=0.9, target_utility_after=0.0, asr_after=0.0)])
        text = table.matrix(pa.concat_tables([rows, more, lost]), "asr_after")
        lines = text.splitlines()
        assert lines[0] == "ASR after by attack and defense; miniature/resnet18 width=4; percent; utility is accuracy"
        assert [re.split("  +", line) for line in lines[2:8] if "-" not in line] == [
            ["attack", "flags", "nft", "none"],
            ["blend", "25.0 / 35.0", "0.0 / 10.0"],
            ["sig", "75.0 / 85.0", "50.0 / 60.0"],
            ["sig", "not planted", "10.0"],
            ["tact", "0.0 *"],
        ]
        assert "\n*: the target class, or the utility, was lost" in text
        assert "*" not in table.matrix(rows, "asr_after")
        assert table.matrix(rows, "n", "csv").splitlines() == ["attack,nft,none", "blend,2,2", "sig,2,2"]
        assert table.matrix(rows, "asr_after", "latex").count(r" \\") == 3
        with pytest.raises(BadInput, match="no value named 'asr'; "):
            table.matrix(rows, "asr")

    def test_flags_are_a_column(self) -> None:
        rows = to_table([make_row(target_utility_before=0.9, target_utility_after=0.0, asr_before=0.1)])
        assert table.render(rows).splitlines()[4].endswith("  not planted, class lost")
        assert table.render(rows, form="csv").splitlines()[1].endswith(',"not planted, class lost"')


class TestQuery:
    @pytest.fixture(autouse=True)
    def here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In this process: tests/report/test_query.py has the other one."""

        def select(rows: pa.Table, sql: str) -> pa.Table:
            schema, batches = query._ask(rows, sql)
            return pa.Table.from_batches(list(batches), schema)

        monkeypatch.setattr(table, "select", select)

    @pytest.fixture
    def rows(self) -> pa.Table:
        """Two rows; the keys look like numbers, the error like a table."""
        odd = {"error": "a | b\nsecond line", "status": "failed"}
        return to_table([make_row(key="0123e45678901234"), make_row({"seed": 1}, key="1234567890123456", **odd)])

    def test_select(self, rows: pa.Table) -> None:
        answer = table.query(rows, "SELECT attack, avg(asr_after) AS mean, count(*) AS n FROM rows GROUP BY 1", "csv")
        assert answer == "attack,mean,n\nblend,0.25,2"

    def test_what_speaks_against_a_row(self) -> None:
        changes: list[dict[str, Any]] = [{}, {"asr_before": 0.1}, {"target_utility_before": 0.9, "target_utility_after": 0.0}]
        rows = to_table([make_row({"seed": s}, **values) for s, values in enumerate([*changes, {"asr_before": float("nan")}])])
        answer = table.query(rows, "SELECT planted, class_lost, utility_lost FROM rows ORDER BY seed", "csv")
        assert answer.splitlines()[1:] == ["True,,False", "False,,False", "True,True,False", ",,False"]
        few = table.query(rows, "SELECT count(*) AS n FROM rows WHERE planted", "csv", Bounds(planted=0.05))
        assert few.splitlines() == ["n", "3"]

    def test_every_column_can_be_shown(self, rows: pa.Table) -> None:
        for form in ("text", "markdown", "csv"):
            assert "2026-03-01 12:00:00.123456" in table.query(rows, "SELECT * FROM rows", form)

    @pytest.mark.parametrize("form", ["text", "markdown", "csv"])
    def test_a_key_is_a_text(self, rows: pa.Table, form: str) -> None:
        answer = table.query(rows, "SELECT key FROM rows", form)
        assert "0123e45678901234" in answer
        assert "1234567890123456" in answer

    def test_markdown_holds_bars_and_line_breaks(self, rows: pa.Table) -> None:
        lines = table.query(rows, "SELECT key, error FROM rows", "markdown").splitlines()
        assert len(lines) == 4
        assert r"a \| b second line" in lines[3]

    def test_no_rows_and_nulls(self, rows: pa.Table) -> None:
        assert table.query(rows, "SELECT key FROM rows WHERE seed = 9", "csv") == "key"
        assert "key" in table.query(rows, "SELECT key FROM rows WHERE seed = 9")
        assert table.query(rows, "SELECT NULL AS x, 'nan'::float AS y", "csv") == "x,y\n,nan"
        assert table.query(rows, "SELECT seed, seed FROM rows ORDER BY 1", "csv").splitlines()[1:] == ["0,0", "1,1"]

    @pytest.mark.parametrize(
        ("sql", "part"),
        [
            ("SELEC 1", "syntax error"),
            ("SELECT asr FROM rows", '"asr_after"'),
            ("SELECT * FROM nowhere", "nowhere"),
            ("SELECT key::int FROM rows", "0123e45678901234"),
            ("", "expected one SELECT over `rows`"),
            ("SELECT 1; DROP TABLE rows", "rows"),
        ],
    )
    def test_an_error_is_one_sentence(self, rows: pa.Table, sql: str, part: str) -> None:
        with pytest.raises(BadInput) as caught:
            table.query(rows, sql)
        text = str(caught.value)
        assert part in text
        assert "\n" not in text
        assert "LINE" not in text
        assert "^" not in text

    def test_what_python_cannot_hold_is_told(self, rows: pa.Table) -> None:
        with pytest.raises(BadInput, match=r"the column 'then' of the answer: .*write then::text in the query"):
            table.query(rows, "SELECT date '290000-01-01' AS then")


class TestDescribe:
    def test_a_done_row(self) -> None:
        row = make_row(clean_tests=10, triggered_tests=9, poisoned=3, victim_seconds=5.0, peak_memory=2**20, device="cpu x1")
        text = table.describe(row)
        assert "utility              90.0   80.0" in text
        assert "ASR                 100.0   25.0" in text
        assert "n: 10 clean and 9 triggered tests" in text
        assert f"row {row.key}, victim {row.victim}" in text
        assert "stored before" not in text

    @pytest.mark.parametrize(("separation", "said"), [(0.0, True), (0.79, True), (0.8, False), (float("nan"), False)])
    def test_a_filter_that_saw_no_two_groups_says_so(self, separation: float, said: bool) -> None:
        assert ("not separated" in table.describe(make_row(separation=separation))) == said

    def test_beside_the_stored_one(self) -> None:
        (before,) = to_table([make_row(asr_after=0.2)]).to_pylist()
        text = table.describe(make_row(asr_after=0.25), before)
        assert text.endswith("stored before: utility 80.0, ASR 20.0; largest difference 5.00 points")

    def test_a_skipped_row(self) -> None:
        text = table.describe(make_row(status="skipped", error="it makes no sense"))
        assert "skipped it makes no sense" in text
        assert "before" not in text


class TestPicture:
    @pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("new/b.svg", b"<?xml"), ("c.PDF", b"%PDF")])
    def test_it_is_written(self, tmp_path: Path, name: str, start: bytes) -> None:
        rows = [make_row({"attack": a, "defense": d}) for a in ("blend", "sig") for d in ("none", "nft")]
        rows += [make_row(status="failed"), make_row({"seed": 5}, asr_after=float("nan"))]
        rows += [make_row({"seed": 6}, utility_after=float("nan"))]
        draw(to_table(rows), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)

    def test_twenty_thousand_points_in_seconds(self, tmp_path: Path) -> None:
        rows = to_table([make_row({"defense": d}) for d in ("none", "nft")])
        draw(pa.concat_tables([rows] * 10_000), tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 1000

    @pytest.mark.parametrize("name", ["a.xyz", "a", ".png", "a.csv"])
    def test_no_such_form(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(BadInput, match=r"\.png"):
            draw(to_table([make_row()]), tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_no_finished_row(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no finished row to draw"):
            draw(to_table([make_row(status="failed")]), tmp_path / "a.png")

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(BadInput, match=r"cannot write .*file"):
            draw(to_table([make_row()]), tmp_path / "file" / "a.png")
        with pytest.raises(BadInput, match=r"cannot write .*: embedded null byte"):
            draw(to_table([make_row()]), tmp_path / "a\0.png")


def test_clean_data_is_labelled_by_what_holds() -> None:
    """A share where no shots are asked for, else so many a class; neither where all settings agree."""
    defenses = [{"name": "nft", "clean": 0.01}, {"name": "nft", "clean": 0.05}, {"name": "nft", "shots": 1}]
    found = [defense for _, _, defense in labels(*({"defense": defense} for defense in defenses))]
    assert found == ["nft clean=1%", "nft clean=5%", "nft clean=1/class"]
    assert labels({"defense": "nft"})[0][2] == "nft"
