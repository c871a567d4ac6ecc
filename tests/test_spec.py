"""Specs and the words that override them: what was typed comes back, has one key, or is refused in one sentence."""

import importlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from bdray.attacks import Attack
from bdray.data import Data
from bdray.defenses import Defense
from bdray.experiment import Experiment
from bdray.models import Model
from bdray.overrides import experiment_config
from bdray.spec import LARGEST_NUMBER, BadInput, Config, Spec, key_of
from bdray.task import Task
from bdray.training import Training

CONTRACTS: list[type[Spec]] = [Task, Data, Model, Attack, Defense]
MEMBERS = [(contract, name) for contract in CONTRACTS for name in contract.names()]
every_member = pytest.mark.parametrize(("contract", "name"), MEMBERS, ids=[f"{c.kind}-{n}" for c, n in MEMBERS])
every_contract = pytest.mark.parametrize("contract", CONTRACTS, ids=[c.kind for c in CONTRACTS])

REQUIRED: dict[str, Config] = {
    "image_folder": {"path": "pets"},
    "clip_folder": {"path": "clips"},
    "cloud_folder": {"path": "scans"},
}
"""What has no default."""


def least(name: str) -> Config:
    """The shortest dict of a member."""
    return {"name": name, **REQUIRED.get(name, {})}


def refusal(build: Any, *given: Any) -> str:
    """What is said of it: one sentence, of one line, that neither pydantic nor a traceback wrote."""
    with pytest.raises(BadInput) as caught:
        build(*given)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert "pydantic" not in text
    assert not text.endswith(".")
    return text


# Round trip


@every_member
def test_what_a_member_says_of_itself_builds_it_again(contract: type[Spec], name: str) -> None:
    spec = contract.of(least(name))
    assert spec.name == name
    config = spec.config()
    assert config["name"] == name
    assert set(config) == {"name", *type(spec).model_fields}
    over_the_wire = json.loads(json.dumps(config, allow_nan=False))
    assert over_the_wire == config
    again = contract.of(over_the_wire)
    assert again == spec
    assert type(again) is type(spec)
    assert again.key() == spec.key() == key_of(contract.identity_of(over_the_wire))
    assert contract.of(least(name)) == spec


@every_member
def test_members_are_frozen_hashable_and_picklable(contract: type[Spec], name: str) -> None:
    spec = contract.of(least(name))
    assert hash(spec) == hash(contract.of(least(name)))
    assert pickle.loads(pickle.dumps(spec)) == spec
    for field in type(spec).model_fields:
        before = getattr(spec, field)
        with pytest.raises(ValueError, match="frozen"):
            setattr(spec, field, before)
    with pytest.raises((ValueError, AttributeError)):
        spec.something_new = 1  # type: ignore[attr-defined]


def test_an_experiment_is_its_dict() -> None:
    experiment = Experiment.of({"attack": {"name": "sig", "rate": 0.02}, "defense": "none", "seed": 3})
    again = Experiment.of(json.loads(json.dumps(experiment.config())))
    assert again == experiment
    assert again.key() == experiment.key()
    assert pickle.loads(pickle.dumps(experiment)) == experiment
    assert hash(again) == hash(experiment)
    assert experiment.config()["training"] == Training().config()
    assert "name" not in experiment.config()["training"]
    assert len({Experiment(), Experiment.of({}), Experiment(seed=1)}) == 2


@every_contract
def test_members_are_the_modules_of_the_folder(contract: type[Spec]) -> None:
    folder = Path(importlib.import_module(contract.folder).__file__ or "").parent
    assert contract.names() == sorted(file.stem for file in folder.glob("*.py") if file.name[0] != "_")
    assert all(contract.member(name).__module__ == f"{contract.folder}.{name}" for name in contract.names())


# Keys


def test_a_whole_number_in_a_fractional_field_is_the_same_experiment() -> None:
    assert Attack.of({"name": "sig", "delta": 40}).key() == Attack.of({"name": "sig", "delta": 40.0}).key()
    assert type(Attack.of({"name": "sig", "delta": 40}).config()["delta"]) is float
    assert Experiment.of(experiment_config(["attack.rate=0"])) == Experiment.of(experiment_config(["attack.rate=0.0"]))
    assert Training(lr=1).key() == Training(lr=1.0).key()


def test_the_order_of_a_dict_does_not_change_the_key() -> None:
    forth = {"name": "sig", "rate": 0.02, "delta": 20.0}
    back = dict(reversed(forth.items()))
    assert list(forth) != list(back)
    assert Attack.of(forth).key() == Attack.of(back).key() == key_of(Attack.of(back).identity())
    assert key_of({"a": 1, "b": {"c": 2, "d": 3}}) == key_of({"b": {"d": 3, "c": 2}, "a": 1})


def test_defaults_spelled_out_do_not_change_the_key_and_every_field_does() -> None:
    plain = Attack.of("sig")
    assert Attack.of({"name": "sig", "rate": plain.rate, "target": 0}).key() == plain.key()
    changes: list[Config] = [{"rate": 0.02}, {"target": 1}, {"cover": 0.1}, {"delta": 30.0}, {"frequency": 5.0}]
    changes.append({"over_time": "dynamic"})
    assert {field for change in changes for field in change} == set(type(plain).model_fields)
    keys = [plain.key(), *(Attack.of({"name": "sig", **change}).key() for change in changes)]
    assert len(set(keys)) == len(keys)


def test_members_with_the_same_fields_have_different_keys() -> None:
    assert Model.of("resnet18").key() != Model.of("resnet34").key()
    assert Model.of("resnet18") != Model.of("resnet34")


def test_key_of_a_known_dict() -> None:
    """sha256sum's of the canonical JSON: the same in every process and for good, since stored rows go by it."""
    assert key_of({"name": "sig", "rate": 0.05, "on": True, "list": [1, 2.5, "ä"]}) == "a365962c4102a761"


# Nested


def test_a_part_without_a_name_changes_the_default_member() -> None:
    default = Experiment()
    assert Experiment.of({"attack": {"rate": 0.02}}).attack == type(default.attack)(rate=0.02)
    assert Experiment.of({"task": {"model": {"width": 3}}}).task.model == Model.of({"name": "resnet18", "width": 3})
    assert Experiment.of({"training": {"epochs": 3}}).training == Training(epochs=3)
    assert Experiment.of({"task": {"data": {"held": 0.2}}}).task.data == Data.of({"name": "digits", "held": 0.2})


def test_a_name_alone_or_a_built_member_stands_for_the_part() -> None:
    sig = Attack.of("sig")
    assert Experiment.of({"attack": "sig"}) == Experiment.of({"attack": {"name": "sig"}}) == Experiment(attack=sig)


# Refusals

REFUSED: list[tuple[Config, str]] = [
    ({"attack": {"name": "sig", "rate": 1.5}}, "sig.rate: got 1.5, expected a number, at least 0 and at most 1"),
    ({"attack": {"name": "sig", "rate": -0.1}}, "sig.rate: got -0.1, expected a number, at least 0 and at most 1"),
    ({"attack": {"name": "sig", "rate": "much"}}, 'sig.rate: got "much", expected a number, at least 0 and at most 1'),
    ({"attack": {"name": "sig", "rate": True}}, "sig.rate: got true, expected a number, at least 0 and at most 1"),
    ({"attack": {"name": "sig", "rate": None}}, "sig.rate: got null, expected a number, at least 0 and at most 1"),
    ({"attack": {"name": "sig", "rate": [0.1]}}, "sig.rate: got [0.1], expected a number, at least 0 and at most 1"),
    ({"attack": {"name": "sig", "rate": float("nan")}}, "sig.rate: got NaN, expected a number, at least 0 and at most 1"),
    ({"attack": {"name": "sig", "delta": float("inf")}}, "sig.delta: got Infinity, expected a number, at least 0"),
    ({"attack": {"target": 1.0}}, "blend.target: got 1.0, expected a whole number, at least 0"),
    ({"attack": {"target": True}}, "blend.target: got true, expected a whole number, at least 0"),
    ({"attack": {"name": "badnets", "pattern": "blue"}}, "got \"blue\", expected one of 'white' or 'checkerboard'"),
    ({"attack": {"image": 3}, "seed": 0}, "blend.image: got 3, expected a text"),
    ({"defense": {"name": "nft", "steps": -1}}, "nft.steps: got -1, expected a whole number, at least 1"),
    ({"task": {"model": {"width": 0}}}, "resnet18.width: got 0, expected a whole number, at least 1 and at most 4096"),
    (
        {"task": {"model": {"width": 10**9}}},
        "resnet18.width: got 1000000000, expected a whole number, at least 1 and at most 4096",
    ),
    ({"task": {"data": {"limit": -3}}}, "digits.limit: got -3, expected a whole number, at least 0"),
    ({"training": {"epochs": 0}}, "training.epochs: got 0, expected a whole number, at least 1"),
    ({"training": {"lr": 0}}, "training.lr: got 0, expected a number, more than 0"),
    ({"training": {"augment": 1}}, "training.augment: got 1, expected true or false"),
    ({"training": {"schedule": "cosin"}}, "training.schedule: got \"cosin\", expected one of 'cosine', 'onecycle'"),
    ({"training": {"nesterov": True, "momentum": 0}}, "training.momentum: got 0 with nesterov, expected more than 0"),
    ({"training": "fast"}, 'experiment.training: got "fast", expected a group of fields'),
    ({"training": None}, "experiment.training: got null, expected a group of fields"),
    ({"attack": None}, "experiment.attack: got null, expected a group of fields"),
    ({"attack": 3}, "experiment.attack: got 3, expected a group of fields"),
    ({"attack": ["sig"]}, 'experiment.attack: got ["sig"], expected a group of fields'),
    ({"attack": {"name": "tact", "cover_classes": 5}}, "tact.cover_classes: got 5, expected a list"),
    ({"attack": {"name": "tact", "cover_classes": [5, "x"]}}, 'tact.cover_classes: got "x", expected a whole number'),
    ({"attack": {"name": "tact", "cover_classes": [-1]}}, "tact.cover_classes: got -1, expected at least 0"),
    ({"seed": "one"}, 'experiment.seed: got "one", expected a whole number, at least 0'),
    ({"task": {"data": "image_folder"}}, "image_folder.path: got nothing, expected a value; it has no default"),
    (
        {"seed": 2**63},
        "experiment.seed: got 9223372036854775808, expected a whole number, at least 0 and at most 9223372036854",
    ),
    (
        {"seed": 10**5000},
        "experiment.seed: got a number of 5000 digits, expected a whole number, at least 0 and at most 922337",
    ),
    ({"training": {"epochs": 1e30}}, "training.epochs: got 1e+30, expected a whole number, at least 1"),
    ({"training": {"lr": 1e308}}, "training.lr: got 1e+308, expected a number, more than 0 and at most 1e+38"),
    ({"training": {"lr": -1.0}}, "training.lr: got -1.0, expected a number, more than 0"),
    ({"attack": {"image": "a\0b"}}, "got the path 'a\\x00b', expected UTF-8 without control characters"),
    ({"attack": {"image": "a\ud800"}}, "got the path 'a\\ud800', expected UTF-8 without control characters"),
    ({"task": {"data": {"name": "image_folder", "path": ""}}}, "image_folder.path: got an empty text, expected a folder"),
    # names
    ({"task": "imag"}, "no task named 'imag'; did you mean 'image'?"),
    ({"attack": "sgi"}, "no attack named 'sgi'; did you mean 'sig'?"),
    ({"defense": {"name": "ntf"}}, "no defense named 'ntf'; did you mean 'nft'?"),
    ({"task": {"data": "cifar"}}, "no data set named 'cifar'; did you mean 'cifar10'?"),
    ({"attack": "_images"}, "no attack named '_images'; choose from adaptive_blend, adaptive_patch, badnets, blend"),
    ({"attack": ""}, "no attack named ''; choose from adaptive_blend, adaptive_patch, badnets, blend"),
    ({"attack": {"name": 3}}, "attack: got no name, expected one of adaptive_blend, adaptive_patch, badnets, blend"),
    ({"attack": {"name": ["sig"]}}, "attack: got no name, expected one of adaptive_blend, adaptive_patch, badnets, blend"),
    # fields
    ({"sed": 1}, "no field of experiment named 'sed'; did you mean 'seed'?"),
    ({"attack": {"name": "sig", "rte": 0.1}}, "no field of sig named 'rte'; did you mean 'rate'?"),
    ({"task": {"model": {"wdth": 4}}}, "no field of resnet18 named 'wdth'; did you mean 'width'?"),
    ({"training": {"epoch": 3}}, "no field of training named 'epoch'; did you mean 'epochs'?"),
    ({"training": {"zzz": 3}}, "no field of training named 'zzz'; choose from augment, batch, epochs"),
]


@pytest.mark.parametrize(("config", "sentence"), REFUSED, ids=[told[:60] for _, told in REFUSED])
def test_a_refusal_says_what_was_got_and_what_was_expected(config: Config, sentence: str) -> None:
    assert sentence in refusal(Experiment.of, config)


@every_contract
@pytest.mark.parametrize("given", [3, None, [1], {}, {"rate": 0.1}], ids=repr)
def test_what_is_no_spec_at_all(contract: type[Spec], given: Any) -> None:
    text = refusal(contract.of, given)
    assert contract.kind in text
    assert "expected" in text


@pytest.mark.parametrize("given", [1e308, 10**400], ids=["1e308", "10**400"])
@every_member
def test_no_number_is_larger_than_a_tensor_takes(contract: type[Spec], name: str, given: float) -> None:
    """Else it is found out in the middle of a training, by a traceback."""
    for field, info in contract.member(name).model_fields.items():
        if info.annotation in (int, float):
            assert refusal(contract.of, {**least(name), field: given}).startswith(f"{name}.{field}: got ")


def test_a_field_that_is_called_by_no_text() -> None:
    assert refusal(Experiment.of, {3: 4}) == "experiment: got a field named 3, expected a text"
    assert (
        refusal(Experiment.of, {"training": {b"x": 4}})
        == "training: got a field named an object of the type bytes, expected a text"
    )


def test_one_path_is_one_experiment() -> None:
    def key(path: str) -> str:
        return Experiment.of({"task": {"data": {"name": "image_folder", "path": path}}}).key()

    assert len({key(path) for path in ("deeper", "deeper/", "./deeper", ".//deeper/.", "deeper//")}) == 1
    assert len({key(path) for path in ("/a/deeper", "//a/./deeper/")}) == 1
    # `..` may lead elsewhere than its text says, and the home folder is another on another machine.
    assert len({key(path) for path in ("deeper", "a/../deeper", "~/deeper", "/deeper", "Deeper", ".", "..")}) == 7


def test_the_key_of_a_plain_path_is_what_it_was() -> None:
    """From 6d0cb67: stored rows go by it."""
    config = {"task": {"data": {"name": "image_folder", "path": "pets/small"}}, "attack": {"name": "blend", "image": "a/b.png"}}
    assert Experiment.of(config).key() == "8bf36ddc28b23fa4"


def test_an_experiment_has_no_name() -> None:
    assert refusal(Experiment.of, "image") == "experiment: got 'image', expected a group of fields"


@every_member
def test_every_bound_of_every_member_holds(contract: type[Spec], name: str) -> None:
    """A value below the least or above the most is refused, whatever the member and the field."""
    spec = contract.of(least(name))
    tried = 0
    for field, info in type(spec).model_fields.items():
        if info.annotation not in (int, float):
            continue
        for bound in info.metadata:
            for kind, step in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
                edge = getattr(bound, kind, None)
                if edge is None:
                    continue
                tried += 1
                beyond = 2 * edge if edge >= LARGEST_NUMBER else edge + step
                text = refusal(contract.of, {**least(name), field: type(edge)(beyond)})
                assert text.startswith(f"{name}.{field}: got ")
                assert ", expected a " in text
    assert tried > 0 or contract is Task
