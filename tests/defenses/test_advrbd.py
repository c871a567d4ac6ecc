"""AdvrBD: which samples it takes for clean and when, what it climbs and how far, what it isolates and relabels, and the whole
of it. Its partition: test_partition.py."""

import copy
import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdray.bench import Bench, forget
from bdray.defenses import Evidence, unkept
from bdray.defenses import advrbd as module
from bdray.defenses._stages import Stages
from bdray.defenses.advrbd import AdvrBD
from bdray.evidence import collect
from bdray.provenance import provenance
from bdray.run import run
from bdray.samples import Outline, Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput, GaveUp
from bdray.store.store import Store, StoreCheckpoint
from bdray.task import Task
from bdray.training import Training, silent
from bdray.victim import backdoor
from tests.tiny import Line, quick, tiny

TASK = Task.of({"name": "image", "data": {"name": "miniature", "held": 0.0}})
PLAIN = Training(epochs=7, augment=False, momentum=0.0, weight_decay=0.0)


def bright(values: list[int] | Tensor, labels: list[int] | Tensor | int = 1) -> Samples:
    """Images of one brightness each, by which they are known."""
    pixels = torch.as_tensor(values).to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    return Samples(pixels, torch.as_tensor(labels).expand(len(values)).clone())


def evidence(samples: Samples, **more: Any) -> Evidence:
    return Evidence(train=samples, outline=Outline(("a", "b"), tuple(samples.inputs.shape[1:])), training=PLAIN, **more)


# Which samples are taken for clean


class Taking:
    """The enhancement of a training set where the divergences are told, and nothing is learnt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, train: Samples, values: Tensor, **fields: Any) -> None:
        """`values` are the divergences of the brightnesses [256] in each iteration."""
        self.asked: list[Tensor] = []
        self.learnt: list[Tensor] = []
        self.unlearnt: list[Tensor] = []
        self.shown: list[tuple[int, Tensor]] = []
        self.told: list[tuple[int, dict[str, float]]] = []

        def told(model: nn.Module, samples: Samples, *_: Any) -> Tensor:
            self.asked.append(samples.inputs[:, 0, 0, 0].long())
            return values[len(self.asked) - 1][self.asked[-1]]

        def unlearn(defense: AdvrBD, model: nn.Module, samples: Samples, dirty: Tensor, clean: Tensor, *_: Any) -> float:
            assert samples is train
            self.learnt.append(dirty.clone())
            self.unlearnt.append(clean.clone())
            return 0.25

        def show(step: int, model: nn.Module, clean: Tensor) -> None:
            self.shown.append((step, clean.clone()))

        monkeypatch.setattr(module, "divergences", told)
        monkeypatch.setattr(AdvrBD, "unlearn", unlearn)
        tell = lambda step, **metrics: self.told.append((step, metrics))  # noqa: E731
        self.table = AdvrBD(**fields).enhance(Line(), train, TASK, PLAIN, rng(0), tell, show)
        self.taken = torch.tensor(self.table["taken"].to_pylist())


def test_in_every_iteration_those_that_move_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 of 50 each time, of those not taken before; what was taken stays taken, and is never asked again."""
    order = torch.randperm(256, generator=rng(0))[:50]
    values = torch.rand(3, 256, generator=rng(1))
    found = Taking(monkeypatch, bright(order), values, partition_rate=0.1, iterations=3)
    left = set(order.tolist())
    for iteration in (1, 2, 3):
        wanted = set(sorted(left, key=lambda name: -float(values[iteration - 1][name]))[:5])
        assert set(found.asked[iteration - 1].tolist()) == left
        assert set(order[found.taken == iteration].tolist()) == wanted
        left -= wanted
        assert torch.equal(found.unlearnt[iteration - 1], (found.taken > 0) & (found.taken <= iteration))
        assert torch.equal(found.learnt[iteration - 1], ~found.unlearnt[iteration - 1])
        step, clean = found.shown[iteration - 1]
        assert step == iteration
        assert torch.equal(clean, found.unlearnt[iteration - 1])
    assert found.taken.bincount().tolist() == [35, 5, 5, 5]
    assert found.table["sample"].to_pylist() == list(range(50))
    assert found.table["divergence"].to_pylist() == values[0][order].tolist()
    assert [step for step, _ in found.told] == [1, 2, 3]
    for index, (_, metrics) in enumerate(found.told):
        assert metrics.keys() == {"loss", "divergence", "partition_seconds", "unlearning_seconds"}
        assert metrics["loss"] == 0.25
        assert metrics["divergence"] == pytest.approx(float(values[index][found.asked[index]].median()))


def test_the_same_samples_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order, shuffled = torch.arange(100, 140), torch.randperm(40, generator=rng(3))
    values, labels = torch.rand(4, 256, generator=rng(1)), torch.arange(40) % 3
    for balanced in (False, True):
        fields: dict[str, Any] = {"partition_rate": 0.2, "iterations": 4, "balanced": balanced}
        straight = Taking(monkeypatch, bright(order, labels), values, **fields).taken
        found = Taking(monkeypatch, bright(order[shuffled], labels[shuffled]), values, **fields).taken
        assert torch.equal(found, straight[shuffled])


def test_balanced_takes_its_share_of_every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30, 10 and 20 samples a tenth each time, though those of label 1 move least."""
    labels = torch.tensor([0, 2, 0, 1, 2, 0]).repeat(10)
    values = torch.rand(2, 256, generator=rng(1))
    values[:, :60] -= (labels == 1).float()
    found = Taking(monkeypatch, bright(torch.arange(60), labels), values, partition_rate=0.1, iterations=2, balanced=True)
    for label, count in enumerate((3, 1, 2)):
        mine = (labels == label).nonzero().flatten()
        first = mine[values[0][mine].argsort(descending=True)][:count]
        rest = torch.tensor([i for i in mine.tolist() if i not in first.tolist()])
        second = rest[values[1][rest].argsort(descending=True)][:count]
        assert sorted(mine[found.taken[mine] == 1].tolist()) == sorted(first.tolist())
        assert sorted(mine[found.taken[mine] == 2].tolist()) == sorted(second.tolist())
    unbalanced = Taking(monkeypatch, bright(torch.arange(60), labels), values, partition_rate=0.1, iterations=2)
    assert not (unbalanced.taken[labels == 1] > 0).any()


def test_relearnt_are_those_that_moved_least_at_the_first_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 of 60, though the second partition ranks them otherwise, and those taken for clean come back in no iteration."""
    values = torch.rand(2, 256, generator=rng(1))
    for rate, left_over in ((0.2, 12), (0.45, 6)):
        fields: dict[str, Any] = {"partition_rate": rate, "iterations": 2, "relearn_rate": 0.2}
        found = Taking(monkeypatch, bright(torch.arange(60)), values, **fields)
        for iteration in (1, 2):
            left = [i for i in range(60) if not 0 < found.taken[i] <= iteration]
            wanted = sorted(left, key=lambda i: float(values[0][i]))[:12]
            assert found.learnt[iteration - 1].nonzero().flatten().tolist() == sorted(wanted)
        assert found.learnt[1].sum() == left_over
    few = AdvrBD(relearn_rate=0.0).relearnt(torch.tensor([0.2, 0.1, 0.1, 0.0]), torch.tensor([0, 0, 0, 1]))
    assert few.tolist() == [False, True, True, False]


def test_at_least_one_is_taken_and_never_more_than_there_are() -> None:
    moved, labels = torch.tensor([0.3, 0.1, 0.2]), torch.tensor([0, 1, 1, 0, 0, 1])
    rest = torch.tensor([1, 4, 5])  # one is left of label 0
    assert AdvrBD(partition_rate=0.01).choose(moved, rest, labels).tolist() == [1]
    assert AdvrBD(partition_rate=0.5, iterations=1).choose(moved, rest, labels).tolist() == [1, 5, 4]
    assert AdvrBD(partition_rate=0.01, balanced=True).choose(moved, rest, labels).tolist() == [4, 1]
    assert AdvrBD(partition_rate=0.6, iterations=1, balanced=True).choose(moved, rest, labels).tolist() == [4, 1, 5]


@pytest.mark.parametrize(("rate", "iterations"), [(0.1, 10), (0.5, 2), (1.0, 1), (0.2, 6)])
def test_no_partition_takes_everything(rate: float, iterations: int) -> None:
    with pytest.raises(BadInput, match=r"^advrbd\.partition_rate: got .*takes the whole training set.*less than 1$"):
        AdvrBD(partition_rate=rate, iterations=iterations)
    with pytest.raises(BadInput, match=r"^advrbd\.partition_rate: got"):
        tiny(defense={"name": "advrbd", "partition_rate": rate, "iterations": iterations})
    AdvrBD(partition_rate=0.99 / iterations, iterations=iterations)


@pytest.mark.parametrize(("balanced", "each"), [(False, 1), (True, 2)])
def test_at_least_one_an_iteration_may_be_everything_too(balanced: bool, each: int) -> None:
    """A share of 0.004 of 50 samples, or of each of two labels, is still one."""
    train = bright(torch.arange(50), torch.arange(50) % 2)
    splits = Splits(train, train, train, "ab")
    AdvrBD(partition_rate=0.004, iterations=48 // each, balanced=balanced).check(TASK, Outline(("a", "b"), (3, 8, 8)), splits)
    told = rf"^advrbd\.iterations: got 49, in each of which {each} of 50 training .* at most {48 // each}; lower it$"
    with pytest.raises(BadInput, match=told):
        AdvrBD(partition_rate=0.004, iterations=49, balanced=balanced).check(TASK, Outline(("a", "b"), (3, 8, 8)), splits)
    AdvrBD(partition_rate=0.96, iterations=1).check(TASK, Outline(("a", "b"), (3, 8, 8)), splits)
    told = r"^advrbd\.partition_rate: got 0\.98, which takes 49 of 50 training .* at most 48; lower it$"
    with pytest.raises(BadInput, match=told):
        AdvrBD(partition_rate=0.98, iterations=1).check(TASK, Outline(("a", "b"), (3, 8, 8)), splits)


def test_the_perturbation_in_pixels() -> None:
    """An eighth of 16 pixels, of the shorter side; five steps of half the bound."""
    found = AdvrBD(eps=51.0, steps=5, climb="ce").perturbation(Samples(torch.zeros(1, 3, 20, 16), torch.zeros(1)))
    assert (found.radius, found.steps, found.climb) == (2, 5, "ce")
    assert (found.eps, found.step) == pytest.approx((0.2, 0.1))
    assert AdvrBD().perturbation(Samples(torch.zeros(1, 3, 32, 40), torch.zeros(1))).radius == 4


# What is unlearnt


def two_classes(losses: list[float]) -> Tensor:
    """Logits whose cross-entropy to label 1 is so large: ln(1 + exp(-z)) of a difference z."""
    heights = [-math.log(math.exp(loss) - 1) for loss in losses]
    return torch.tensor([[0.0, height] for height in heights], requires_grad=True)


def climbed(defense: AdvrBD, outputs: Tensor, targets: Tensor) -> tuple[float, list[float]]:
    """What is climbed, and its gradient for the logits of label 1."""
    value = defense.ascent(outputs, targets)
    (slope,) = torch.autograd.grad(value, outputs)
    return float(value.detach()), slope[:, 1].tolist()


def pull(loss: float) -> float:
    """The slope of one sample's cross-entropy: the probability of label 1, less 1."""
    return math.exp(-loss) - 1


def test_a_sample_above_the_level_counts_no_more() -> None:
    """The level is 2 ln 2: 1.386."""
    losses = [0.1, 1.3, 1.5, 7.0]
    value, slopes = climbed(AdvrBD(cap="loss", level=2.0), two_classes(losses), torch.ones(4, dtype=torch.int64))
    assert value == pytest.approx((0.1 + 1.3 + 2 * 2 * math.log(2)) / 4, rel=1e-5)
    assert slopes[:2] == pytest.approx([pull(0.1) / 4, pull(1.3) / 4], rel=1e-5)
    assert slopes[2:] == [0, 0]


def test_flooding_draws_the_mean_to_the_level_from_either_side() -> None:
    """Single samples above it still count; what matters is the mean."""
    targets, defense = torch.ones(2, dtype=torch.int64), AdvrBD(cap="flooding", level=2.0)
    value, slopes = climbed(defense, two_classes([0.2, 2.0]), targets)
    assert value == pytest.approx(1.1 - 2 * math.log(2), rel=1e-5)
    assert slopes == pytest.approx([pull(0.2) / 2, pull(2.0) / 2], rel=1e-5)
    value, slopes = climbed(defense, two_classes([0.2, 4.0]), targets)
    assert value == pytest.approx(2 * math.log(2) - 2.1, rel=1e-5)
    assert slopes == pytest.approx([-pull(0.2) / 2, -pull(4.0) / 2], rel=1e-5)


def test_a_batch_is_left_alone_once_little_of_it_is_right() -> None:
    """Right are the losses below ln 2. A share of just `keep` is little."""
    defense, targets = AdvrBD(cap="accuracy", keep=0.5), torch.ones(4, dtype=torch.int64)
    value, slopes = climbed(defense, two_classes([0.1, 0.2, 0.3, 5.0]), targets)
    assert value == pytest.approx(1.4, rel=1e-5)
    assert slopes == pytest.approx([pull(loss) / 4 for loss in (0.1, 0.2, 0.3, 5.0)], rel=1e-5)
    value, slopes = climbed(defense, two_classes([0.1, 0.2, 0.9, 5.0]), targets)
    assert (value, slopes) == (0, [0] * 4)


@pytest.mark.parametrize("cap", ["loss", "flooding"])
def test_the_level_is_in_units_of_a_blind_guess(cap: Any) -> None:
    """A blind guess between five classes is below 1.01 of them, and above 0.99."""
    blind, targets = torch.zeros(3, 5, requires_grad=True), torch.tensor([0, 4, 2])
    assert climbed(AdvrBD(cap=cap, level=1.01), blind, targets)[1] == pytest.approx([0.2 / 3] * 3)
    assert climbed(AdvrBD(cap=cap, level=0.99), blind, targets)[1] == pytest.approx([0.0 if cap == "loss" else -0.2 / 3] * 3)


def test_a_wrong_label_is_the_next_class() -> None:
    """Of the losses of logits 0, 1 and 2 to the labels 1 and 0 instead of 0 and 2; no cap."""
    outputs, targets = torch.tensor([[0.0, 1.0, 2.0]] * 2, requires_grad=True), torch.tensor([0, 2])
    height = math.log(1 + math.e + math.e**2)
    for cap in ("loss", "flooding", "accuracy"):
        value = AdvrBD(unlearn_by="wrong_labels", cap=cap, level=0.01, keep=1.0).ascent(outputs, targets)
        assert value.item() == pytest.approx(-((height - 1) + height) / 2, rel=1e-6)
        (slope,) = torch.autograd.grad(value, outputs)
        shares = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
        wanted = torch.stack([torch.eye(3)[1] - shares, torch.eye(3)[0] - shares]) / 2
        assert torch.allclose(slope, wanted, rtol=1e-5)


def unlearnt(
    defense: AdvrBD,
    model: nn.Module,
    train: Samples,
    clean: Tensor,
    training: Training = PLAIN,
    dirty: Tensor | None = None,
) -> float:
    optimizer = training.model_copy(update={"lr": defense.lr}).stepper(model.parameters())
    dirty = ~clean if dirty is None else dirty
    return defense.unlearn(model, train, dirty, clean, TASK, training, optimizer, rng(0))


def test_descent_and_ascent_by_hand() -> None:
    """Two epochs of one step: down the losses of white images of label 0, up that of grey ones of label 1."""
    train = Samples(torch.cat([bright([255] * 3).inputs, bright([102] * 2).inputs]), torch.tensor([0, 0, 0, 1, 1]))
    recipe = PLAIN.model_copy(update={"momentum": 0.9, "weight_decay": 0.1})
    line = Line()
    mean = unlearnt(AdvrBD(lr=0.5, epochs=2), line, train, torch.arange(5) >= 3, recipe)
    weight, speed, losses = 0.5, 0.0, []
    for _ in range(2):
        losses.append(math.log(1 + math.exp(weight)))
        down, up = 1 / (1 + math.exp(-weight)), 0.4 * (1 / (1 + math.exp(-0.4 * weight)) - 1)
        speed = 0.9 * speed + down - up + 0.1 * weight
        weight -= 0.5 * speed
    assert line.weight.item() == pytest.approx(weight, rel=1e-5)
    assert mean == pytest.approx(sum(losses) / 2, rel=1e-5)


class Watched(nn.Module):
    """Keeps what it is asked, and in which mode; its statistics follow the brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(3, momentum=0.1), nn.Linear(192, 2)
        self.asked: list[tuple[bool, list[int]]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append((self.norm.training, (x[:, 0, 0, 0] * 255).round().int().tolist()))
        out: Tensor = self.last(self.norm(x).flatten(1))
        return out


def test_the_rest_is_learnt_once_an_epoch_beside_a_draw_of_what_is_unlearnt() -> None:
    """33 samples in steps of 8; with every one 8 of the 15 taken for clean, or all where there are fewer."""
    model, clean = Watched(), torch.arange(48) >= 33
    unlearnt(AdvrBD(batch=8, epochs=2), model, bright(torch.arange(48), 0), clean)
    learnt = [[name for name in names if name < 33] for _, names in model.asked]
    assert [len(names) for names in learnt] == [8, 8, 8, 9] * 2
    assert sorted(chain(*learnt[:4])) == sorted(chain(*learnt[4:])) == list(range(33))
    assert learnt[:4] != learnt[4:]
    drawn = [[name for name in names if name >= 33] for _, names in model.asked]
    assert all(len(set(names)) == len(names) == 8 for names in drawn)
    assert set(chain(*drawn)) == set(range(33, 48))
    model.asked.clear()
    unlearnt(AdvrBD(batch=8), model, bright(torch.arange(48), 0), torch.arange(48) >= 45)
    assert all({name for name in names if name >= 45} == {45, 46, 47} for _, names in model.asked)


def test_a_share_is_relearnt_in_as_many_steps_as_all_of_the_rest() -> None:
    """33 are not taken for clean: 4 steps an epoch, each of 8 of the 10 that are learnt, all of them before any comes again."""
    model, clean = Watched(), torch.arange(48) >= 33
    few = torch.arange(48) < 10
    unlearnt(AdvrBD(batch=8, epochs=2), model, bright(torch.arange(48), 0), clean, dirty=few)
    learnt = [[name for name in names if name < 33] for _, names in model.asked]
    assert [len(names) for names in learnt] == [8, 2] * 4
    assert all(sorted(chain(*learnt[at : at + 2])) == list(range(10)) for at in range(0, 8, 2))


@pytest.mark.parametrize("bn", ["joint", "frozen"])
def test_the_statistics_of_batchnorm(bn: Any) -> None:
    """joint: of what is learnt and unlearnt as one batch; frozen: left as they are, and used."""
    model = Watched().train(bn == "frozen")  # however the partition left it
    model.norm.register_buffer("running_mean", torch.full((3,), 0.5))
    before = copy.deepcopy(model.norm.state_dict())
    unlearnt(AdvrBD(bn=bn, batch=4), model, bright([51, 51, 51, 51, 255, 255], 0), torch.arange(6) >= 4)
    assert [mode for mode, _ in model.asked] == [bn == "joint"]
    after = model.norm.state_dict()
    if bn == "joint":
        mean = (4 * 0.2 + 2 * 1.0) / 6
        assert after["running_mean"].tolist() == pytest.approx([0.9 * 0.5 + 0.1 * mean] * 3)
        assert int(after["num_batches_tracked"]) == 1
    else:
        assert all(torch.equal(after[name], before[name]) for name in ("running_mean", "running_var", "num_batches_tracked"))
        assert not torch.equal(after["weight"], before["weight"])


@pytest.mark.parametrize(("own", "augment"), [(True, False), (True, True), (False, True)])
def test_augmented_as_the_victim_was_if_at_all(monkeypatch: pytest.MonkeyPatch, own: bool, augment: bool) -> None:
    seen: list[int] = []

    def spy(self: Task, samples: Samples, draw: torch.Generator) -> Samples:
        seen.append(len(samples))
        return samples

    monkeypatch.setattr(type(TASK), "augment", spy)
    recipe = PLAIN.model_copy(update={"augment": augment})
    unlearnt(AdvrBD(augment=own), Line(), bright([1, 2, 3, 4]), torch.arange(4) >= 3, recipe)
    assert seen == ([4] if own and augment else [])


@pytest.mark.parametrize("epochs", [1, 3])
def test_ascent_without_end_is_told(epochs: int) -> None:
    """Also where the weights are lost in the last step, whose loss was finite."""
    train, recipe = bright([255] * 4, torch.tensor([1, 1, 0, 0])), PLAIN.model_copy(update={"weight_decay": 10.0})
    with pytest.raises(
        FloatingPointError, match=r"no longer finite after unlearning; lower defense\.lr \(1e\+38\) or defense\.level \(2\)"
    ):
        unlearnt(AdvrBD(lr=1e38, epochs=epochs), Line(), train, torch.arange(4) >= 2, recipe)


# What is isolated, and what is made of it


class Stub(nn.Module):
    """Says 1 of what is brighter than a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), x[:, 0, 0, 0] * 255 - self.threshold], dim=1)


class Defending:
    """A defense whose enhanced model says 1 above 100, and whose clean model says 1 above 50; nothing is trained. The enhanced
    model's losses may be told instead."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, train: Samples, losses: list[float] | None = None, **fields: Any
    ) -> None:
        self.built = [Stub(100.5), Stub(50.5)]
        waiting = list(self.built)
        self.stages: list[tuple[str, nn.Module, Samples, Training]] = []
        self.shown: list[tuple[int, nn.Module]] = []

        def fit(stages: Stages, stage: str, model: nn.Module, samples: Samples, training: Training, **_: Any) -> nn.Module:
            self.stages.append((stage, model, samples, training))
            return model

        monkeypatch.setattr(type(TASK), "build", lambda *_: waiting.pop(0))
        monkeypatch.setattr(Stages, "fit", fit)
        monkeypatch.setattr(AdvrBD, "enhance", lambda *_: "the table")
        if losses is not None:
            monkeypatch.setattr(module, "losses", lambda model, *_: torch.tensor(losses) if model is self.built[0] else None)

        def show(step: int, model: nn.Module) -> None:
            self.shown.append((step, model))

        self.defended = AdvrBD(**fields).defend(evidence(train, show=show), TASK, rng(0), silent)


VALUES = [0, 40, 60, 90, 110, 150, 60, 150]
LABELS = [0, 1, 1, 0, 1, 0, 0, 1]
RIGHT = [True, False, False, True, True, False, True, True]
"""Where the enhanced model says the label: those are taken for poison."""


def test_what_the_enhanced_model_gets_wrong_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    train = bright(VALUES, torch.tensor(LABELS))
    found = Defending(monkeypatch, train)
    assert found.defended.flagged is not None
    assert found.defended.flagged.tolist() == RIGHT
    assert found.defended.model is found.built[1]
    assert found.defended.tables["divergences"] == "the table"
    (warmup, first, everything, recipe), (clean, second, kept, again) = found.stages
    assert (warmup, clean) == ("warmup", "clean")
    assert (first, second) == tuple(found.built)
    assert torch.equal(everything.inputs, train.inputs)
    assert torch.equal(everything.targets, train.targets)
    assert recipe == PLAIN.model_copy(update={"epochs": 10})
    assert torch.equal(kept.inputs, train.inputs[~torch.tensor(RIGHT)])
    assert kept.targets.tolist() == [1, 1, 0]
    assert again == PLAIN
    assert found.shown == [(0, found.built[0])]


LOSSES = [0.001, 5.0, 7.0, 3.0, 0.003, 4.0, 0.002, 6.0]


def test_or_what_it_has_learnt_best_is_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of the samples that it gets right stand out by their loss; the other two do not, and are kept."""
    train = bright(VALUES, torch.tensor(LABELS))
    low = [True, False, False, False, True, False, True, False]
    found = Defending(monkeypatch, train, LOSSES, isolate="loss")
    assert found.defended.flagged is not None
    assert found.defended.flagged.tolist() == low
    assert torch.equal(found.stages[1][2].inputs, train.inputs[~torch.tensor(low)])
    assert found.defended.tables["isolation"]["sample"].to_pylist() == list(range(8))
    assert found.defended.tables["isolation"]["loss"].to_pylist() == pytest.approx(LOSSES)
    argmax = Defending(monkeypatch, train, LOSSES)
    assert argmax.defended.flagged is not None
    assert argmax.defended.flagged.tolist() == RIGHT
    assert 0.98 < found.defended.separation == argmax.defended.separation < 1


def test_only_what_was_flagged_is_relabelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clean model; the others keep their labels though it would say otherwise of 40 and 150."""
    train = bright(VALUES, torch.tensor(LABELS))
    found = Defending(monkeypatch, train, relabel=True, relabel_epochs=4, relabel_lr=0.02, iterations=3)
    assert [stage for stage, *_ in found.stages] == ["warmup", "clean", "relabel"]
    _, model, samples, recipe = found.stages[2]
    assert model is found.built[1]
    assert torch.equal(samples.inputs, train.inputs)
    assert samples.targets.tolist() == [0, 1, 1, 1, 1, 0, 1, 1]
    assert recipe == PLAIN.model_copy(update={"epochs": 4, "lr": 0.02, "schedule": "constant"})
    assert found.shown == [(0, found.built[0]), (4, found.built[1])]
    assert train.targets.tolist() == LABELS


def test_too_few_clean_samples_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GaveUp, match="found 1 of 4 samples clean, too few to train on"):
        Defending(monkeypatch, bright([0, 150, 150, 150]))


def test_a_team_of_one_trains_in_the_defense(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the victim was trained by does not matter."""
    monkeypatch.setattr("tests.defenses.test_advrbd.PLAIN", PLAIN.model_copy(update={"workers": 4}))
    found = Defending(monkeypatch, bright(VALUES, torch.tensor(LABELS)))
    assert {recipe.workers for *_, recipe in found.stages} == {1}


@pytest.mark.parametrize("augment", [False, True])
def test_the_clean_model_is_trained_as_the_victim_was(monkeypatch: pytest.MonkeyPatch, augment: bool) -> None:
    """With its augmentation, whatever is done in the warm-up."""
    monkeypatch.setattr("tests.defenses.test_advrbd.PLAIN", PLAIN.model_copy(update={"augment": True}))
    found = Defending(monkeypatch, bright(VALUES, torch.tensor(LABELS)), augment=augment)
    assert [recipe.augment for *_, recipe in found.stages] == [augment, True]


# The whole


WHOLE = tiny(
    defense=quick("advrbd", iterations=3, relabel=True, relabel_epochs=1), attack={"name": "badnets", "target": 1, "rate": 0.1}
)


def curves(store: Store, of: str) -> dict[tuple[int, str], float]:
    table = store.table("curves", WHOLE.key())
    assert table is not None
    return {(line["step"], line["metric"]): line["value"] for line in table.to_pylist() if line["of"] == of}


def test_the_whole_is_deterministic(store: Store) -> None:
    """Twice the same row, tables and truth; and the same where nobody judges, who might draw or change a mode."""
    seen = []
    for _ in range(2):
        row = vars(run(WHOLE, store, Path(), again=True))
        numbers = {name: value for name, value in row.items() if name not in ("seconds", "peak_memory", "time")}
        tables = [store.table(kind, WHOLE.key()) for kind in ("divergences", "flags")]
        seen.append((json.dumps(numbers, default=str), tables, curves(store, "truth")))
    assert seen[0] == seen[1]
    alone, _ = collect(Bench(WHOLE, store, Path()), backdoor(WHOLE, store, Path()))
    defended = WHOLE.defense.defend(alone, WHOLE.task, rng(0, "defense", 0), silent)
    table, flags = tables
    assert table is not None
    assert flags is not None
    assert table.select(["sample", "divergence", "taken"]).equals(defended.tables["divergences"])
    assert defended.flagged is not None
    assert sum(line["flagged_poisoned"] + line["flagged_clean"] for line in flags.to_pylist()) == int(defended.flagged.sum())


def test_what_stands_in_the_store(store: Store) -> None:
    """What is true of each sample, how it went by class, how far it was, and the truth of every iteration."""
    row = run(WHOLE, store, Path())
    table, flags = (store.table(kind, row.key) for kind in ("divergences", "flags"))
    truth, told = (curves(store, of) for of in ("truth", "defense"))
    assert table is not None
    assert flags is not None
    assert table.column_names == ["sample", "divergence", "taken", "label", "truth_poisoned", "truth_covered"]
    assert table["sample"].to_pylist() == list(range(128))
    taken, poisoned, labels = (torch.tensor(table[name].to_pylist()) for name in ("taken", "truth_poisoned", "label"))
    assert taken.bincount().tolist() == [128 - 3 * 26, 26, 26, 26]  # a fifth each time
    assert int(poisoned.sum()) == row.poisoned == 13
    assert (labels[poisoned] == 1).all()
    scores = {"utility", "asr", "target_utility"}
    assert {step for step, _ in truth} == {0, 1, 2, 3, 4}
    for step in (1, 2, 3):
        assert {name for at, name in truth if at == step} == scores | {"clean_precision", "clean_recall"}
        mine = (taken > 0) & (taken <= step)
        assert truth[step, "clean_precision"] == pytest.approx(float((~poisoned)[mine].float().mean()))
        assert truth[step, "clean_recall"] == pytest.approx(float(mine[~poisoned].float().mean()))
    assert all({name for at, name in truth if at == step} == scores for step in (0, 4))  # warmed up; before the relabelling
    enhancement = [f"enhancement_{name}" for name in ("loss", "divergence", "partition_seconds", "unlearning_seconds")]
    stages = [["warmup_loss", "warmup_seconds"], *[enhancement] * 3, *[["clean_loss", "clean_seconds"]] * 2]
    stages.append(["relabel_loss", "relabel_seconds"])
    assert list(told) == [(step, name) for step, names in enumerate(stages, start=1) for name in names]
    lines = flags.to_pylist()
    assert sum(line["poisoned"] for line in lines) == lines[1]["poisoned"] == 13
    assert row.flag_recall == pytest.approx(lines[1]["flagged_poisoned"] / 13)
    assert row.target_false_alarm == pytest.approx(lines[1]["flagged_clean"] / lines[1]["clean"])
    assert row.false_alarm == pytest.approx(sum(line["flagged_clean"] for line in lines) / (128 - 13))


def test_settings_share_a_warmup(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another setting has trained is not trained again, changes nothing, and its seconds count; another seed or another
    recipe trains its own."""
    saved: list[str] = []
    save = StoreCheckpoint.save

    def spy(checkpoint: StoreCheckpoint, tensors: dict[str, Tensor], epochs: int) -> None:
        saved.append(checkpoint._path)
        if "." in Path(checkpoint._path).stem:
            tensors["history"][-1, 1] = 1000.0
        save(checkpoint, tensors, epochs)

    monkeypatch.setattr(StoreCheckpoint, "save", spy)
    balanced = tiny(**{**WHOLE.config(), "defense": {**WHOLE.defense.config(), "balanced": True}})
    alone = run(balanced, Store(f"{store.uri}-alone"), Path())
    saved.clear()
    first = run(WHOLE, store, Path())
    kept = [path for path in saved if Path(path).stem.startswith(f"{WHOLE.victim_key()}.")]
    assert len(kept) == 1
    assert first.seconds < 1000
    saved.clear()
    second = run(balanced, store, Path())
    assert saved == []
    assert second.seconds > 1000
    table = store.table("curves", second.key)
    assert table is not None
    assert 1000.0 in [line["value"] for line in table.to_pylist() if line["metric"] == "warmup_seconds"]
    same = ("utility_after", "asr_after", "flag_recall", "false_alarm", "kept_agreement")
    assert [getattr(second, name) for name in same] == [getattr(alone, name) for name in same]
    for change in ({"seed": 1}, {"warmup": 2}):
        run(tiny(**{**WHOLE.config(), "defense": {**WHOLE.defense.config(), **change}}), store, Path())
        assert len(set(saved)) == 1
        assert set(saved).isdisjoint(kept)
        saved.clear()


def test_a_victim_made_anew_with_other_poison_has_a_warmup_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(WHOLE, store, Path())
    before = set(store.files.list("checkpoints"))
    draw = lambda seed, *names: rng(seed + (names == ("poison",)), *names)  # noqa: E731
    monkeypatch.setattr("bdray.victim.rng", draw)
    forget("victim")
    for path in store.files.list(f"victims/{WHOLE.victim_key()}"):
        store.files.delete(path)
    run(WHOLE, store, Path(), again=True)
    assert len(set(store.files.list("checkpoints")) - before) == 1


def test_a_warmup_of_another_torch_is_not_taken_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row says with which torch its defense ran."""
    run(WHOLE, store, Path())
    before = set(store.files.list("checkpoints"))
    monkeypatch.setattr("bdray.evidence.provenance", lambda: {**provenance(), "torch_version": "9.9"})
    run(WHOLE, store, Path(), again=True)
    assert len(set(store.files.list("checkpoints")) - before) == 1


@pytest.mark.parametrize("name", ["advrbd", "none"])
def test_no_defense_is_handed_the_store(name: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In which the attack lies; and who has no training set has nothing to keep."""
    experiment = WHOLE if name == "advrbd" else tiny(defense={"name": name})
    handed: list[Evidence] = []
    defend = type(experiment.defense).defend

    def spy(self: Any, evidence: Evidence, *rest: Any) -> Any:
        handed.append(evidence)
        return defend(self, evidence, *rest)

    monkeypatch.setattr(type(experiment.defense), "defend", spy)
    run(experiment, store, Path())
    ((show, keep),) = ((evidence.show, evidence.keep) for evidence in handed)
    assert vars(show) == vars(keep) == {}
    assert (keep is unkept) == (name == "none")
