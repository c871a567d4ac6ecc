"""Every task but images from the data to the row: every defense ends in a row or in a reason, and a victim that was
stored is the one that was trained."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch

from bdray.defenses import Defense
from bdray.experiment import Experiment, backdoor, check_data, load, run
from bdray.spec import Config, Incompatible
from bdray.store import Store
from tests.tiny import quick

TINY: dict[str, Config] = {
    "video": {
        "data": {"name": "moving_shapes", "limit": 60, "test_limit": 12, "frames": 4, "size": 16, "held": 0.2},
        "model": {"name": "conv3d", "width": 2},
    },
    "points": {
        "data": {"name": "solids", "limit": 60, "test_limit": 12, "points": 32, "held": 0.2},
        "model": {"name": "pointnet", "width": 2},
    },
    "text": {
        "data": {"name": "reviews", "count": 60, "tests": 12, "held": 0.2},
        "model": {"name": "bert", "width": 8, "layers": 1, "vocabulary": 120},
    },
    "translation": {
        "data": {"name": "phrases", "count": 60, "tests": 6, "held": 0.2},
        "model": {"name": "marian", "width": 8, "layers": 1, "vocabulary": 300, "length": 6},
    },
    "detection": {
        "data": {"name": "drawn_shapes", "count": 60, "tests": 12, "held": 0.2},
        "model": {"name": "ssd", "width": 4},
    },
}
UNFIT: dict[str, set[str]] = {
    "video": set(),
    "points": set(),
    "text": {"clp"},
    "translation": {"clp"},
    "detection": {"fine_pruning"},
}
"""Beside the defenses that are for other modalities: those that find nothing to work on in the model."""


@functools.cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bdray-tiny-")


def experiment(task: str, defense: str) -> Experiment:
    settings = {name: value for name, value in quick(defense).items() if name != "shots"}  # there are no classes to count by
    if "clean" in Defense.member(defense).needs:
        settings["clean"] = 0.2
    if defense == "nft" and task in ("text", "translation"):
        settings["site"] = "layernorm"
    training = {"epochs": 1, "batch": 16, "optimizer": "adamw", "lr": 1e-3}
    return Experiment.of({"task": {"name": task, **TINY[task]}, "training": training, "defense": settings})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.mark.parametrize("defense", Defense.names())
@pytest.mark.parametrize("task", TINY)
def test_every_defense_ends_in_a_row_or_in_a_reason(task: str, defense: str, shared: Store) -> None:
    tried, root = experiment(task, defense), Path(folder().name)
    fits = Defense.member(defense).modalities or {task}
    if task not in fits or defense in UNFIT[task]:
        with pytest.raises(Incompatible, match=f"the defense '{defense}'"):
            check_data(tried, root)
        return
    check_data(tried, root)
    row = run(tried, shared, root)
    assert row.status == "done"
    assert row.clean_tests == len(load(tried.task.data, root).test)
    assert row.triggered_tests > 0
    assert row.poisoned == round(tried.attack.rate * row.trained_on) > 0
    for value in (row.utility_before, row.utility_after, row.asr_before, row.asr_after, row.recovery_after):
        assert value is not None
        assert 0 <= value <= 1


@pytest.mark.parametrize("task", TINY)
def test_a_stored_victim_is_the_one_that_was_trained(task: str, store: Store) -> None:
    tried, root = experiment(task, "none"), Path(folder().name)
    trained, loaded = backdoor(tried, store, root), backdoor(tried, store, root)
    splits = load(tried.task.data, root)
    state = trained.model.state_dict()
    assert loaded.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    said, again = (tried.task.predict(victim.model, splits.test) for victim in (trained, loaded))
    assert said.tolist() == again.tolist()
    mine, theirs = (victim.poison.pack() for victim in (trained, loaded))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert str(loaded.scores) == str(trained.scores)
