"""What Python hands over as a sweep's space: NumPy's values, ranges, sets, generators, and Tune domains that can be drawn, or
are refused in one sentence, whether or not a draw meets them."""

import itertools
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune

from bdray.launch import Sweep
from bdray.launch.expand import expand
from bdray.launch.settings import check_search, drawn
from bdray.launch.space import count, grids, plain
from tests.test_spec import refusal


def cells(samples: int = 1, **parts: Any) -> list[Any]:
    """Of a sweep on the miniature."""
    return expand(Sweep(name="s", samples=samples, space={"task": {"data": "miniature"}, **parts}))


def rates(samples: int, rate: Any) -> list[float]:
    found = cells(samples, attack={"name": "badnets", "rate": rate})
    return [cell.experiment.attack.rate for cell in found]


@pytest.mark.parametrize(
    "seeds",
    [
        range(3),
        (0, 1, 2),
        {2, 0, 1},
        frozenset({2, 0, 1}),
        np.arange(3),
        np.array([0, 1, 2], dtype=np.uint8),
        list(np.arange(3)),
        torch.arange(3),
        {0: "a", 1: "b", 2: "c"}.keys(),
        {"a": 0, "b": 1, "c": 2}.values(),
    ],
    ids=lambda seeds: type(seeds).__name__,
)
def test_what_holds_several_values_is_a_grid(seeds: Any) -> None:
    expected = [cell.key for cell in cells(seed=[0, 1, 2])]
    assert [cell.key for cell in cells(seed=seeds)] == expected
    assert [cell.key for cell in cells(seed=tune.grid_search(seeds))] == expected
    assert [cell.key for cell in cells(seed=(seed for seed in seeds))] == expected
    assert [cell.key for cell in cells(seed=tune.grid_search(map(int, seeds)))] == expected


def test_a_generator_is_read_once() -> None:
    sweep = Sweep(name="s", space={"task": {"data": "miniature"}, "seed": (seed for seed in range(3))})
    assert [len(expand(sweep)), len(expand(sweep)), len(expand(sweep.with_override("attack", "sig")))] == [3, 3, 3]


def test_a_set_has_the_same_order_in_every_process() -> None:
    names = ["sig", "badnets", "blend", "wanet"]
    assert [cell.experiment.attack.name for cell in cells(attack=set(names))] == sorted(names)
    groups = frozenset((("name", "sig"), ("rate", 0.01)))
    assert [cell.experiment.attack.rate for cell in cells(attack=dict(groups))] == [0.01]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(3), 3),
        (torch.tensor(0.5), 0.5),
        (Path("a/b"), "a/b"),
        (Decimal("0.5"), Decimal("0.5")),
        (None, None),
        ({"a": np.arange(2)}, {"a": [0, 1]}),
        ([[np.int8(1)], (2,)], [[1], [2]]),
    ],
)
def test_plain_values(given: Any, value: Any) -> None:
    found = plain(given, "x")
    assert found == value
    assert type(found) is type(value)


def test_numbers_of_numpy_are_the_same_experiments() -> None:
    expected = [cell.key for cell in cells(attack={"name": "badnets", "rate": [0.05, 0.1]}, training={"augment": False})]
    found = cells(attack={"name": "badnets", "rate": np.linspace(0.05, 0.1, 2)}, training={"augment": np.bool_(False)})
    assert [cell.key for cell in found] == expected
    assert len(cells(np.int64(2), attack={"name": "badnets", "rate": tune.uniform(0.05, 0.1)})) == 2


def recursive() -> dict[str, Any]:
    group: dict[str, Any] = {}
    group["training"] = group
    return group


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"seed": itertools.count()}, "seed: got a grid of more than 1,000,000 members"),
        ({"seed": range(10**12)}, "seed: got a grid of more than 1,000,000 members"),
        ({"seed": tune.grid_search(5)}, "seed: got a grid_search of 5, expected a list"),
        ({"seed": tune.grid_search("abc")}, 'seed: got a grid_search of "abc", expected a list'),
        ({"training": recursive()}, "nested more than 50 deep, perhaps in itself"),
        ({"training": {3: 4}}, "training: got a field named 3, expected a text"),
        ({"attack": object()}, "experiment.attack: got an object of the type object, expected a group of fields"),
        ({"attack": b"sig"}, "experiment.attack: got an object of the type bytes"),
        (
            {"seed": range(1000), "defense": {"name": "nft", **{name: range(1000) for name in ("lr", "alpha", "eta")}}},
            "the sweep 's' has 1000000000000 cells, expected at most 10,000,000",
        ),
        # domains
        ({"seed": tune.choice([])}, "seed: got a tune.choice of nothing"),
        ({"seed": tune.randint(5, 5)}, "seed: got a domain from 5 to 5, which cannot be sampled (low >= high)"),
        ({"seed": tune.qrandint(1, 3, 7)}, "seed: got a domain from 1 to 3, which cannot be sampled"),
        ({"training": {"lr": tune.uniform(0.2, 0.05)}}, "training.lr: got a domain from 0.2 to 0.05, which cannot be sampled"),
        ({"training": {"lr": tune.loguniform(1e309, 1)}}, "training.lr: got a domain from Infinity to 1, which cannot be"),
        ({"training": {"lr": tune.loguniform(10**400, 1)}}, "training.lr: got a domain from 1000"),
        ({"training": [{"lr": 0.1}, {"lr": tune.uniform(0.2, 0.05)}]}, "training.lr: got a domain from 0.2"),
        ({"training": tune.choice([{"lr": tune.uniform(0.2, 0.05)}] + [{}] * 99)}, "training.lr: got a domain from 0.2"),
        ({"training": {"lr": tune.choice([0.1] * 99 + [tune.uniform(0.2, 0.05)])}}, "training.lr: got a domain from 0.2"),
        ({"seed": tune.choice([0] * 99 + [tune.grid_search([1, 2])])}, "seed: got a grid in what is drawn"),
        # functions
        ({"seed": tune.sample_from(lambda spec: spec.config.seed)}, "seed: got a tune.sample_from that reads the rest"),
        ({"seed": tune.sample_from(lambda config: config["seed"])}, "seed: got a tune.sample_from that reads the rest"),
        ({"seed": tune.sample_from(lambda config: len(config))}, "seed: got a tune.sample_from that reads the rest"),
        ({"seed": tune.sample_from(lambda: 1 // 0)}, "seed: its tune.sample_from raised ZeroDivisionError"),
        ({"seed": tune.sample_from(itertools.count().__next__)}, "seed: got a tune.sample_from that gives 0 and then 1"),
    ],
    ids=lambda given: str(given)[:40] if isinstance(given, str) else "",
)
def test_what_cannot_be_a_space_is_one_sentence(parts: dict[str, Any], told: str) -> None:
    assert told in refusal(lambda: cells(**parts))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"samples": 10**18}, "samples: got 1000000000000000000, expected a whole number, at least 1 and at most 1,000,000"),
        ({"samples": np.float64(3)}, "samples: got 3.0, expected a whole number"),
        ({"samples": True}, "samples: got true, expected a whole number"),
        ({"seed": 10**5000}, "seed: got a number of 5000 digits"),
        ({"cpus": float("nan")}, "cpus: got NaN"),
        ({"gpus": float("inf")}, "gpus: got Infinity"),
        ({"front": "no"}, 'front: got "no", expected true or false'),
        ({"space": 5}, "space: got 5, expected a dict"),
        ({"panel": 5}, "panel: got 5, expected a dict"),
        ({"panel": [1]}, "panel: got [1], expected a dict"),
        ({"name": "../x"}, 'name: got "../x", expected letters'),
        ({"name": "x" * 300}, "expected at most 200 letters"),
        ({"budget": np.float64("nan")}, "budget: got NaN"),
    ],
)
def test_what_is_no_sweep_is_one_sentence(fields: dict[str, Any], told: str) -> None:
    assert told in refusal(lambda: Sweep(**{"space": {}, **fields}))


# Draws


@pytest.mark.parametrize(
    "domain",
    [
        tune.uniform(0.05, 0.2),
        tune.quniform(0.05, 0.2, 0.05),
        tune.loguniform(0.05, 0.2),
        tune.qloguniform(0.05, 0.2, 0.01),
        tune.randn(0.1, 0.01),
        tune.qrandn(0.1, 0.01, 0.001),
        tune.choice([0.05, np.float32(0.125), tune.uniform(0.1, 0.2)]),
        tune.choice(np.linspace(0.05, 0.2, 100)),
        tune.sample_from(lambda _: random.uniform(0.05, 0.2)),
        tune.sample_from(lambda: float(np.random.uniform(0.05, 0.2))),
    ],
    ids=lambda domain: type(domain.get_sampler()).__name__,
)
def test_every_domain_is_drawn_by_number(domain: Any) -> None:
    found = rates(8, domain)
    assert found == rates(8, domain)
    assert len(set(found)) > 1
    assert all(0 < rate < 0.3 for rate in found)
    assert rates(16, domain)[: len(found)] == found


@pytest.mark.parametrize(
    "domain", [tune.randint(1, 99), tune.qrandint(2, 98, 2), tune.lograndint(1, 99), tune.qlograndint(2, 98, 2)]
)
def test_whole_numbers_are_drawn_as_such(domain: Any) -> None:
    found = [cell.experiment.seed for cell in cells(8, seed=domain)]
    assert len(set(found)) > 1
    assert all(type(seed) is int for seed in found)


def test_draws_are_what_they_were() -> None:
    """From 6d0cb67: the cells of stored sweeps go by them."""
    found = [rates(1, domain)[0] for domain in (tune.uniform(0, 1), tune.loguniform(0.01, 1), tune.choice([0.1, 0.2, 0.3]))]
    assert found == [0.3752705813034879, 0.05630424802597565, 0.3]


def test_a_domain_in_a_choice_has_the_draw_that_it_has_in_a_grid() -> None:
    tuned = {"name": "fine_tuning", "lr": tune.loguniform(1e-3, 1)}
    grid = {cell.experiment.defense.lr for cell in cells(8, defense=[tuned])}
    chosen = [cell.experiment.defense for cell in cells(8, defense=tune.choice(["none", tuned]))]
    assert {defense.name for defense in chosen} == {"none", "fine_tuning"}
    assert {defense.lr for defense in chosen if defense.name == "fine_tuning"} < grid


def test_a_domain_in_a_list_that_is_one_value() -> None:
    attack = {"name": "tact", "source": 1, "target": 0, "cover_classes": [[2, tune.randint(3, 9)]]}
    found = [cell.experiment.attack.cover_classes for cell in cells(6, attack=attack)]
    assert len(set(found)) > 1
    assert all(first == 2 and 3 <= second < 9 for first, second in found)


def test_a_function_leaves_the_generators_as_they_were() -> None:
    random.seed(5)
    np.random.seed(5)
    expected = (random.random(), np.random.random())
    random.seed(5)
    np.random.seed(5)
    rates(3, tune.sample_from(lambda: random.random() / 10 + np.random.random() / 10))
    assert (random.random(), np.random.random()) == expected


def test_grids_are_counted_as_they_are_made() -> None:
    space = {"a": [1, 2, {"b": [3, 4], "c": {"grid_search": [5, [6, 7]]}}], "d": [[1, 2], [3]], "e": 1, "f": []}
    assert count(space) == len(list(grids(space))) == 0
    space["f"] = {"g": [1]}
    assert count(space) == len(list(grids(space))) == 12


# Searches


@pytest.mark.parametrize(
    ("search", "lr", "told"),
    [
        ("optuna", tune.uniform(0.2, 0.1), "defense.lr: got a domain from 0.2 to 0.1, which cannot be sampled"),
        ("optuna", tune.choice([0.1, tune.uniform(0.1, 0.2)]), "draws by domains among the members of tune.choice"),
        ("optuna", tune.sample_from(lambda: 0.1), "draws by tune.sample_from"),
        ("random", tune.choice([]), "a tune.choice of nothing"),
    ],
)
def test_what_a_search_cannot_draw(search: str, lr: Any, told: str) -> None:
    sweep = Sweep(
        name="s",
        space={"task": {"data": "miniature"}, "defense": {"name": "nft", "lr": lr}},
        panel={"seed": range(2), "attack": np.array(["badnets", "sig"])},
        search=search,
    )
    assert told in refusal(check_search, sweep)


def test_a_search_draws_from_a_choice_of_domains() -> None:
    lr = tune.choice([0.1, tune.uniform(0.2, 0.3)])
    space = {"task": {"data": "miniature"}, "defense": {"name": "nft", "lr": lr}}
    sweep = Sweep(name="s", space=space, panel={"seed": range(2)}, search="random")
    check_search(sweep)
    found = {drawn(sweep, number)["defense.lr"] for number in range(20)}
    assert 0.1 in found
    assert all(value == 0.1 or 0.2 <= value <= 0.3 for value in found)
    assert len(found) > 2


def test_a_panel_that_draws() -> None:
    panel = {"attack": [{"name": "badnets", "rate": tune.uniform(0, 1)}]}
    sweep = Sweep(name="s", space={"defense": {"name": "nft", "lr": tune.uniform(0, 1)}}, panel=panel, search="optuna")
    assert "the panel of the sweep 's' draws something" in refusal(check_search, sweep)


def test_a_search_for_the_defense_itself() -> None:
    sweep = Sweep(name="s", space={"defense": tune.choice(["nft", "none"])}, panel={"seed": [0]}, search="random")
    assert "searches which defense there is" in refusal(check_search, sweep)
