"""D-BR: how sensitive features are where that is known, how the samples are split by it, and what is unlearnt and relearnt."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as published

from bdray.defenses import Evidence
from bdray.defenses import dbr as module
from bdray.defenses._stages import Stages
from bdray.defenses.dbr import Dbr, likeness, moved
from bdray.layers.features import features
from bdray.samples import Outline, Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput, Incompatible
from bdray.task import Task
from bdray.training import Training, silent
from tests.tiny import Line

TASK = Task.of({"name": "image", "data": {"name": "miniature", "held": 0.0}})


class Pixels(nn.Module):
    """Its features are twice the pixels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.last = nn.Linear(size, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(2 * x.flatten(1))
        return out


def images(count: int, height: int = 9, width: int = 12) -> Samples:
    pixels = torch.randint(256, (count, 3, height, width), generator=rng(0, "images"), dtype=torch.uint8)
    return Samples(pixels, torch.arange(count) % 2)


def evidence(samples: Samples) -> Evidence:
    return Evidence(train=samples, outline=Outline(("a", "b"), tuple(samples.inputs.shape[1:])), training=Training(epochs=7))


# The transformation


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 12)])
def test_moved_as_torchvision_does(height: int, width: int) -> None:
    """A rotation, then a shift, each to the nearest pixel; also on images that are not square."""
    x = images(40, height, width).inputs
    angles = (torch.rand(40, generator=rng(1)) - 0.5) * 360
    shifts = torch.randint(-3, 4, (40, 2), generator=rng(2))
    for image, angle, (down, right), found in zip(x, angles.tolist(), shifts.tolist(), moved(x, angles, shifts), strict=True):
        turned = published.rotate(image, angle)
        assert torch.equal(found, published.affine(turned, 0.0, [right, down], 1.0, [0.0, 0.0]))
        assert found.dtype == torch.uint8


def test_a_quarter_turn_and_a_shift_by_hand() -> None:
    x = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).expand(2, 1, 2, 2)
    found = moved(x, torch.tensor([90.0, 0.0]), torch.tensor([[0, 0], [1, 0]]))
    assert found[:, 0].tolist() == [[[2, 4], [1, 3]], [[0, 0], [1, 2]]]


# How sensitive


def spied(monkeypatch: pytest.MonkeyPatch, change: Any) -> list[tuple[Tensor, Tensor]]:
    """Every sample is changed so instead; the angles and shifts that were drawn."""
    drawn: list[tuple[Tensor, Tensor]] = []

    def spy(x: Tensor, angles: Tensor, shifts: Tensor) -> Tensor:
        drawn.append((angles, shifts))
        out: Tensor = change(x)
        return out

    monkeypatch.setattr(module, "moved", spy)
    return drawn


def test_the_mean_squared_change_of_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of twice the pixels, which all change by 10 / 255, or by 51 / 255 in a third of them."""
    samples = Samples(torch.full((700, 3, 4, 5), 100, dtype=torch.uint8), torch.zeros(700, dtype=torch.int64))
    spied(monkeypatch, lambda x: x + 10)
    wanted = (2 * 10 / 255) ** 2
    assert Dbr().sensitivity(Pixels(60), samples, TASK, rng(0)).tolist() == pytest.approx([wanted] * 700, rel=1e-4)
    spied(monkeypatch, lambda x: torch.cat([x[:, :1] + 51, x[:, 1:]], dim=1))
    wanted = (2 * 51 / 255) ** 2 / 3
    assert Dbr().sensitivity(Pixels(60), samples, TASK, rng(0)).tolist() == pytest.approx([wanted] * 700, rel=1e-4)


def test_each_sample_keeps_its_place() -> None:
    """A shift of a flat image darkens the same share of it whatever its brightness: the change goes with its square."""
    values = (torch.arange(1100) * 7) % 256
    samples = Samples(values.to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous(), torch.zeros(1100))
    found = Dbr(rotate=0.0, translate=0.5).sensitivity(Pixels(64), samples, TASK, rng(0))
    dark = found / (2 * values / 255) ** 2
    dark = dark[values > 0]
    grid = {(1 - (1 - a / 8) * (1 - b / 8)) for a in range(5) for b in range(5)}
    assert all(min(abs(share - g) for g in grid) < 1e-4 for share in dark.tolist())
    assert len({round(share, 3) for share in dark.tolist()}) > 8
    assert (found[values == 0] == 0).all()


def test_in_eval_mode() -> None:
    """What is beside a sample in its batch does not matter."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(324), nn.Linear(324, 2)).train()
    still = Dbr(rotate=0.0, translate=0.0)
    assert not still.sensitivity(model, images(6), TASK, rng(0)).any()
    assert not model.training


def test_draws_once_and_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = spied(monkeypatch, lambda x: x)
    Dbr().sensitivity(Pixels(324), images(1300), TASK, rng(0))
    angles, shifts = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    assert len(angles.unique()) == len(angles) == 1300
    assert shifts.shape == (1300, 2)
    assert float(angles.min()) < -175
    assert float(angles.max()) > 175
    assert angles.abs().max() <= 180
    assert float(angles.mean()) == pytest.approx(0, abs=10)
    assert shifts.abs().amax(0).tolist() == [2, 2]  # a fifth of 9 and of 12 are 1.8 and 2.4, rounded
    assert shifts.unique().tolist() == [-2, -1, 0, 1, 2]


# What is learnt on the way


def test_features_are_what_enters_the_last_linear_layer() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.rand(5, 1, 2, 2, generator=rng(0))
    found = features(model, x)
    assert torch.equal(found, model[:3](x))
    found.sum().backward()
    weight = next(model.parameters())
    assert weight.grad is not None
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_likeness_by_hand() -> None:
    """Centres at 0 and 60 degrees and at 90: cosines 1/2, 0 and sqrt(3)/2, each counted twice, over 9."""
    found = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, math.sqrt(3)], [0.0, 5.0], [0.0, 5.0]])
    assert float(likeness(found, torch.tensor([4, 4, 0, 2, 2]))) == pytest.approx(2 * (0.5 + math.sqrt(3) / 2) / 9)
    assert float(likeness(found[:2], torch.tensor([0, 0]))) == pytest.approx(0)
    # Of the mean of a class, not of its samples.
    apart = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 1.0]])
    assert float(likeness(apart, torch.tensor([0, 0, 1]))) == pytest.approx(0, abs=1e-7)


def test_the_intra_class_stage_drives_the_classes_apart() -> None:
    splits = TASK.data.splits(None)  # type: ignore[arg-type]
    train = splits.train.take(torch.arange(96))

    def alike(**fields: Any) -> float:
        defense = Dbr(tuning_epochs=1, lr=0.05, batch=32, **fields)
        model = defense.distinguisher(train, TASK.outline(splits), TASK, Stages(TASK, rng(0), silent)).eval()
        batch = TASK.collate(train)
        with torch.no_grad():
            return float(likeness(features(model, batch.inputs), batch.targets))

    assert alike(intra_epochs=3) < 0.8 * alike(intra_epochs=0)


# The split and the removal


def test_the_split_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 samples the 8 least sensitive are relearnt, the 2 most sensitive unlearnt and flagged, and nothing else."""
    monkeypatch.setattr(type(TASK), "build", lambda *_: Line())
    train = images(40)
    sensitivity = torch.randperm(40, generator=rng(5)).float()
    monkeypatch.setattr(Dbr, "sensitivity", lambda *_: sensitivity)
    stages: dict[str, tuple[int, Training, bool]] = {}
    removed: dict[str, Samples] = {}

    def spy(self: Stages, stage: str, model: nn.Module, samples: Samples, training: Training, loss: Any = None) -> nn.Module:
        stages[stage] = (len(samples), training, loss is None)
        return model

    monkeypatch.setattr(Stages, "fit", spy)
    monkeypatch.setattr(Dbr, "remove", lambda self, model, poison, clean, stages: removed.update(poison=poison, clean=clean))
    flagged = Dbr().defend(evidence(train), TASK, rng(0), silent).flagged
    assert flagged is not None
    assert torch.equal(flagged, sensitivity >= 38)
    assert torch.equal(removed["poison"].inputs, train.inputs[sensitivity.argsort()[38:]])
    assert torch.equal(removed["clean"].inputs, train.inputs[sensitivity.argsort()[:8]])
    own: dict[str, Any] = {"lr": 0.01, "batch": 128, "weight_decay": 5e-4, "schedule": "constant", "augment": False}
    assert stages == {
        "tuning": (40, Training(**own, epochs=2), True),
        "intra": (40, Training(**own, epochs=10), False),
        "victim": (40, Training(epochs=7), True),
    }
    Dbr(victim_epochs=3).defend(evidence(train), TASK, rng(0), silent)
    assert stages["victim"][1] == Training(epochs=3)


def test_the_removal_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """In turns up on the poison and down on the clean samples, by one momentum."""
    monkeypatch.setattr(type(TASK), "augment", lambda self, samples, draw: samples)

    def flat(value: int, label: int) -> Samples:
        return Samples(torch.full((2, 3, 8, 8), value, dtype=torch.uint8), torch.full((2,), label))

    line, told = Line(), []
    defense = Dbr(removal_epochs=2, removal_lr=0.5, weight_decay=0.1, momentum=0.9)
    stages = Stages(TASK, rng(0), lambda step, **metrics: told.append((step, metrics)))
    stages.epochs = 30
    defense.remove(line, flat(255, 1), flat(102, 0), stages)
    weight, speed, wanted = 0.5, 0.0, []
    for _ in range(2):
        poison = math.log(1 + math.exp(-weight))
        speed = 0.9 * speed - (1 / (1 + math.exp(-weight)) - 1) + 0.1 * weight
        weight -= 0.5 * speed
        clean = math.log(1 + math.exp(0.4 * weight))
        speed = 0.9 * speed + 0.4 / (1 + math.exp(-0.4 * weight)) + 0.1 * weight
        weight -= 0.5 * speed
        wanted.append((poison, clean))
    assert line.weight.item() == pytest.approx(weight, rel=1e-5)
    assert [step for step, _ in told] == [31, 32]
    for (_, metrics), (poison, clean) in zip(told, wanted, strict=True):
        assert metrics == {
            "removal_poison_loss": pytest.approx(poison, rel=1e-5),
            "removal_clean_loss": pytest.approx(clean, rel=1e-5),
        }


def test_ascent_without_end_is_told() -> None:
    stages = Stages(TASK, rng(0), silent)
    with pytest.raises(FloatingPointError, match=r"the loss is .* while (un|re)learning; lower dbr\.removal_lr"):
        Dbr(removal_lr=1e30).remove(Line(), images(4, 8, 8), images(4, 8, 8), stages)


# What is refused


def test_shares_that_overlap_or_are_less_than_a_batch() -> None:
    with pytest.raises(BadInput, match=r"dbr\.alpha_c: got 0\.6, which with dbr\.alpha_p \(0\.5\) is more than the whole"):
        Dbr(alpha_c=0.6, alpha_p=0.5)
    train = images(20)
    splits = Splits(train, train, train, "ab")
    Dbr(alpha_p=0.1).check(TASK, Outline(("a", "b"), (3, 8, 8)), splits)
    with pytest.raises(BadInput, match=r"dbr\.alpha_p: got 0\.05, that is 1 of 20 training samples, expected 2 to 18"):
        Dbr().check(TASK, Outline(("a", "b"), (3, 8, 8)), splits)


def test_a_model_without_a_linear_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Dbr().fits(Pixels(4), TASK)
    with pytest.raises(Incompatible, match="what enters a linear layer, and the model 'resnet18' has none"):
        Dbr().fits(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), TASK)
