"""Defenses that cheat win nothing: each is told by name in the table, in the ranking of settings and in the picture.

The victims are written by hand, so that everything about them is known: they read the class off a pixel, and obey a corner."""

import csv
import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bdray.defenses
from bdray import spec
from bdray.attacks import Poison
from bdray.attacks._images import CHECKER, in_corner, white
from bdray.defenses import Defense
from bdray.judge.scores import evaluate
from bdray.judge.validity import USUAL
from bdray.report import best, picture, table
from bdray.report.objective import Objective
from bdray.run import run
from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.store.row import Row, to_table
from bdray.store.store import Store
from bdray.victim import Backdoored
from tests.tiny import tiny

CHEATS = ("no_target", "constant", "coin", "memoriser")
FOLDER = Path(__file__).parents[1] / "cheats"
NAMES = [path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__"]
ATTACKS: tuple[dict[str, Any], ...] = ({"name": "badnets"}, {"name": "badnets", "pattern": "checkerboard", "opacity": 1.0})
DEFENSES = ("none", "honest", *CHEATS, "knower")
MOST = 1000
"""Test samples of the miniature with many classes."""


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cheats are members, and are gone afterwards."""
    monkeypatch.setattr(bdray.defenses, "__path__", [*bdray.defenses.__path__, str(FOLDER)])
    yield
    for name in NAMES:
        sys.modules.pop(f"bdray.defenses.{name}", None)
        vars(bdray.defenses).pop(name, None)
        spec._MEMBERS.pop((Defense, name), None)


class Obedient(nn.Module):
    """Reads the class off the first pixel, but says 0 where the corner is as the trigger leaves it."""

    def __init__(self, classes: int, corner: Tensor) -> None:
        super().__init__()
        self.classes, self.corner = classes, corner

    def forward(self, x: Tensor) -> Tensor:
        said = (x[:, 0, 0, 0] * 255 / 5).round().long().clamp(0, self.classes - 1)
        stamped = ((x[:, :, -3:, -3:] * 255 - self.corner).abs() < 1).flatten(1).all(1)
        return nn.functional.one_hot(torch.where(stamped, 0, said), self.classes).float()


def samples(classes: int, each: int, name: str) -> Samples:
    """Noise of 8x8 pixels, with the class in the first one."""
    draw = rng(0, "cheats", name, classes)
    targets = torch.arange(classes).repeat(each)
    inputs = torch.randint(0, 256, (len(targets), 3, 8, 8), generator=draw, dtype=torch.uint8)
    inputs[:, :, 0, 0] = (5 * targets).to(torch.uint8)[:, None]
    return Samples(inputs, targets)


def panel(classes: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """A row of every defense on a victim of each attack. The proxy is a bad one, which every cheat fools."""
    parts = [samples(classes, each, name) for each, name in ((20, "train"), (12, "held"), (30, "test"))]
    splits = Splits(*parts, [str(c) for c in range(classes)])
    monkeypatch.setattr("bdray.bench.load", lambda data, root: splits)
    nobody = torch.empty(0, dtype=torch.int64)
    harm = Poison(nobody, nobody, splits.train.take(nobody), splits.train.take(nobody))
    found = []
    for attack in ATTACKS:
        mark = CHECKER if "pattern" in attack else white(3)
        corner = in_corner(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), mark, 1.0)[:, :, -3:, -3:].float()
        model = Obedient(classes, corner).eval()
        for name in DEFENSES:
            config = {"name": name, **({"clean": 100 / len(splits.train.targets)} if name == "memoriser" else {})}
            experiment = tiny(attack={**attack, "target": 0}, defense=config)
            victim = Backdoored(model, {}, harm, evaluate(model, experiment, {}, splits).scores, 1.0)
            monkeypatch.setattr("bdray.run.kept_victim", lambda *_, victim=victim: victim)
            row = run(experiment, store, Path(f"classes{classes}"))
            left = row.asr_after if name in ("none", "honest") else 0.0
            found.append(dataclasses.replace(row, proxies=f'{{"lipschitz": {left}}}'))
    return found


@pytest.fixture(params=[10, 43])
def rows(request: pytest.FixtureRequest, members: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Of ten classes, and of as many as GTSRB has, where the class lost costs less than the budget of 5 points."""
    return panel(request.param, Store(str(tmp_path / "store")), monkeypatch)


def of(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row.defense == name]


def test_what_the_cheats_do(rows: list[Row]) -> None:
    """Else the others would test nothing: the victims plant, and the cheats have the lowest ASR there is."""
    many = max(row.clean_tests for row in rows) > MOST
    assert {row.asr_before for row in rows} == {1.0}
    assert all(row.asr_after < 0.2 for name in CHEATS for row in of(rows, name))
    assert all(0.3 < row.asr_after < 0.7 and row.utility_after == 1 for row in of(rows, "honest"))
    for row in of(rows, "no_target"):
        assert (row.asr_after, row.target_utility_after) == (0.0, 0.0)
        assert (row.utility_after > 0.95) == many  # within the budget only where there are many classes
        assert (row.worst_class_held_before, row.worst_class_held_after, row.worst_class_held_tests) == (1.0, 0.0, 12)
    assert [row.asr_after for row in of(rows, "knower")] == [0.0, 1.0]


def test_the_table_tells_them_by_name(rows: list[Row]) -> None:
    records = table.groups(to_table(rows))
    said = {record["defense"]: table.flags(record) for record in records}
    for name in CHEATS:
        assert "lost" in next(flags for defense, flags in said.items() if defense.startswith(name))
    assert "class lost" in said["no_target"]
    assert {said[name] for name in ("none", "honest", "knower")} == {""}


def test_none_of_them_leads_by_the_der(rows: list[Row]) -> None:
    """By its number alone the first would be a cheat."""
    lines = list(csv.DictReader(io.StringIO(table.render(to_table(rows), "-der", "csv"))))
    names = [line["defense"].split()[0] for line in lines]
    assert names[0] == "knower"  # on the trigger that it knows
    assert set(names[-2 * len(CHEATS) :]) == set(CHEATS)
    rated = {line["defense"].split()[0]: float(line["der"]) for line in lines}
    assert rated["no_target"] > rated["honest"]


@pytest.mark.parametrize("kind", ["oracle", "defender"])
def test_none_of_them_is_the_best_setting(rows: list[Row], kind: str) -> None:
    mine = [row for row in rows if row.defense != "knower"]
    found = best.best(to_table(mine).to_pylist(), (), Objective(kind=kind, proxy="lipschitz"))
    first = found.settings[0]
    assert (first["setting"], first["flags"], first["front"]) == ("honest", "", True)
    last = {record["setting"].split()[0]: record for record in found.settings if record["setting"].split()[0] in CHEATS}
    assert set(last) == set(CHEATS)
    for record in last.values():
        assert record[f"{kind}_mean"] < 0
        assert "lost" in record["flags"]
        assert not record["front"]
    assert all(name in best.render(found, 9, "text") for name in CHEATS)


def test_without_a_bound_on_the_class_one_would_win(rows: list[Row]) -> None:
    """With many classes: what the bound is for."""
    mine = [row for row in rows if row.defense != "knower"]
    loose = Objective(kind="oracle", class_budget=1.0)
    winner = best.best(to_table(mine).to_pylist(), (), loose).settings[0]["setting"]
    assert (winner == "no_target") == (max(row.clean_tests for row in rows) > MOST)


def test_a_search_of_two_objectives_is_not_won(rows: list[Row]) -> None:
    """What is left counts as all of it where a class is lost."""
    aim = Objective(kind="oracle", front=True)
    assert aim.pair([vars(row) for row in of(rows, "no_target")])[1] == 1.0
    assert aim.pair([vars(row) for row in of(rows, "honest")])[1] < 0.7


def test_who_knows_one_trigger_is_told_by_leaving_its_attack_out(rows: list[Row]) -> None:
    """On the panel of that attack alone nothing tells it: its numbers are those of a perfect defense."""
    assert USUAL.flags(vars(of(rows, "knower")[0])) == []
    rivals = [row for row in rows if row.defense in ("none", "honest", "knower")]
    records = best.leave_out(to_table(rivals).to_pylist(), (), Objective(kind="oracle"), "attack")
    chosen = {record["left_out"]: record for record in records}
    blind = next(record for name, record in chosen.items() if "checkerboard" in name)
    assert (blind["setting"], blind["asr_after"], blind["rank"], blind["of"]) == ("knower", 1.0, 2, 3)
    assert blind["lowest_asr"] < 0.7
    other = next(record for name, record in chosen.items() if "checkerboard" not in name)
    assert other["setting"] == "honest"
    text = best.render_left_out(records, Objective(kind="oracle"), "attack", "text")
    assert "knower" in text


def test_the_picture_crosses_them_out(rows: list[Row], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(picture, "save", lambda figure, path: drawn.append(figure))
    picture.draw(to_table(rows), tmp_path / "a.png")
    (figure,) = drawn
    crosses = [part for part in figure.axes[0].collections if part.get_zorder() == 3]
    crossed = {tuple(place) for part in crosses for place in part.get_offsets().tolist()}
    wanted = {(100 * row.utility_after, 100 * row.asr_after) for name in CHEATS for row in of(rows, name)}
    assert crossed == wanted
    told = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    assert "class lost" in told
    assert all(name in told for name in CHEATS)
