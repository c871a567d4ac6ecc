"""`bdray figure samples`: what it says of a victim is what that victim and its attack do, and what is drawn of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bdray.__main__ import main
from bdray.bench import Bench
from bdray.experiment import Experiment
from bdray.report.figures.samples import DRAWN, FRAMES, GREY, PAPER, RED, SIDE, VIEWS, _change, figure_of
from bdray.run import run
from bdray.samples import Samples
from bdray.spec import BadInput
from bdray.store.store import Store
from bdray.victim import backdoor
from tests.tiny import quick, tiny


def test_numbers_of_badnets(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three by three pixels turn white, and nothing else; the key of a row does as well as its victim's."""
    experiment = tiny(attack={"name": "badnets", "target": 2}, defense=quick("fine_tuning"))
    row = run(experiment, store, Path(), "mine")
    found = figure_of(row.victim, store, Path())
    assert found.records == figure_of(row.key, store, Path()).records
    bench = Bench(experiment, store, Path())
    victim, splits = backdoor(*bench), bench.splits
    assert [r["part"] for r in found.records] == 2 * ["poisoned"] + 4 * ["test"]
    poisoned = victim.poison.poisoned
    assert [r["sample"] for r in found.records[:2]] == [int(splits.train.at[poisoned[n]]) for n in (0, -1)]
    for record in found.records:
        part = splits.train if record["part"] == "poisoned" else splits.test
        sample = part.take(part.at == record["sample"])
        stamped = sample.having(inputs=sample.inputs.clone())
        stamped.inputs[..., -3:, -3:] = 255
        change = (stamped.inputs.int() - sample.inputs.int()).abs()
        said = [splits.classes[int(experiment.task.predict(victim.model, each)[0])] for each in (sample, stamped)]
        assert record["true"] == splits.classes[int(sample.targets[0])] != record["wanted"] == splits.classes[2]
        assert [record["of_clean"], record["of_triggered"]] == said
        assert (record["changed"], record["largest"]) == (int((change > 0).sum()) / change.numel(), int(change.max()))
    out = tmp_path / "new" / "samples.png"
    assert main(["figure", "samples", row.victim, "--store", store.uri, "--out", str(out)]) == 0
    assert "said of clean" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.width > 400


@pytest.mark.parametrize(("task", "data"), [("video", "moving_shapes"), ("points", "solids")])
def test_of_clips_and_clouds(task: str, data: str, store: Store, tmp_path: Path) -> None:
    """Read from the disk as they are used, as a data set of theirs is."""
    experiment = Experiment.of(
        {"task": {"name": task, "data": {"name": data, "limit": 80}}, "training": {"epochs": 1}, "defense": "none"}
    )
    victim = backdoor(experiment, store, tmp_path)
    found = figure_of(experiment.victim_key(), store, tmp_path)
    assert [r["part"] for r in found.records] == 2 * ["poisoned"] + 4 * ["test"]
    first = int(victim.poison.poisoned[0])
    planted = victim.poison.apply(Bench(experiment, store, tmp_path).splits.train).take(torch.tensor([first])).dense()
    assert found.records[0]["of_triggered"] == found_class(experiment, victim.model, planted, store, tmp_path)
    found.draw(tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.height > 400


def found_class(experiment: Experiment, model: torch.nn.Module, samples: Samples, store: Store, root: Path) -> str:
    """What a model says of the first of the samples."""
    return Bench(experiment, store, root).splits.classes[int(experiment.task.predict(model, samples)[0])]


def test_images() -> None:
    before = torch.full((1, 4, 5), 100, dtype=torch.uint8)
    after = before.clone()
    after[0, 0, 0], after[0, 3, 4] = 140, 80
    found = DRAWN["image"](before, after)
    assert found.pixels.shape == (6, 21, 3)
    clean, triggered, difference = (found.pixels[1:5, at : at + 5, 0].tolist() for at in (1, 8, 15))
    assert (clean, triggered) == (before[0].tolist(), after[0].tolist())
    assert difference[0][0] == 255  # the largest change
    assert difference[3][4] == 63  # half as large, and down
    assert difference[1][1] == 127  # none


def test_clips() -> None:
    """Of 16 frames, eight; each with its own difference."""
    before = torch.zeros(3, 16, 6, 6, dtype=torch.uint8)
    after = before.clone()
    after[:, 15] = 200
    found = DRAWN["video"](before, after)
    assert found.columns[0] == "frame 0"
    assert found.columns[-1] == "frame 15"
    assert found.pixels.shape == (3 * 8, FRAMES * 8, 3)
    assert found.pixels[12, 4].tolist() == [0, 0, 0]
    assert found.pixels[12, -4].tolist() == [200, 200, 200]
    assert found.pixels[20, 4].tolist() == [127, 127, 127]
    assert found.pixels[20, -4].tolist() == [255, 255, 255]


def test_clouds() -> None:
    """A point on the vertical axis stays where it is as the cloud turns; a moved one is red, and the clean one not."""
    before = torch.tensor([[0.0, 0.0, 0.9], [0.9, 0.0, 0.0]])
    after = torch.tensor([[0.0, 0.0, 0.9], [-0.9, 0.0, 0.0]])
    found = DRAWN["points"](before, after)
    assert found.pixels.shape == (3 * (SIDE + 2), len(VIEWS) * (SIDE + 2), 3)

    def coloured(line: int, view: int) -> list[list[float]]:
        """The columns of what is not paper, left to right, with how red they are."""
        top, left = line * (SIDE + 2) + 1, view * (SIDE + 2) + 1
        cell = found.pixels[top : top + SIDE, left : left + SIDE].astype(int)
        down, right = np.nonzero((cell != PAPER).any(axis=2))
        return sorted([int(x), int(cell[y, x, 0] - cell[y, x, 1])] for y, x in zip(down, right, strict=True))

    middle = SIDE // 2
    assert {x for x, _ in coloured(0, 0)} == {middle - 1, middle, middle + 1} | {166, 167, 168}  # 180 * (0.5 + 0.48 * 0.9)
    assert {x for x, _ in coloured(0, 1)} >= {127, 128, 129}  # a turn by 60 degrees halves it
    assert all(red == 0 for _, red in coloured(0, 0))
    assert {x < middle - 10 for x, red in coloured(1, 0) if red} == {True}
    turned = coloured(1, VIEWS.index(180))
    assert {x > middle + 10 for x, red in turned if red} == {True}
    assert len(coloured(2, 0)) == len(coloured(1, 0)) + 9  # the point's old place, too
    assert RED[0] - RED[1] > 100 > GREY[0] - GREY[1] == 0


def test_small_changes() -> None:
    values = torch.tensor([10, 20, 30, 40], dtype=torch.uint8)
    assert _change(values, values + torch.tensor([0, 1, 0, 3], dtype=torch.uint8), "image") == {"changed": 0.5, "largest": 3.0}
    cloud = torch.zeros(4, 3)
    assert _change(cloud, cloud + torch.tensor([[3.0, 4.0, 0.0], *3 * [[0.0, 0.0, 0.0]]]), "points") == {
        "changed": 0.25,
        "largest": 5.0,
    }


def test_what_cannot_be_drawn(store: Store) -> None:
    with pytest.raises(BadInput, match=r"no victim and no row 'nosuch' in the store"):
        figure_of("nosuch", store, Path())
    row = run(tiny(), store, Path(), "mine")
    about = Path(store.location(), "victims", row.victim, "victim.json")
    spec = json.loads(about.read_text())
    spec["spec"]["seed"] = 5
    del spec["sum"]
    about.write_text(json.dumps(spec))
    with pytest.raises(BadInput, match=rf"the victim {row.victim} says that it is \w+; `bdray store check` says what else"):
        figure_of(row.victim, store, Path())
    about.unlink()
    with pytest.raises(BadInput, match=f"the store has the row {row.key}, but not its victim {row.victim}"):
        figure_of(row.key, store, Path())
