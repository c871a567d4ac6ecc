"""The words after `bdray run` and `bdray sweep`: values, places, grids, and what is refused."""

import json
from typing import Any

import pytest

from bdray.experiment import Experiment
from bdray.models import Model
from bdray.overrides import experiment_config, parse, put, value_of
from bdray.spec import Config
from bdray.training import Training
from tests.test_spec import refusal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.5", 0.5),
        (".05", 0.05),
        ("-.5", -0.5),
        ("1e-3", 0.001),
        ("1.e-3", 0.001),
        ("2E2", 200.0),
        ("true", True),
        ("false", False),
        ("True", True),
        ("False", False),
        ("none", "none"),
        ("None", "None"),
        ("nft", "nft"),
        ("", ""),
        ("a b", "a b"),
        ("2.png", "2.png"),
        ("~/a=b.png", "~/a=b.png"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("nan", "nan"),
        ("[0, 1, 2]", [0, 1, 2]),
        ('["sig", {"name": "blend", "rate": 0.02}]', ["sig", {"name": "blend", "rate": 0.02}]),
        ('"3"', "3"),
        ("[1, 2", "[1, 2"),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)
    assert parse([f"a.b={text}"]) == [("a.b", value)]


@pytest.mark.parametrize(
    "word", ["", "attack", "=3", ".rate=3", "attack.=3", "attack..rate=3", "a-b=3", "--seed=3", "a b=3", "1=2"]
)
def test_words_that_are_not_path_and_value(word: str) -> None:
    assert refusal(parse, [word]) == f"got {word!r}, expected path=value, as in attack.rate=0.05"


def test_words_become_an_experiment() -> None:
    words = ["task.data=miniature", "task.data.size=8", "attack=sig", "attack.rate=.02", "defense=none", "training.epochs=3"]
    expected = Experiment.of(
        {
            "task": {"data": {"name": "miniature", "size": 8}},
            "attack": {"name": "sig", "rate": 0.02},
            "defense": "none",
            "training": {"epochs": 3},
        }
    )
    assert Experiment.of(experiment_config(words)) == expected
    assert Experiment.of(experiment_config(words[::-1])) == expected
    assert expected.defense.name == "none"
    assert Experiment.of(experiment_config([])) == Experiment()


def test_the_last_of_two_equal_paths_counts() -> None:
    assert experiment_config(["seed=1", "attack=sig", "seed=2", "attack=blend"]) == {"seed": 2, "attack": "blend"}


def test_a_field_alone_keeps_the_member() -> None:
    assert Experiment.of(experiment_config(["attack.rate=0.02"])).attack.name == Experiment().attack.name
    assert Experiment.of(experiment_config(["task.model.width=3"])).task.model == Model.of({"name": "resnet18", "width": 3})


def test_put_copies() -> None:
    config: Config = {"attack": {"name": "sig", "rate": 0.1}, "training": {"epochs": 3}}
    before = json.dumps(config)
    assert put(config, "attack.rate", 0.2) == {"attack": {"name": "sig", "rate": 0.2}, "training": {"epochs": 3}}
    assert put(config, "attack", "blend")["attack"] == "blend"
    assert put(config, "training.lr", 0.2)["training"] == {"epochs": 3, "lr": 0.2}
    assert json.dumps(config) == before


def test_a_text_that_replaces_a_text_stays_one() -> None:
    """A schedule is no member of a folder: it must not become a dict with a name."""
    space: Config = {"training": {"schedule": "cosine", "epochs": 3}}
    changed = put(space, "training.schedule", "constant")
    assert changed == {"training": {"schedule": "constant", "epochs": 3}}
    assert Experiment.of(changed).training.schedule == "constant"
    assert Experiment.of(experiment_config(["training.schedule=cosine", "training.schedule=constant"])).training == Training(
        schedule="constant"
    )


@pytest.mark.parametrize("grid", [list, tuple, lambda members: {"grid_search": members}], ids=["list", "tuple", "grid_search"])
def test_a_setting_goes_into_every_member_of_a_grid(grid: Any) -> None:
    members = ["badnets", {"name": "sig", "rate": 0.02, "delta": 20.0}]
    changed = put({"attack": grid(members)}, "attack.rate", 0.05)["attack"]
    inside = changed["grid_search"] if isinstance(changed, dict) else changed
    assert inside == [{"name": "badnets", "rate": 0.05}, {"name": "sig", "rate": 0.05, "delta": 20.0}]
    assert members == ["badnets", {"name": "sig", "rate": 0.02, "delta": 20.0}]


def test_a_whole_grid_is_replaced_by_a_name() -> None:
    changed = put({"attack": {"grid_search": ["badnets", "sig"]}}, "attack", "blend")
    assert Experiment.of(changed) == Experiment.of({"attack": "blend"})


@pytest.mark.parametrize("stands", [3, 0.5, True])
def test_a_setting_below_what_is_no_group(stands: Any) -> None:
    text = refusal(put, {"seed": stands}, "seed.more", 1)
    assert text == f"got more=1 where {stands!r} stands, expected a group of fields"
