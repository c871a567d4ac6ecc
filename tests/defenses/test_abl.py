"""ABL: what it isolates, where the losses are known, and what it climbs."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bdray.defenses import Evidence
from bdray.defenses._stages import Stages
from bdray.defenses.abl import Abl, Dropping, losses, lowest
from bdray.samples import Outline, Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.task import Task
from bdray.training import Training, silent
from tests.tiny import Line

TASK = Task.of({"name": "image", "data": "miniature"})


def bright(values: list[int], label: int = 1) -> Samples:
    """Images of one brightness each; the brighter, the lower is the loss of label 1."""
    pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    return Samples(pixels, torch.full((len(values),), label))


def evidence(samples: Samples) -> Evidence:
    return Evidence(train=samples, outline=Outline(("a", "b"), tuple(samples.inputs.shape[1:])), training=Training())


@pytest.mark.parametrize(
    ("ascent", "loss", "wanted", "slope"),
    [
        ("flooding", 0.2, 0.8, -1),
        ("flooding", 1.2, 1.2, 1),
        ("flooding", 0.0, 1.0, -1),
        ("lga", 0.2, -0.2, -1),
        ("lga", 1.2, 1.2, 1),
        ("lga", 0.5, 0.0, 0),
    ],
)
def test_local_gradient_ascent(ascent: Any, loss: float, wanted: float, slope: float) -> None:
    value = torch.tensor(loss, requires_grad=True)
    kept = Abl(ascent=ascent).kept_up(value)
    assert float(kept.detach()) == pytest.approx(wanted)
    kept.backward()
    assert value.grad is not None
    assert float(value.grad) == slope


def test_gamma_is_where_the_loss_turns() -> None:
    for ascent in ("flooding", "lga"):
        value = torch.tensor(0.9, requires_grad=True)
        Abl(ascent=ascent, gamma=1.0).kept_up(value).backward()
        assert value.grad is not None
        assert float(value.grad) == -1


def test_each_samples_own_loss() -> None:
    """In order, whatever the batches, and where the model stands."""
    values = [(7 * i) % 256 for i in range(1203)]
    found = losses(Line().train(), bright(values), TASK)
    wanted = [math.log(1 + math.exp(-0.5 * value / 255)) for value in values]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_a_batchs_statistics_are_not_its_samples() -> None:
    """Eval mode: a sample's loss does not depend on the others."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 2)).train()
    samples = bright([10, 90, 200])
    alone = [float(losses(model.train(), samples.take(torch.tensor([i])), TASK)) for i in range(3)]
    assert losses(model.train(), samples, TASK).tolist() == pytest.approx(alone, rel=1e-5)


def test_the_lowest() -> None:
    values = torch.tensor([3.0, 1.0, 2.0, 1.0, 0.5])
    assert lowest(values, 2).tolist() == [False, True, False, False, True]
    assert lowest(values, 3).tolist() == [False, True, False, True, True]


def test_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is isolated are the brightest 5 of 100, and each stage gets its samples, its rate and its epochs."""
    monkeypatch.setattr(type(TASK), "build", lambda *_: Line())
    seen: dict[str, tuple[Samples, Training, Any]] = {}

    def spy(self: Stages, stage: str, model: Line, samples: Samples, training: Training, loss: Any = None) -> None:
        assert model.weight.tolist() == [0.5]
        seen[stage] = (samples, training, loss)

    monkeypatch.setattr(Stages, "fit", spy)
    values = torch.randperm(100, generator=rng(0)) + 50
    train = bright(values.tolist())
    flagged = Abl(isolation=0.05).defend(evidence(train), TASK, rng(0), silent).flagged
    assert flagged is not None
    assert torch.equal(flagged, values >= 145)
    assert list(seen) == ["tuning", "finetuning", "unlearning"]
    assert [len(samples) for samples, _, _ in seen.values()] == [100, 95, 5]
    assert seen["unlearning"][0].inputs.min() == 145
    assert seen["finetuning"][0].inputs.max() == 144
    common: dict[str, Any] = {"batch": 128, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
    tuning, finetuning, unlearning = (training for _, training, _ in seen.values())
    constant: dict[str, Any] = {**common, "schedule": "constant", "augment": False}
    assert tuning == Training(**constant, epochs=10, lr=0.1)
    assert finetuning == Dropping(**common, epochs=60, lr=0.1, after=40)
    assert unlearning == Training(**constant, epochs=5, lr=5e-4)
    batch = TASK.collate(train)
    loss = float(F.cross_entropy(Line()(batch.inputs), batch.targets).detach())
    assert loss > 0.5
    assert seen["tuning"][2](Line(), batch).tolist() == pytest.approx(loss)
    assert seen["finetuning"][2] is None
    assert seen["unlearning"][2](Line(), batch).tolist() == pytest.approx(-loss)


def test_the_rate_of_finetuning() -> None:
    """Each step of the first 40 epochs of 60 has the full rate, each after it a tenth."""
    training = Dropping(epochs=60, lr=0.1, after=40)
    rates = [training.lr_at((epoch * 7 + step) / (60 * 7)) for epoch in range(60) for step in range(7)]
    assert rates == pytest.approx([0.1] * 280 + [0.01] * 140)
    assert Dropping(epochs=2, lr=0.1, after=40).lr_at(0.999) == 0.1


def test_all_epochs_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 and 60 and 5, counted as one sequence; each of the last 5 climbs, the authors' first does not."""
    monkeypatch.setattr(type(TASK), "build", lambda *_: Line())
    monkeypatch.setattr(type(TASK), "augment", lambda self, samples, draw: samples)
    told: list[tuple[int, dict[str, float]]] = []
    train = bright([255] * 100)
    Abl(isolation=0.1).defend(evidence(train), TASK, rng(0), lambda step, **m: told.append((step, m)))
    assert [step for step, _ in told] == list(range(1, 76))
    stages = [next(iter(metrics)).partition("_")[0] for _, metrics in told]
    assert stages == ["tuning"] * 10 + ["finetuning"] * 60 + ["unlearning"] * 5
    climbed = [-metrics["unlearning_loss"] for _, metrics in told[70:]]
    assert all(math.isclose(a, b, rel_tol=1e-2) and b > a for a, b in itertools.pairwise(climbed))


def test_stages_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(TASK), "build", lambda *_: Line())
    told: list[int] = []
    short = Abl(isolation=0.1, tuning_epochs=2, finetuning_epochs=0, unlearning_epochs=0, momentum=0.0)
    short.defend(evidence(bright([9] * 40)), TASK, rng(0), lambda step, **m: told.append(step))
    assert told == [1, 2]


def test_ascent_without_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(TASK), "build", lambda *_: Line())
    wild = Abl(isolation=0.5, tuning_epochs=1, finetuning_epochs=0, unlearning_lr=1e30, unlearning_epochs=60)
    with pytest.raises(FloatingPointError, match=r"lower the lr \(1e\+30\)"):
        wild.defend(evidence(bright([255] * 8)), TASK, rng(0), silent)


def test_weights_lost_in_the_last_step_are_told() -> None:
    line, recipe = Line(), Training(epochs=1, lr=10.0, schedule="constant", augment=False)
    with pytest.raises(FloatingPointError, match=r"'ascent' diverged: .* no longer finite after epoch 1; lower the lr \(10\)"):
        Stages(TASK, rng(0), silent).fit("ascent", line, bright([1, 2]), recipe, lambda *_: line.weight.sum() * 3e38)


@pytest.mark.parametrize(("share", "count"), [(0.05, 4), (0.25, 24), (0.5, 49), (0.29, 28)])
def test_a_fraction_of_a_sample_is_cut_off(monkeypatch: pytest.MonkeyPatch, share: float, count: int) -> None:
    """Of 99 samples 4.95, 24.75, 49.5 and 28.71; the authors' code takes the whole part."""
    monkeypatch.setattr(type(TASK), "build", lambda *_: Line())
    monkeypatch.setattr(Stages, "fit", lambda *_, **__: None)
    flagged = Abl(isolation=share).defend(evidence(bright(list(range(99)))), TASK, rng(0), silent).flagged
    assert flagged is not None
    assert int(flagged.sum()) == count


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.99, 99)])
def test_too_few_to_learn_or_to_unlearn(share: float, count: int) -> None:
    samples = bright([0] * 100)
    splits = Splits(samples, samples, samples, "ab")
    Abl(isolation=0.02).check(TASK, Outline(("a", "b"), (3, 8, 8)), splits)
    with pytest.raises(
        BadInput, match=rf"abl\.isolation: got {share}, that is {count} of 100 training samples, expected 2 to 98"
    ):
        Abl(isolation=share).check(TASK, Outline(("a", "b"), (3, 8, 8)), splits)
