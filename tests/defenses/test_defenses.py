"""Every defense, whatever it does: the contract."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from bdray.bench import Bench, load
from bdray.defenses import Defense, Evidence
from bdray.evidence import collect
from bdray.experiment import Experiment
from bdray.judge.truth import truth_of
from bdray.run import run
from bdray.samples import Outline
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.store.store import Store
from bdray.training import silent
from bdray.victim import Backdoored, backdoor
from tests.tiny import quick, tiny

NAMES = Defense.names()


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Backdoored:
    return backdoor(tiny(), Store(str(tmp_path_factory.mktemp("store"))), Path())


def bench(experiment: Experiment) -> Bench:
    """Whose store is not looked into."""
    return Bench(experiment, Store("nowhere"), Path())


def defend(experiment: Experiment, evidence: Evidence) -> tuple[nn.Module, torch.Tensor | None]:
    out = experiment.defense.defend(evidence, experiment.task, rng(0, "defense"), silent)
    return out.model, out.flagged


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, victim: Backdoored) -> None:
    """State-dict keys and shapes unchanged, the victim untouched, the same seed the same model, nothing peeked at."""
    experiment = tiny(defense=quick(name))
    splits = load(experiment.task.data, Path())
    before = copy.deepcopy(victim.model.state_dict())
    evidence, mine = collect(bench(experiment), victim)
    needs = experiment.defense.needs
    assert needs <= {"model", "train", "clean", "truth"}
    assert (evidence.model is None) == ("model" not in needs)
    assert (evidence.train is None) == ("train" not in needs)
    assert (evidence.clean is None) == ("clean" not in needs)
    assert (evidence.truth is None) == ("truth" not in needs)
    assert evidence.outline == Outline(tuple(splits.classes), tuple(splits.train.inputs.shape[1:]))
    assert len(mine) == (len(evidence.clean) if evidence.clean is not None else 0)
    model, flagged = defend(experiment, evidence)
    state = model.state_dict()
    assert [(k, v.shape, v.dtype) for k, v in state.items()] == [(k, v.shape, v.dtype) for k, v in before.items()]
    assert all(torch.equal(v, before[k]) for k, v in victim.model.state_dict().items())
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())
    again, flagged_again = defend(experiment, collect(bench(experiment), victim)[0])
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())
    if flagged is not None:
        assert flagged.dtype == torch.bool
        assert flagged.shape == (len(splits.train),)
        assert flagged_again is not None
        assert torch.equal(flagged, flagged_again)
    if name not in ("none", "ror", "sor"):  # which change what the victim sees
        assert any(not torch.equal(v, before[k]) for k, v in state.items())


def test_filters_frame_the_truth(victim: Backdoored) -> None:
    rates = {}
    for name in ("perfect_filter", "random_filter"):
        experiment = tiny(defense=name)
        splits = load(experiment.task.data, Path())
        evidence, _ = collect(bench(experiment), victim)
        defended = experiment.defense.defend(evidence, experiment.task, rng(3), silent)
        assert defended.flagged is not None
        assert int(defended.flagged.sum()) == len(victim.poison.poisoned)
        rates[name] = truth_of(experiment, victim.poison, splits).rates(defended.flagged)[:2]
    assert rates["perfect_filter"] == (1.0, 0.0)
    assert 0 <= rates["random_filter"][0] < 0.6
    assert rates["random_filter"][1] > 0


def test_the_training_set_is_the_victims(victim: Backdoored) -> None:
    experiment = tiny(defense="perfect_filter")
    splits = load(experiment.task.data, Path())
    evidence, _ = collect(bench(experiment), victim)
    assert evidence.train is not None
    assert evidence.truth is not None
    changed = (evidence.train.inputs != splits.train.inputs).flatten(1).any(1)
    assert torch.equal(changed, evidence.truth)
    assert (evidence.train.targets[evidence.truth] == 0).all()


class TestCleanDraw:
    """Which clean samples a defender gets."""

    held = load(tiny().task.data, Path()).held
    train = len(load(tiny().task.data, Path()).train)

    def draw(self, **fields: object) -> torch.Tensor:
        return Defense.of(quick("nft", **fields)).draw(self.held, self.train, 4, rng(0, "clean"))

    def test_share_is_of_the_training_samples(self) -> None:
        assert len(self.draw(clean=0.05, shots=0)) == round(0.05 * self.train)

    def test_shots_are_balanced(self) -> None:
        for shots in (1, 2):
            assert self.held.targets[self.draw(shots=shots)].bincount().tolist() == [shots] * 4

    def test_no_sample_twice(self) -> None:
        assert len(set(self.draw(clean=0.1, shots=0).tolist())) == round(0.1 * self.train)

    @pytest.mark.parametrize(("fields", "told"), [({"clean": 0.5, "shots": 0}, "held out"), ({"shots": 9}, "class")])
    def test_too_many_is_an_error_that_counts(self, fields: dict, told: str) -> None:
        with pytest.raises(BadInput, match=told):
            self.draw(**fields)


def test_fine_pruning_cuts_the_sleeping_channels(victim: Backdoored) -> None:
    """Columns of the last layer are zero, and they are those with the smallest mean activation on the clean samples."""
    from bdray.defenses.fine_pruning import mean_inputs

    experiment = tiny(defense=quick("fine_pruning", max_drop=1.0, epochs=1))
    evidence, _ = collect(bench(experiment), victim)
    assert evidence.clean is not None
    order = mean_inputs(victim.model, victim.model.net.fc, evidence.clean, experiment.task).argsort()
    model, _ = defend(experiment, evidence)
    cut = (model.net.fc.weight == 0).all(0)
    assert int(cut.sum()) == round(0.99 * len(order))
    assert cut[order[: int(cut.sum())]].all()
    strict = tiny(defense=quick("fine_pruning", max_drop=0.0, epochs=0))
    model, _ = defend(strict, collect(bench(strict), victim)[0])
    task = experiment.task
    before = task.score(task.predict(victim.model, evidence.clean), evidence.clean.targets)
    assert task.score(task.predict(model, evidence.clean), evidence.clean.targets) >= before


def test_fine_pruning_looks_at_the_samples_as_they_are(victim: Backdoored, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is augmented is learnt: nothing is pruned by it."""
    augmented: list[int] = []
    monkeypatch.setattr(type(tiny().task), "augment", lambda _, samples, rng: augmented.append(len(samples)) or samples)
    for epochs in (0, 2):
        experiment = tiny(defense=quick("fine_pruning", epochs=epochs))
        evidence, mine = collect(bench(experiment), victim)
        defend(experiment, evidence)
        assert sum(augmented) == epochs * len(mine)


@pytest.mark.parametrize("name", Defense.names())
def test_who_says_what_it_takes_for_poison(name: str, store: Store) -> None:
    """`flags` is what the row shows."""
    row = run(tiny(defense=quick(name)), store, Path())
    assert (row.false_alarm == row.false_alarm) == Defense.member(name).flags
