"""The figures of AdvrBD: their numbers by hand, what is drawn of them, and what cannot be drawn."""

import csv
import io
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from bdray.__main__ import main
from bdray.experiment import Experiment
from bdray.report.figures import Figure, figure, names
from bdray.report.figures._groups import AT_MOST
from bdray.report.figures.divergences import auroc
from bdray.run import run
from bdray.spec import BadInput
from bdray.store.curve import CURVES
from bdray.store.row import Row
from bdray.store.store import Store
from tests.report.test_table import make_row
from tests.tiny import quick, tiny

NAN = float("nan")


def put(
    store: Store, attack: Any = "blend", seed: int = 0, own: int = 0, scores: tuple[float, float] = (0.8, 0.2), **fields: Any
) -> Row:
    """A row of AdvrBD with the victim's and its own seed, this utility and ASR, and fields of the defense."""
    changes = {"attack": attack, "seed": seed, "defense": quick("advrbd", seed=own, **fields)}
    row = make_row(changes, utility_after=scores[0], asr_after=scores[1], sweep="s")
    store.put_row(row)
    return row


def put_divergences(store: Store, row: Row, samples: list[tuple[float, int, bool]]) -> None:
    """Divergence, label and whether it is poisoned, of each sample."""
    moved, given, poisoned = zip(*samples, strict=True)
    columns = {"sample": range(len(samples)), "divergence": pa.array(moved, pa.float32()), "taken": [0] * len(samples)}
    more = {"label": given, "truth_poisoned": poisoned, "truth_covered": [False] * len(samples)}
    store.put_table("divergences", row.key, pa.table({**columns, **more}))


def put_curve(store: Store, row: Row, points: list[tuple[str, int, str, float]]) -> None:
    """Whose, step, metric and value."""
    names = ("of", "step", "metric", "value")
    records = [{"key": row.key, **dict(zip(names, point, strict=True))} for point in points]
    store.put_table("curves", row.key, pa.Table.from_pylist(records, CURVES))


def of(kind: str, store: Store) -> Figure:
    return figure(kind, store.rows(), store)


def axes_of(found: Figure) -> list[Any]:
    return [axis for axis in found.sketch().axes if axis.get_visible()]


class TestAuroc:
    def test_by_hand(self) -> None:
        assert auroc([1, 2], [2, 3]) == 3.5 / 4  # 1 < 2, 1 < 3, 2 = 2, 2 < 3
        assert auroc([1, 2], [3, 4]) == 1
        assert auroc([3, 4], [1, 2]) == 0
        assert auroc([5, 5], [5, 5, 5]) == 0.5
        assert auroc([], [1]) is None
        assert auroc([1], []) is None

    def test_against_all_pairs(self) -> None:
        draw = random.Random(0)
        low, high = [draw.randint(0, 6) for _ in range(40)], [draw.randint(2, 9) for _ in range(70)]
        pairs = [1.0 if a < b else 0.5 if a == b else 0.0 for a, b in itertools.product(low, high)]
        assert auroc(low, high) == pytest.approx(sum(pairs) / len(pairs), abs=1e-15)


SAMPLES = [(0.25, 0, True), (0.5, 0, True), (0.5, 0, False), (1.0, 1, False), (2.0, 1, False), (0.125, 2, False)]
"""Two poisoned with the target class 0, of the clean ones the first bears it, too."""


class TestDivergences:
    def test_by_hand(self, store: Store) -> None:
        put_divergences(store, put(store), SAMPLES)
        put_divergences(store, put(store, seed=1), [(d * (1 if bad else 8), y, bad) for d, y, bad in SAMPLES])
        put_divergences(store, put(store, attack="badnets"), SAMPLES[:3])
        found = of("divergences", store)
        first, *blends = found.records
        assert (first["group"], first["seed"], first["auroc"]) == ("badnets", 0, 0.75)
        assert [(r["group"], r["seed"], r["poisoned"], r["clean"], r["target"]) for r in blends] == [
            ("blend", 0, 2, 4, 1),
            ("blend", 1, 2, 4, 1),
        ]
        # 0.25 lies below three of the four clean ones, 0.5 below two, and is as large as a third.
        assert [r["auroc"] for r in blends] == [pytest.approx((3 + 2.5) / 8), 1.0]
        assert [r["target_auroc"] for r in blends] == [0.75, 1.0]
        assert [blends[0][f"{name}_median"] for name in ("poisoned", "clean", "target")] == [0.375, 0.75, 0.5]
        assert found.notes[0] == "badnets: AUROC 0.750 (n = 1), in the target class 0.750 (n = 1)"
        assert found.notes[1].startswith(f"blend: AUROC {5.5 / 8:.3f} / 1.000 (n = 2)")

    def test_picture(self, store: Store) -> None:
        """A panel an attack, its seeds together; each kind of samples adds up to all of it, what has not moved included."""
        for seed in (0, 1):
            put_divergences(store, put(store, seed=seed), [*SAMPLES, (0.0, 1, False), (-1e-9, 1, False)])
        put_divergences(store, put(store, attack="badnets"), SAMPLES)
        badnets, blend = axes_of(of("divergences", store))
        assert "badnets" in badnets.get_title()
        assert "(n = 2)" in blend.get_title()
        filled = [patch for patch in blend.patches if patch.get_fill()]
        assert len(filled) == 2
        for patch in blend.patches:
            assert patch.get_xy()[:, 1].max() <= 100
            assert patch.get_xy()[:, 0].min() == pytest.approx(-8)
        (poisoned, clean) = (patch.get_xy()[:, 1] for patch in filled)
        assert poisoned.max() == pytest.approx(50)  # of 0.25, 0.25, 0.5 and 0.5
        assert clean.max() == pytest.approx(100 * 4 / 12)  # of twelve, four have not moved

    def test_the_seeds_of_the_defense_are_seeds_too(self, store: Store) -> None:
        for seed, own in ((1, 0), (0, 1), (0, 0)):
            put_divergences(store, put(store, seed=seed, own=own), SAMPLES)
        found = of("divergences", store)
        assert [(r["group"], r["seed"], r["defense_seed"]) for r in found.records] == [
            ("blend", 0, 0),
            ("blend", 0, 1),
            ("blend", 1, 0),
        ]
        assert "(n = 2x1-2)" in found.notes[0]  # of two victims

    def test_no_poison(self, store: Store) -> None:
        put_divergences(store, put(store, attack={"name": "blend", "rate": 0.0}), [s for s in SAMPLES if not s[2]])
        found = of("divergences", store)
        assert (found.records[0]["poisoned"], found.records[0]["auroc"], found.records[0]["poisoned_median"]) == (0, None, None)
        assert "unknown" in found.text("text")
        assert len(axes_of(found)) == 1

    def test_rows_without_a_table_are_told(self, store: Store) -> None:
        put_divergences(store, put(store), SAMPLES)
        put(store, seed=1)
        found = of("divergences", store)
        assert len(found.records) == 1
        assert "left out: 1 rows without a table of divergences" in found.text("text")


class TestEnhancement:
    def test_by_hand(self, store: Store) -> None:
        """Two iterations; step 3 is another model, and what the defense itself reports is no truth."""
        for seed, shift in ((0, 0.0), (1, 0.2)):
            points = [("truth", step, "asr", 0.1 * step + shift) for step in range(4)]
            points += [
                ("truth", 1, "clean_precision", 0.5 + shift),
                ("truth", 2, "utility", NAN),
                ("defense", 1, "utility", 0.9),
            ]
            put_curve(store, put(store, seed=seed, iterations=2), [*points, ("truth", 1, "utility", 0.6)])
        found = of("enhancement", store)
        assert [(r["iteration"], r["n"]) for r in found.records] == [(0, 2), (1, 2), (2, 2)]
        second = found.records[1]
        assert (second["asr"], second["asr_least"], second["asr_most"]) == pytest.approx((0.2, 0.1, 0.3))
        assert (second["clean_precision"], second["utility"], second["clean_recall"]) == (pytest.approx(0.6), 0.6, None)
        assert found.records[2]["utility"] is None
        assert "20.0 [10.0, 30.0]" in found.text("text")
        (axis,) = axes_of(found)
        assert axis.get_title() == "blend (n = 2)"
        lines = {line.get_label(): line for line in axis.lines}
        assert list(lines["ASR"].get_xdata()) == [0, 1, 2]
        assert list(lines["ASR"].get_ydata()) == pytest.approx([10, 20, 30])
        assert list(lines["utility"].get_xdata()) == [1]

    def test_a_curve_of_the_defense_alone_is_none(self, store: Store) -> None:
        put_curve(store, put(store), [("defense", 1, "asr", 0.5)])
        with pytest.raises(BadInput, match="none of the 1 rows has a curve of the truth in the store"):
            of("enhancement", store)


class TestRates:
    def test_by_hand(self, store: Store) -> None:
        """The iterations go with the rate, so that an attack is one line."""
        for rate, iterations in ((0.1, 4), (0.01, 40)):
            for seed in (0, 1):
                put(store, seed=seed, scores=(0.8 - seed * rate, rate), partition_rate=rate, iterations=iterations)
        put(store, attack="badnets", scores=(0.7, NAN), partition_rate=0.1, iterations=4)
        found = of("rates", store)
        places = [(r["group"], r["rate"], r["iterations"], r["n"]) for r in found.records]
        assert places == [("badnets", 0.1, 4, 1), ("blend", 0.01, 40, 2), ("blend", 0.1, 4, 2)]
        assert found.records[0]["asr_after"] is None
        last = found.records[2]
        assert [last[f"utility_after{end}"] for end in ("", "_least", "_most")] == pytest.approx([0.75, 0.7, 0.8])
        utility, asr = axes_of(found)
        assert [line.get_label() for line in utility.lines] == ["badnets", "blend"]
        assert list(asr.lines[1].get_xdata()) == [0.01, 0.1]
        assert list(asr.lines[1].get_ydata()) == pytest.approx([1, 10])

    def test_other_fields_are_other_lines(self, store: Store) -> None:
        """At one rate two numbers of iterations: they do not go with it."""
        for rate, iterations in ((0.1, 4), (0.1, 2), (0.01, 2)):
            put(store, partition_rate=rate, iterations=iterations)
        found = of("rates", store)
        assert {r["group"] for r in found.records} == {"blend, advrbd iterations=4", "blend, advrbd iterations=2"}

    def test_many_lines_can_be_told_apart(self, store: Store) -> None:
        for number in range(AT_MOST):
            put(store, lr=0.01 + number / 1000)
        looks = {(line.get_color(), line.get_linestyle()) for line in axes_of(of("rates", store))[0].lines}
        assert len(looks) == AT_MOST

    def test_too_many_lines(self, store: Store) -> None:
        for number in range(AT_MOST + 1):
            put(store, lr=0.01 + number / 1000)
        with pytest.raises(BadInput, match=rf"got {AT_MOST + 1} groups.*at most {AT_MOST}.*path=value"):
            of("rates", store)


def test_rows_of_two_versions_are_one_group(store: Store) -> None:
    """The spec of the older row lacks fields that came later."""
    for seed in (0, 1):
        row = make_row({"seed": seed, "defense": quick("advrbd")}, sweep="s")
        spec = json.loads(row.spec)
        if seed:
            del spec["defense"]["isolate"], spec["defense"]["unlearn_by"]
        key = Experiment.of(spec).key()
        store.put_row(replace(row, spec=json.dumps(spec, sort_keys=True), key=key))
        put_curve(store, replace(row, key=key), [("truth", 1, "utility", 0.5)])
    assert {record["group"] for record in of("enhancement", store).records} == {"blend"}


def test_csv_holds_all_digits(store: Store) -> None:
    put(store, scores=(1 / 3, 0.25))
    (line,) = csv.DictReader(io.StringIO(of("rates", store).text("csv")))
    assert (float(line["utility_after"]), line["n"], line["group"]) == (1 / 3, "1", "blend")


def test_other_defenses_and_unfinished_rows_do_not_count(store: Store) -> None:
    put(store, scores=(0.5, 0.5))
    store.put_row(make_row({"seed": 5}))
    store.put_row(make_row({"seed": 6, "defense": quick("advrbd")}, status="failed"))
    assert [r["n"] for r in of("rates", store).records] == [1]


@pytest.mark.parametrize("kind", [name for name in names() if name != "samples"])
def test_of_a_real_row(kind: str, store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What AdvrBD and the platform leave in the store is what the figures need."""
    run(tiny(defense=quick("advrbd", relabel=True, relabel_epochs=1)), store, Path(), "mine")
    out = tmp_path / "new" / f"{kind}.png"
    words = [kind, "mine", "attack=blend", "--store", store.uri]
    assert main(["figure", *words, "--out", str(out), "--markdown"]) == 0
    shown, told = capsys.readouterr()
    assert "| blend, not planted " in shown
    assert str(out) in told
    with Image.open(out) as picture:
        assert picture.width > 400
    if kind == "enhancement":
        assert [r["iteration"] for r in of(kind, store).records] == [0, 1, 2]
        assert all(r["asr"] is not None for r in of(kind, store).records)


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["divergence"], ["no figure named 'divergence'", "did you mean 'divergences'"]),
    (["rates", "nosuch"], ["no rows of the sweep 'nosuch'"]),
    (["rates", "s", "t"], ["'s' and 't'", "expected one"]),
    (["rates", "attack=badnets"], ["no row has attack=badnets"]),
    (["rates", "atack=blend"], ["'atack'", "did you mean 'attack'"]),
    (["rates", "seed=9"], ["no finished row of the defense 'advrbd' among 1 rows"]),
    (["divergences", "seed=0"], ["has a table of divergences"]),
    (["enhancement", "seed=0"], ["has a curve of the truth", "bdray run --again KEY"]),
    (["rates", "seed=0", "--out", "f.txt"], ["'f.txt'", ".png"]),
    (["rates", "seed=0", "--out", "/dev/null/f.png"], ["cannot write '/dev/null/f.png'"]),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence(words: list[str], told: list[str], store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store)
    store.put_row(make_row({"seed": 9}))
    assert main(["figure", *words, "--store", store.uri]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bdray: ")
    assert err.count("\n") == 1
    assert all(text in err for text in told), err
