"""The product: every defense on every task ends in a row, done or skipped with its reason."""

import functools
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bdray.defenses import Defended, Defense
from bdray.experiment import Backdoored, Experiment, backdoor, load, run
from bdray.spec import Config
from bdray.store import Store
from bdray.task import Task
from tests.tiny import QUICK

SMALL: dict[str, tuple[Config, Config]] = {
    "image": ({"name": "miniature", "per_class": 15, "held": 0.2}, {"name": "resnet18", "width": 4}),
    "video": ({"name": "moving_shapes", "frames": 4, "size": 16, "limit": 50, "test_limit": 8, "held": 0.2}, {"width": 2}),
    "points": ({"name": "solids", "points": 64, "limit": 50, "test_limit": 8, "held": 0.2}, {"width": 4}),
    "text": ({"name": "reviews", "count": 100, "tests": 8, "held": 0.2}, {"width": 16, "layers": 1, "vocabulary": 120}),
    "translation": (
        {"name": "phrases", "count": 100, "tests": 8, "held": 0.2},
        {"width": 16, "layers": 1, "vocabulary": 300, "length": 6},
    ),
    "detection": ({"name": "drawn_shapes", "count": 50, "tests": 8, "held": 0.2}, {"width": 4}),
}
"""The made data set and the model of each task, small."""
BRIEF: dict[str, Config] = {
    **{name: {key: value for key, value in fields.items() if key != "shots"} for name, fields in QUICK.items()},
    "advrbd": {"warmup": 1, "partition_rate": 0.2, "iterations": 1},
    "dbr": {"tuning_epochs": 1, "intra_epochs": 1, "removal_epochs": 1, "alpha_p": 0.1, "alpha_c": 0.2},
    "fine_tuning": {"epochs": 1},
    "fine_pruning": {"epochs": 1},
}
SKIPPED = {
    **{("advrbd", task): "boxes and sentences have no one distribution" for task in ("translation", "detection")},
    **{("clp", task): "finds no BatchNorm after a convolution" for task in ("text", "translation")},
    **{("cutmix", task): "pastes a box of one image" for task in Task.names() if task != "image"},
    **{("dbr", task): "turns and shifts images" for task in Task.names() if task != "image"},
    ("fine_pruning", "detection"): "'ssd' has none with a weight of its own",
}
"""Where a defense has no meaning, and what is said of it."""
_FOLDER = tempfile.TemporaryDirectory(prefix="bdray-product-")


def small(task: str, defense: str, **fields: Any) -> Experiment:
    """A cell of the product: one epoch, and a tenth of the samples are the defender's."""
    data, model = SMALL[task]
    return Experiment.of(
        {
            "task": {"name": task, "data": data, "model": {"name": Task.of({"name": task, "data": data}).model.name, **model}},
            "training": {"epochs": 1, "batch": 16},
            "defense": {"name": defense, **({} if defense == "none" else {"clean": 0.2}), **BRIEF.get(defense, {}), **fields},
        }
    )


@functools.cache
def victim(task: str) -> tuple[Store, Path, Backdoored]:
    """Its store, in which it is trained once, and its data folder."""
    store, root = Store(f"{_FOLDER.name}/{task}"), Path(_FOLDER.name)
    return store, root, backdoor(small(task, "none"), store, root)


@pytest.mark.parametrize("name", Defense.names())
@pytest.mark.parametrize("task", Task.names())  # one after the other: a process keeps the data of two
def test_every_defense_on_every_task(name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, root, before = victim(task)
    monkeypatch.setattr("bdray.experiment.fit", lambda *_, **__: pytest.fail("a victim is trained again"))
    experiment, made = small(task, name), []
    defend = Defense.member(name).defend

    def seen(*given: Any) -> Defended:
        made.append(defend(*given))
        return made[-1]

    monkeypatch.setattr(Defense.member(name), "defend", seen)
    row = run(experiment, store, root)
    assert (row.status, row.task, row.defense) == ("skipped" if (name, task) in SKIPPED else "done", task, name)
    assert SKIPPED.get((name, task), "") in row.error
    if row.status == "skipped":
        assert row.error.endswith("choose another")
        assert not made
        return
    assert not row.error
    assert row.victim == small(task, "none").victim_key()
    assert 0 <= row.asr_after <= 1
    assert 0 <= row.utility_after <= 1
    assert row.triggered_tests > 0
    assert row.poisoned == len(before.poison.poisoned) > 0
    assert math.isnan(row.flag_recall) != Defense.member(name).flags
    (defended,) = made
    model, flagged = defended.model, defended.flagged
    shapes = {key: value.shape for key, value in before.model.state_dict().items()}
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes
    assert not model.training
    learns = [weight.requires_grad for weight in before.model.parameters()]  # a sinus never does
    assert [weight.requires_grad for weight in model.parameters()] == learns
    assert flagged is None or flagged.shape == (row.trained_on,)


@pytest.mark.parametrize("task", Task.names())
def test_nft_with_nothing_else_finds_its_layers(task: str) -> None:
    """Each task suits it to its own model."""
    data, _ = SMALL[task]
    experiment = Experiment.of({"task": {"name": task, "data": data}, "defense": "nft"})
    experiment.defense.check_model(experiment.task, load(experiment.task.data, Path(_FOLDER.name)))
