"""Keys stay what they are: those of 6d0cb67, frozen, and what a field that came later does to them."""

import json
from typing import Annotated, Any

import pytest
from pydantic import Field

from bdray.attacks import Attack
from bdray.data import Data
from bdray.defenses import Defense
from bdray.experiment import Experiment
from bdray.launch.expand import Cells
from bdray.models import Model
from bdray.proxies import Proxy
from bdray.spec import Config, Later, Spec, key_of
from bdray.store.row import setting_of
from bdray.task import Task
from tests.tiny import tiny

FROZEN: dict[str, tuple[Config, tuple[str, str, str]]] = {
    "the default": ({}, ("766b88242b8c35be", "ec7b05f1a5c0af6c", "fe072035c52ec6ad")),
    "blend none": (
        {"attack": "blend", "defense": "none", "seed": 3},
        ("4a462530a970ad38", "f872d4f36cdc343d", "f1b06967863d574c"),
    ),
    "cifar10 preact": (
        {
            "task": {"data": "cifar10", "model": "preact_resnet18"},
            "attack": {"name": "badnets", "rate": 0.05, "target": 1},
            "defense": {"name": "nft", "lr": 0.05, "shots": 1, "bn": "recalibrate"},
            "seed": 2,
        },
        ("56d1cf6ea8d65cf2", "fffe88457c6a6b37", "9b81094798a11ddb"),
    ),
    "gtsrb vgg": (
        {
            "task": {"data": {"name": "gtsrb", "limit": 4000, "size": 24}, "model": {"name": "vgg19_bn", "width": 16}},
            "attack": "wanet",
            "training": {"epochs": 3, "batch": 64, "augment": False},
            "defense": "fine_pruning",
        },
        ("c84215077b77ecc5", "5aec522d52aa6bb7", "2824aacd80f03eb5"),
    ),
    "tiny mobilenet": (
        {
            "task": {"data": "tiny_imagenet", "model": "mobilenet_v2"},
            "attack": {"name": "tact", "preset": "advrbd"},
            "training": {"schedule": "onecycle", "workers": 2},
            "defense": {"name": "clp", "u": 2.0},
        },
        ("90620554a7015d4b", "c0ca82dacaeaf760", "8050a352c41a2913"),
    ),
    "a folder": (
        {"task": {"data": {"name": "image_folder", "path": "pets"}}, "attack": "sig", "defense": "cutmix"},
        ("abbfcf5f194b2f70", "69f6484c089a3dcb", "24997b1ccba39177"),
    ),
    "advrbd": (
        {"attack": {"name": "adaptive_patch", "preset": "advrbd"}, "defense": "advrbd"},
        ("5295f5e27f3e4c8b", "4dee1fc00b825c52", "713360d6126f6e50"),
    ),
    "remedy": (
        {
            "attack": {"name": "adaptive_blend", "preset": "advrbd"},
            "defense": {"name": "advrbd", "preset": "remedy", "seed": 1},
        },
        ("385543eb8c991317", "cafc6e9612b50d8c", "caf0a4879374720b"),
    ),
    "abl": ({"attack": "physical", "defense": "abl"}, ("d8d87db102a0cd8e", "f0602718a9728dbd", "a3e96666064ac8c8")),
    "dbr": (
        {"task": {"data": "digits", "model": "resnet34"}, "attack": "label_consistent", "defense": "dbr"},
        ("48d9b6510669afa9", "a095ef807ef06d11", "f3b5190fc38bb161"),
    ),
    "filters": (
        {"task": {"data": "cifar100"}, "defense": "perfect_filter"},
        ("fcf9595e5c157de1", "ae56827a86e94a48", "1a6d1bd010baa79e"),
    ),
    "random": (
        {"task": {"data": "imagenette"}, "defense": "random_filter", "seed": 1},
        ("b9e607d1404a0cd4", "515677c2a4c4a5b8", "328dbf037039258d"),
    ),
    "tuned": (
        {"task": {"data": "miniature"}, "defense": {"name": "fine_tuning", "epochs": 3}},
        ("b444daad7c330179", "616bea4f01c81534", "d1e2dc8b8b0a1292"),
    ),
}
"""An experiment; its key, its victim's and its setting's, as the version of 6d0cb67 made them."""


@pytest.mark.parametrize("name", FROZEN)
def test_the_keys_of_experiments_that_have_rows_stay(name: str) -> None:
    config, keys = FROZEN[name]
    experiment = Experiment.of(config)
    assert (experiment.key(), experiment.victim_key(), setting_of(experiment.identity())) == keys
    make = Cells()
    cell = make.of(config)
    assert (cell.key, cell.victim) == keys[:2]
    assert key_of(Experiment.identity_of(json.loads(json.dumps(experiment.config())))) == keys[0]


class Old(Spec):
    rate: float = 0.1


class Part(Spec):
    rate: float = 0.1
    wobble: Annotated[float, Field(ge=0), Later(0.0)] = 0.0


class Moved(Spec):
    rate: float = 0.1
    wobble: Annotated[float, Later(0.0)] = 1.0
    """Its default is no longer what was done before there was the field."""


class Whole(Spec):
    part: Part = Part()
    sides: Annotated[int, Later(4)] = 4


def test_a_field_that_came_later_counts_only_where_it_does_something_new() -> None:
    assert Part().key() == Part(wobble=0).key() == Old().key()
    assert Part(wobble=0.5).key() == key_of({"rate": 0.1, "wobble": 0.5})
    assert Part().config() == {"rate": 0.1, "wobble": 0.0}
    assert Moved().key() == key_of({"rate": 0.1, "wobble": 1.0})
    assert Moved(wobble=0).key() == Old().key()


def test_so_it_is_inside_of_others() -> None:
    assert Whole().identity() == {"part": {"rate": 0.1}}
    assert Whole(part={"wobble": 0.5}, sides=5).identity() == {"part": {"rate": 0.1, "wobble": 0.5}, "sides": 5}
    assert Whole().config() == {"part": {"rate": 0.1, "wobble": 0.0}, "sides": 4}


def test_a_stored_dict_has_the_identity_that_it_had() -> None:
    assert Moved.identity_of({"rate": 0.1}) == {"rate": 0.1}, "it was written before there was the field"
    assert Whole.identity_of({"part": {"rate": 0.1}}) == Whole().identity()
    gone = {"name": "no_such_attack", "rate": 0.1, "wobble": 0.0}
    config = {**tiny().config(), "attack": gone, "fashion": 1}
    assert Experiment.identity_of(config)["attack"] == gone
    assert Experiment.identity_of(config)["fashion"] == 1


MEMBERS: list[type[Spec]] = [kind.member(name) for kind in (Task, Data, Model, Attack, Defense, Proxy) for name in kind.names()]


def later_fields() -> list[tuple[type[Spec], str, Any]]:
    """Of every member: class, field and what it was born with."""
    return [
        (c, f, m.born) for c in MEMBERS for f, info in c.model_fields.items() for m in info.metadata if isinstance(m, Later)
    ]


def test_every_field_that_came_later_can_have_the_value_it_was_born_with() -> None:
    for cls, field, born in later_fields():
        spec = cls(**{field: born})
        assert field in spec.config(), (cls, field)
        assert field not in spec.identity(), (cls, field)
