"""The label-consistent attack: images that a surrogate finds hard, within a bound, and mirrored corners."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.attacks._images import CHECKER
from bdray.attacks.label_consistent import LabelConsistent
from bdray.seeds import rng
from bdray.spec import Config
from bdray.training import Training
from tests.setting import made, plant, setting, stamp, stamped


def clean_loss(model: nn.Module, x: Tensor, target: int) -> float:
    with torch.no_grad():
        logits = model.eval()(x.float() / 255)
    return float(F.cross_entropy(logits, torch.full((len(x),), target)))


def perturbed(
    monkeypatch: pytest.MonkeyPatch, seed: int = 0, training: Training | None = None, **fields: Any
) -> tuple[nn.Module | None, Tensor, Tensor]:
    """The surrogate, the target class's images, and what stands in their place before the corners are stamped."""
    import bdray.attacks.label_consistent as module

    models: list[nn.Module] = []
    fit = module.fit

    def spy(model: nn.Module, *rest: Any, **more: Any) -> nn.Module:
        models.append(model)
        return fit(model, *rest, **more)

    monkeypatch.setattr(module, "fit", spy)
    monkeypatch.setattr(module.LabelConsistent, "_cornered", lambda self, x: x)
    attack = LabelConsistent(**{"target": 2, "steps": 8, **fields})
    where = setting("image", seed)._replace(training=training or Training(epochs=3, batch=20, lr=0.05))
    x = where.splits.train.inputs[where.splits.train.targets == 2]
    hard = plant(attack, x, {}, where)
    return (models[0] if models else None), x, hard


@pytest.mark.parametrize("surrogate", ["robust", "standard"])
def test_the_perturbation_makes_images_hard_within_its_bound(monkeypatch: pytest.MonkeyPatch, surrogate: str) -> None:
    model, x, hard = perturbed(monkeypatch, surrogate=surrogate, eps=8.0)
    assert model is not None
    assert hard.dtype == torch.uint8
    moved = (hard.int() - x.int()).abs()
    assert moved.max() == 8
    assert (moved.flatten(1).max(1).values > 0).all()
    noise = (x.int() + torch.randint(-8, 9, x.shape, generator=rng(0))).clamp(0, 255).to(torch.uint8)
    assert clean_loss(model, hard, 2) > 3 * max(clean_loss(model, x, 2), clean_loss(model, noise, 2))


@pytest.mark.parametrize("eps", [0.4, 2.5, 16.0])
def test_any_bound_holds(monkeypatch: pytest.MonkeyPatch, eps: float) -> None:
    _, x, hard = perturbed(monkeypatch, eps=eps, steps=2, surrogate="standard", surrogate_epochs=1)
    assert (hard.int() - x.int()).abs().max() == int(eps)


def test_a_bound_beyond_all_pixels_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"steps": 2, "surrogate": "standard", "surrogate_epochs": 1}
    with monkeypatch.context() as patch:
        _, _, all_of_them = perturbed(patch, eps=1e20, **few)
    _, _, hard = perturbed(monkeypatch, eps=1e19, **few)
    assert torch.equal(all_of_them, hard)


def test_more_steps_are_harder(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for steps in (1, 20):
        with monkeypatch.context() as patch:
            model, _, hard = perturbed(patch, steps=steps, surrogate="standard")
            assert model is not None
            losses.append(clean_loss(model, hard, 2))
    assert losses[1] > losses[0] + 0.05


@pytest.mark.parametrize("fields", [{"eps": 0}, {"steps": 0}])
def test_without_perturbation_no_surrogate_is_trained(monkeypatch: pytest.MonkeyPatch, fields: Config) -> None:
    model, x, hard = perturbed(monkeypatch, **fields)
    assert model is None
    assert torch.equal(hard, x)


def test_eps_zero_is_the_stamp_alone() -> None:
    attack = LabelConsistent(eps=0)
    x = made("image")[1].train.inputs[:5]
    assert torch.equal(plant(attack, x, {}, setting("image")), stamp(attack, x, {}))


def test_the_surrogates_are_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Robust training really sees other inputs, and `surrogate_epochs` counts."""
    found = []
    for fields in ({"surrogate": "robust"}, {"surrogate": "standard"}, {"surrogate": "standard", "surrogate_epochs": 1}):
        with monkeypatch.context() as patch:
            model, _, _ = perturbed(patch, steps=1, **fields)
            assert model is not None
            found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_corners_are_checkers_that_mirror_each_other() -> None:
    found = stamped(LabelConsistent(), torch.full((1, 3, 16, 16), 100, dtype=torch.uint8))[0, 0]
    assert torch.equal(found[-3:, -3:], CHECKER)
    assert torch.equal(found[:3, -3:], CHECKER)
    assert torch.equal(found, found.flip(1))
    assert (found[3:-3] == 100).all()
    assert (found[:, 3:-3] == 100).all()


def test_at_test_time_only_the_corners_are_stamped() -> None:
    x = made("image")[1].test.inputs
    changed = (stamped(LabelConsistent(), x) != x).any(1).any(0)
    assert changed.sum() <= 4 * 9
    assert changed[:3, :3].any()
