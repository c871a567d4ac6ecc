"""The words after `bdray run` and `bdray sweep`: values, places, grids, and what is refused."""

import json
import pickle
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
        ("[badnets,blend]", ["badnets", "blend"]),
        ("[badnets, .5, True,[a,b] ]", ["badnets", 0.5, True, ["a", "b"]]),
        ("['a b', c]", ["a b", "c"]),
        ('[sig,{"name": "blend", "rate": 0.02}]', ["sig", {"name": "blend", "rate": 0.02}]),
        ("+5", 5),
        ("007", 7),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("inf", "inf"),
        ("٣", "٣"),
        ("1" * 5000, float("inf")),
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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "nested more than 20 deep"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "nested more than 20 deep"),
        ("[" * 30 + "]" * 30, "nested more than 20 deep"),
        ("[" * 30 + "a" + "]" * 30, "nested more than 20 deep"),
        ("{name:sig}", """put names and texts in double quotes and all of it in single ones, as in '{"name": "sig","""),
        ("[a,,b]", "write [badnets,blend]"),
        ("[a,]", "write [badnets,blend]"),
        ("['a]", "write [badnets,blend]"),
        ('{"name":"blend","name":"sig"}', "two values of 'name'"),
    ],
    ids=lambda text: text[:20],
)
def test_values_that_are_refused(text: str, told: str) -> None:
    for read in (value_of, lambda text: parse([f"a={text}"])):
        said = refusal(read, text)
        assert told in said
        assert len(said) < 300


@pytest.mark.parametrize("word", ["2024", "007", "1e5", "-3", "1.50", "9" * 5000])
def test_a_field_of_texts_takes_a_number_as_it_was_typed(word: str) -> None:
    config = experiment_config(["task=translation", "task.data=parallel", f"task.data.source={word}"])
    assert Experiment.of(config).config()["task"]["data"]["source"] == word
    again = pickle.loads(pickle.dumps(config))
    assert Experiment.of(again).key() == Experiment.of(config).key()


@pytest.mark.parametrize("word", ["2024", "007", "1e5", "-3", "1.50", "9" * 250])
def test_a_path_takes_a_number_as_it_was_typed(word: str) -> None:
    config = experiment_config(["task.data=image_folder", f"task.data.path={word}"])
    assert Experiment.of(config).config()["task"]["data"]["path"] == word
    again = pickle.loads(pickle.dumps(config))
    assert Experiment.of(again).key() == Experiment.of(config).key()
    assert Experiment.of(experiment_config([f"attack.image={word}"])).config()["attack"]["image"] == word


def test_a_number_as_it_was_typed_is_a_number_everywhere_else() -> None:
    found = Experiment.of(experiment_config(["seed=+3", "attack.rate=.050", "training.lr=1"]))
    assert found == Experiment.of({"seed": 3, "attack": {"rate": 0.05}, "training": {"lr": 1.0}})
    assert [type(found.seed), type(found.attack.rate), type(found.training.lr)] == [int, float, float]
    assert "got 1e400, expected a" in refusal(Experiment.of, experiment_config(["attack.rate=1e400"]))
    assert "got 1.50, expected a" in refusal(Experiment.of, experiment_config(["attack.rate=1.50"]))


@pytest.mark.parametrize("word", ["true", "null", "[a]"])
def test_a_text_that_reads_as_something_else_is_told_how_to_be_quoted(word: str) -> None:
    said = refusal(Experiment.of, experiment_config(["task.data=image_folder", f"task.data.path={word}"]))
    assert "expected a text; what is in double quotes is one" in said
    assert Experiment.of(experiment_config(["task.data=image_folder", f'task.data.path="{word}"']))


def test_a_list_where_one_experiment_is_wanted_is_told_to_be_a_grid() -> None:
    said = refusal(Experiment.of, experiment_config(["attack=[badnets,blend]"]))
    assert said.endswith(
        'got ["badnets", "blend"], expected a group of fields; a list of them is a grid, which `bdray sweep` takes'
    )


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
