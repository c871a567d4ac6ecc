"""Presets: published values by name, in a dict, on the command line and in a sweep; the values alone make the key."""

from typing import Any

import pytest
from ray import tune

from bdray.attacks import Attack
from bdray.defenses import Defense
from bdray.defenses.fine_tuning import FineTuning
from bdray.experiment import Experiment
from bdray.launch import Sweep
from bdray.launch.expand import expand
from bdray.launch.settings import cells_of, drawn
from bdray.overrides import experiment_config
from bdray.report.catalogue import catalogue
from bdray.spec import Config, Spec
from tests.test_spec import MEMBERS, least, refusal
from tests.tiny import quick, tiny_config

PRESETS = [(contract, name, preset) for contract, name in MEMBERS for preset in contract.member(name).presets]
every_preset = pytest.mark.parametrize(("contract", "name", "preset"), PRESETS, ids=[f"{n}-{p}" for _, n, p in PRESETS])

TABLE_I: dict[str, Config] = {
    "badnets": {"target": 1, "rate": 0.05, "cover": 0, "pattern": "white", "size": 3, "opacity": 1},
    "blend": {"target": 1, "rate": 0.05, "cover": 0, "opacity": 0.2},
    "sig": {"target": 1, "rate": 0.05, "cover": 0},
    "wanet": {"target": 1, "rate": 0.05, "cover": 0.05},
    "physical": {"target": 1, "rate": 0.05, "cover": 0, "pattern": "flower", "opacity": 1},
    "tact": {"target": 1, "rate": 0.05, "cover": 0.01, "source": 0, "size": 3, "opacity": 1},
    "adaptive_blend": {"target": 1, "rate": 0.05, "cover": 0.01, "opacity": 0.2, "test_opacity": 0.2},
    "adaptive_patch": {"target": 1, "rate": 0.05, "cover": 0.01, "opacities": [1, 1, 1, 1], "test_patches": [0, 1, 2, 3]},
}
"""Of AdvrBD's paper, as printed; no cover rate there is none here, and a flower stands for the Firefox logo."""


@every_preset
def test_a_preset_is_the_experiment_with_its_values_written_out(contract: type[Spec], name: str, preset: str) -> None:
    values = contract.member(name).presets[preset]
    assert values
    spec = contract.of({**least(name), "preset": preset})
    written = contract.of({**least(name), **values})
    assert spec == written
    assert spec.key() == written.key()
    config = spec.config()
    assert "preset" not in config
    assert {field: config[field] for field in values} == values
    assert contract.of(config) == spec


@every_preset
def test_presets_are_listed(contract: type[Spec], name: str, preset: str) -> None:
    """The list reads the sources and imports no member: what it shows is what there is."""
    line = next(line for line in catalogue().splitlines() if line.startswith(f"  {name} "))
    shown = line.partition(" Presets: ")[2].removesuffix(".")
    assert shown.split(", ") == list(contract.member(name).presets)


@pytest.mark.parametrize("name", TABLE_I)
def test_the_presets_of_the_papers_table(name: str) -> None:
    config = Attack.of({"name": name, "preset": "advrbd"}).config()
    assert {field: config[field] for field in TABLE_I[name]} == TABLE_I[name]


def test_explicit_fields_win() -> None:
    attack = Attack.of({"name": "wanet", "preset": "advrbd", "cover": 0.2, "strength": 0.7})
    assert attack == Attack.of({"name": "wanet", "target": 1, "rate": 0.05, "cover": 0.2, "strength": 0.7})


def test_presets_on_the_command_line() -> None:
    words = ["attack.preset=advrbd", "attack=badnets", "attack.rate=0.1"]
    expected = {"name": "badnets", "target": 1, "rate": 0.1}
    for order in (words, words[::-1]):
        assert Experiment.of(experiment_config(order)) == Experiment.of({"attack": expected})
    default = Experiment.of(experiment_config(["attack.preset=advrbd"]))
    assert default.attack == Attack.of({"name": "blend", "target": 1, "rate": 0.05})


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"name": "badnets", "preset": "advrdb"}, "no preset of badnets named 'advrdb'; did you mean 'advrbd'?"),
        ({"name": "wanet", "preset": "x"}, "no preset of wanet named 'x'; choose from advrbd, backdoor_toolbox, backdoorbox"),
        ({"name": "wanet", "preset": None}, "no preset of wanet named 'None'; choose from advrbd"),
        ({"name": "wanet", "preset": ["advrbd"]}, "no preset of wanet named \"['advrbd']\"; "),
        ({"name": "wanett", "preset": "advrbd"}, "no attack named 'wanett'; did you mean 'wanet'?"),
    ],
)
def test_presets_that_do_not_exist(config: Config, sentence: str) -> None:
    assert refusal(Attack.of, config).startswith(sentence)
    assert refusal(Experiment.of, {"attack": config}).startswith(sentence)


@pytest.fixture
def quick_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defense with presets."""
    monkeypatch.setattr(FineTuning, "presets", {"quick": {"epochs": 2, "lr": 0.5}, "slow": {"epochs": 9}})


def test_every_contract_has_presets(quick_preset: None) -> None:
    defense = Defense.of({"name": "fine_tuning", "preset": "quick", "lr": 0.25})
    assert defense == Defense.of({"name": "fine_tuning", "epochs": 2, "lr": 0.25})
    assert refusal(Defense.of, {"name": "none", "preset": "quick"}) == "no preset of none named 'quick'; choose from (nothing)"


# Sweeps


def keys(attack: Any, **changes: Any) -> list[str]:
    return [cell.key for cell in expand(Sweep(space=tiny_config(attack=attack, **changes)))]


def test_presets_in_a_sweep() -> None:
    written: list[Config] = [{"name": "badnets", "target": 1, "rate": 0.05}, {"name": "wanet", "rate": 0.1, "cover": 0.0}]
    named: list[Config] = [{"name": "badnets", "preset": "advrbd"}, {"name": "wanet", "preset": "backdoorbox"}]
    assert keys(tune.grid_search(named)) == keys(tune.grid_search(written)) == keys(named)
    grid = {"name": "wanet", "preset": tune.grid_search(["advrbd", "backdoor_toolbox"])}
    covers = [(0.05, 1), (0.1, 0)]
    assert keys(grid) == keys([{"name": "wanet", "rate": 0.05, "cover": cover, "target": target} for cover, target in covers])


def test_a_presets_list_is_a_value_and_no_grid() -> None:
    lists = {"opacities": [[1.0] * 4], "test_patches": [[0, 1, 2, 3]]}
    written = {"name": "adaptive_patch", "pattern": "quarters", "target": 1, "rate": 0.05, "cover": 0.01, **lists}
    assert keys({"name": "adaptive_patch", "preset": "advrbd"}) == keys(written)
    assert len(keys(written)) == 1


def test_a_preset_goes_into_every_member_of_a_grid() -> None:
    sweep = Sweep(space=tiny_config(attack=tune.grid_search(["badnets", {"name": "blend", "opacity": 0.1}])))
    found = [cell.experiment.attack for cell in expand(sweep.with_override("attack.preset", "advrbd"))]
    assert [(a.name, a.target, a.rate) for a in found] == [("badnets", 1, 0.05), ("blend", 1, 0.05)]
    assert found[1].config()["opacity"] == 0.1
    assert "did you mean 'advrbd'" in refusal(expand, sweep.with_override("attack.preset", "advrb"))


def test_presets_in_a_search(quick_preset: None) -> None:
    """In the panel, and beside what is drawn."""
    defense = quick("fine_tuning", preset="quick", lr=tune.uniform(0.1, 0.2), clean=0.1)
    del defense["epochs"]
    sweep = Sweep(
        space=tiny_config(defense=defense),
        panel={"attack": [{"name": "badnets", "preset": "advrbd"}, "sig"], "attack.preset": ["advrbd"]},
        search="random",
    )
    found = [cell.experiment for cell in cells_of(sweep, drawn(sweep, 0))]
    assert [(e.attack.name, e.attack.target, e.attack.rate) for e in found] == [("badnets", 1, 0.05), ("sig", 1, 0.05)]
    for experiment in found:
        assert experiment.defense.config()["epochs"] == 2
        assert 0.1 <= experiment.defense.config()["lr"] <= 0.2
        assert experiment.key() == Experiment.of(experiment.config()).key()
