"""AdvrBD's partition: where its patches lie, how far a perturbation goes, and the divergence of models whose worst case is
known: two classes, whose logits differ by a linear function of the pixels, so that the worst case is a corner of the box."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdray.defenses import _partition as module
from bdray.defenses._partition import Perturbation, divergences, patches, perturb
from bdray.samples import Samples
from bdray.seeds import rng
from bdray.task import Task

TASK = Task.of({"name": "image", "data": {"name": "miniature", "held": 0.0}})
EPS = 0.1
SHAPE = (3, 5, 6)


class Linear(nn.Module):
    """Says 0 of the first class and w x of the second; no pixel is without a weight."""

    def __init__(self) -> None:
        super().__init__()
        draw = rng(0, "weights")
        self.weight = nn.Parameter(
            (torch.rand(SHAPE, generator=draw) + 0.5) * (torch.randint(2, SHAPE, generator=draw) * 2 - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), self.height(x)], dim=1)

    def height(self, x: Tensor) -> Tensor:
        return 0.3 * (x * self.weight.to(x.dtype)).flatten(1).sum(1)

    def corner(self, x: Tensor, patch: Tensor, up: Tensor) -> Tensor:
        """The furthest that w x goes inside the patch, up or down (bool [N])."""
        sign = self.weight.detach().sign().to(x.dtype) * torch.where(up, 1, -1)[:, None, None, None]
        return torch.where(patch, (x + EPS * sign).clamp(0, 1), x)


def how(**changes: Any) -> Perturbation:
    return Perturbation(**{"radius": 1, "eps": EPS, "steps": 5, "step": EPS / 2, "climb": "kl", **changes})


def images(count: int) -> Samples:
    """Noise, in which 0 and 255 are frequent: there the range of pixels ends before the bound."""
    pixels = torch.randint(-100, 356, (count, *SHAPE), generator=rng(0, "images")).clamp(0, 255)
    return Samples(pixels.to(torch.uint8), torch.arange(count) % 2)


def divergence_by_hand(model: Linear, x: Tensor, other: Tensor) -> list[float]:
    """KL(p || q) of two coins, in float64, in the books' form."""
    found = []
    for before, after in zip(model.height(x).tolist(), model.height(other).tolist(), strict=True):
        p, q = 1 / (1 + math.exp(-before)), 1 / (1 + math.exp(-after))
        found.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    return found


def known(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).log_softmax(1)


# Patches


@pytest.mark.parametrize(("radius", "size"), [(0, (5, 7)), (1, (5, 7)), (2, (6, 9))])
def test_patches_are_squares_cut_off_at_the_borders(radius: int, size: tuple[int, int]) -> None:
    """Each is one of the squares around the pixels of the image, and each of them is as frequent."""
    height, width = size
    found = patches(7000, height, width, radius, rng(0))
    assert found.dtype == torch.bool
    assert found.shape == (7000, 1, height, width)
    counts = dict.fromkeys(((row, column) for row in range(height) for column in range(width)), 0)
    places = {}
    for row, column in counts:
        square = torch.zeros(height, width, dtype=torch.bool)
        square[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1] = True
        places[tuple(square.flatten().tolist())] = (row, column)
    for mask in found:
        counts[places[tuple(mask.flatten().tolist())]] += 1
    expected = 7000 / len(counts)
    assert all(abs(count - expected) < 4 * math.sqrt(expected) for count in counts.values())


def test_a_patch_may_be_larger_than_the_image() -> None:
    assert patches(50, 4, 3, 4, rng(0)).all()


def test_each_sample_has_a_patch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are samples in every batch and for every mask, and others every time."""
    drawn = spied(monkeypatch)
    monkeypatch.setattr(module, "AT_ONCE", 20)
    divergences(Linear(), images(40), TASK, how(), rng(0), masks=2)
    assert [len(masks) for masks in drawn] == [20, 20, 20, 20]
    assert all(len({tuple(mask.flatten().tolist()) for mask in masks}) > 5 for masks in drawn)
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def spied(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The patches that are drawn from now on."""
    drawn: list[Tensor] = []

    def spy(*words: Any) -> Tensor:
        drawn.append(patches(*words))
        return drawn[-1]

    monkeypatch.setattr(module, "patches", spy)
    return drawn


# Perturbations


@pytest.mark.parametrize("climb", ["kl", "ce"])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_perturbation_stays_where_it_may_be(climb: Any, steps: int) -> None:
    """Inside the patch, the bound and the range of pixels; without a step it is already somewhere."""
    draw = rng(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(120, 3))
    x, patch = images(60).inputs / 255, patches(60, 5, 6, 1, draw)
    found = perturb(model, x, known(model, x), patch, how(climb=climb, steps=steps, step=0.06), draw)
    assert torch.equal(found[~patch.expand_as(x)], x[~patch.expand_as(x)])
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found - x).abs().max() <= EPS + 1e-6
    assert ((found != x).flatten(1).sum(1) > 0).all()
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_start_is_uniform_in_the_box() -> None:
    """Each pixel, channel and sample by itself."""
    x = torch.full((200, *SHAPE), 0.5)
    moved = perturb(Linear(), x, known(Linear(), x), torch.ones(200, 1, 5, 6, dtype=torch.bool), how(steps=0), rng(0)) - x
    assert len(moved.unique()) > 0.9 * moved.numel()
    assert float(moved.abs().max()) == pytest.approx(EPS, rel=1e-2)
    assert float(moved.mean()) == pytest.approx(0, abs=EPS / 50)
    assert float(moved.std()) == pytest.approx(EPS / math.sqrt(3), rel=2e-2)


@pytest.mark.parametrize("climb", ["kl", "ce"])
def test_the_perturbation_ends_in_the_corner(climb: Any) -> None:
    """The divergence grows on either side: it climbs on the one that it starts on. The cross-entropy to the model's own
    answer grows towards the other class."""
    model, x = Linear(), images(80).inputs / 255
    patch = patches(80, 5, 6, 1, rng(2))
    start = perturb(model, x, known(model, x), patch, how(climb=climb, steps=0), rng(3))
    found = perturb(model, x, known(model, x), patch, how(climb=climb), rng(3))
    up = model.height(start) > model.height(x) if climb == "kl" else model.height(x) < 0
    assert 20 < int(up.sum()) < 60
    assert torch.allclose(found, model.corner(x, patch, up), atol=1e-6)


def test_each_step_goes_as_far_as_it_is_told() -> None:
    model, x = Linear(), torch.full((9, *SHAPE), 0.5)
    patch = torch.ones(9, 1, 5, 6, dtype=torch.bool)
    far = {
        steps: perturb(model, x, known(model, x), patch, how(steps=steps, step=0.01, climb="ce"), rng(0)) for steps in range(4)
    }
    down = -model.weight.detach().sign() * torch.where(model.height(x) < 0, -1, 1)[:, None, None, None]
    for steps in (1, 2, 3):
        wanted = (far[steps - 1] + 0.01 * down).clamp(0.5 - EPS, 0.5 + EPS)
        assert torch.allclose(far[steps], wanted, atol=1e-6)


# Divergences


def test_the_divergence_of_the_corner_by_hand() -> None:
    """Patches as large as the image: the worst case is one of two, and both occur."""
    model, samples = Linear(), images(60)
    x, all_of_it = samples.inputs.double() / 255, torch.ones(60, 1, 5, 6, dtype=torch.bool)
    found = divergences(model, samples, TASK, how(radius=6), rng(0))
    assert found.dtype == torch.float32
    ends = [
        torch.tensor(divergence_by_hand(model, x, model.corner(x, all_of_it, torch.full((60,), up)))) for up in (False, True)
    ]
    assert (ends[0] / ends[1] - 1).abs().min() > 1e-3
    gaps = torch.stack([(found / end - 1).abs() for end in ends])
    assert gaps.min(0).values.max() < 1e-4
    assert set(gaps.argmin(0).tolist()) == {0, 1}


@pytest.mark.parametrize(("at_once", "masks"), [(256, 1), (256, 3), (7, 1), (1, 2)])
def test_the_divergence_inside_patches_by_hand(monkeypatch: pytest.MonkeyPatch, at_once: int, masks: int) -> None:
    """Of each sample with its own patches, in order and averaged over them, however many are perturbed together."""
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    drawn = spied(monkeypatch)
    model, samples = Linear(), images(50)
    found = divergences(model, samples, TASK, how(climb="ce"), rng(0), masks)
    x = samples.inputs.double() / 255
    up = model.height(x) < 0
    rounds = [torch.cat(drawn[turn::masks]) for turn in range(masks)]
    by_hand = [torch.tensor(divergence_by_hand(model, x, model.corner(x, patch, up))) for patch in rounds]
    assert found.tolist() == pytest.approx(torch.stack(by_hand).mean(0).tolist(), rel=1e-4)
    assert len({round(value, 4) for value in found.tolist()}) > 30


def test_batches_do_not_change_divergences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every start leads to the same corner of the same patch, the draw does not matter either."""
    found = []
    for seed, at_once in ((0, 256), (1, 7), (2, 1)):
        monkeypatch.setattr(module, "AT_ONCE", at_once)
        found.append(divergences(Linear(), images(50), TASK, how(radius=6, climb="ce"), rng(seed)))
    assert torch.allclose(found[0], found[1], rtol=1e-5)
    assert torch.allclose(found[0], found[2], rtol=1e-5)


def test_the_draw_alone_decides() -> None:
    found = [divergences(Linear(), images(50), TASK, how(), rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


class Noisy(nn.Module):
    """What depends on the mode, and weights some of which are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(90, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.drop(self.norm(x)).flatten(1))
        return out


def test_the_model_is_left_as_it_was() -> None:
    """Weights, statistics, gradients, which weights learn, and which layers train: none changes, whatever they were."""
    model = Noisy().train()
    model.norm.eval()
    model.last.bias.requires_grad_(False)
    model.norm.weight.grad = torch.ones(3)
    modes = [layer.training for layer in model.modules()]
    before = copy.deepcopy(model.state_dict())
    divergences(model, images(40), TASK, how(), rng(0), masks=2)
    assert [layer.training for layer in model.modules()] == modes == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == ["last.bias"]
    assert [name for name, weight in model.named_parameters() if weight.grad is not None] == ["norm.weight"]
    assert torch.equal(model.norm.weight.grad, torch.ones(3))


def test_the_model_answers_in_eval_mode() -> None:
    """With neither dropout nor the statistics of a batch, what does not move does not diverge."""
    still = divergences(Noisy().train(), images(40), TASK, how(eps=0.0, step=0.0), rng(0))
    assert still.abs().max() < 1e-6
