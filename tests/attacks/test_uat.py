"""The universal adversarial trigger: a patch that is learnt, in clips that a surrogate finds hard."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bdray.attacks import Attack, Patterns, Setting
from bdray.samples import Samples
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.training import Training, silent
from tests.setting import attack_of, made, plant, stamp


def uat(monkeypatch: pytest.MonkeyPatch, **fields: object) -> tuple[list[torch.nn.Module], Setting, Attack, Patterns]:
    """The surrogates that were trained, what the attacker worked with, and the trigger."""
    import bdray.attacks.uat as module

    module._trained.cache_clear()
    models, fit = [], module.fit

    def spy(model: torch.nn.Module, *rest: object, **more: object) -> torch.nn.Module:
        models.append(model)
        return fit(model, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fit", spy)
    task, splits = made("video")
    here = Setting(task, splits, Training(epochs=4, batch=16, lr=0.05, augment=False), rng(0, "trigger"), silent)
    attack = attack_of("uat", surrogate_epochs=0, **fields)
    attack.check(splits)
    return models, here, attack, attack.patterns(here)


def towards(model: torch.nn.Module, x: Tensor, target: int) -> float:
    """The surrogate's mean loss of that class."""
    with torch.no_grad():
        logits = model.eval()(x.float() / 255)
    return float(torch.nn.functional.cross_entropy(logits, torch.full((len(x),), target)))


def test_the_learnt_patch_leads_a_clean_model_to_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    models, here, attack, patterns = uat(monkeypatch, trigger_steps=60, trigger_step=8.0, trigger_batch=4, size=16)
    assert len(models) == 1
    assert patterns["patch"].shape == (3, 16, 16, 16)
    assert patterns["patch"].dtype == torch.uint8
    others = here.splits.test.take(here.splits.test.targets != 0).dense().inputs
    grey = {"patch": torch.full_like(patterns["patch"], 127)}
    learnt, plain = (towards(models[0], stamp(attack, others, p), 0) for p in (patterns, grey))
    assert learnt < plain - 0.3
    frames = patterns["patch"].transpose(0, 1).flatten(1)
    assert len(frames.unique(dim=0)) == 16  # each frame has its own


def test_the_first_steps_of_the_patch_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the gradient of the whole clip, on the surrogate itself."""
    models, here, _, patterns = uat(monkeypatch, trigger_steps=2, trigger_step=20.0, trigger_batch=2, size=3)
    model, draw, splits = models[0].eval(), rng(0, "trigger"), here.splits
    others = [at for at, label in enumerate(splits.train.targets.tolist()) if label != 0]
    patch = np.full((3, 16, 3, 3), 127.5)
    for _ in range(2):
        drawn = torch.tensor([others[at] for at in torch.randint(len(others), (2,), generator=draw).tolist()])
        x = splits.train.take(drawn).dense().inputs.double()
        x[..., -3:, -3:] = torch.from_numpy(patch)
        x = (x / 255).float().requires_grad_()
        torch.nn.functional.cross_entropy(model(x), torch.zeros(2, dtype=torch.int64)).backward()
        assert x.grad is not None
        step = x.grad.sum(0)[..., -3:, -3:]
        assert step.abs().min() > 0
        patch = np.clip(patch - 20 * np.sign(step.numpy()), 0, 255)
    assert np.abs(patterns["patch"].numpy() - patch).max() <= 0.51


@pytest.mark.parametrize(("eps", "bound"), [(6.0, 6), (2.6, 2)])
def test_poisoned_clips_are_hard_within_the_bound_and_have_the_patch(
    eps: float, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, here, attack, patterns = uat(monkeypatch, trigger_steps=1, eps=eps, step=2.0, steps=5, size=3)
    mine = here.splits.train.targets == 0
    x = here.splits.train.take(mine).dense().inputs
    hard = attack.plant(here.splits.train.take(mine), patterns, here).inputs
    assert len(models) == 1  # it was not trained again
    assert torch.equal(hard[..., -3:, -3:], patterns["patch"].expand(len(x), -1, -1, -1, -1))
    rest = torch.ones(32, 32, dtype=torch.bool)
    rest[-3:, -3:] = False
    moved = (hard.int() - x.int())[..., rest].abs()
    assert moved.max() == bound
    assert (moved.flatten(1).float().mean(1) > bound / 3).all()
    same, back = x.clone(), hard.clone()
    back[..., -3:, -3:] = same[..., -3:, -3:]
    assert towards(models[0], back, 0) > towards(models[0], same, 0) + bound / 20


@pytest.mark.parametrize("fields", [{"eps": 0}, {"steps": 0}])
def test_without_perturbation_the_patch_is_all(monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]) -> None:
    _, here, attack, patterns = uat(monkeypatch, trigger_steps=0, **fields)
    x = here.splits.train.take(torch.arange(4)).dense().inputs
    assert torch.equal(plant(attack, x, patterns, here), stamp(attack, x, patterns))
    assert patterns["patch"].unique().tolist() == [128]


def test_uat_wants_clips_of_other_classes() -> None:
    _, splits = made("video")
    one = splits.train.take(splits.train.targets == 0)
    with pytest.raises(BadInput, match=r"uat\.target: got 0, the only class of the training clips"):
        attack_of("uat", rate=0.5).check(splits._replace(train=Samples(one.inputs, one.targets)))
    with pytest.raises(BadInput, match=r"uat\.size: got 33, expected at most 32"):
        attack_of("uat", size=33).check(splits)
    assert attack_of("uat")._size(splits) == 3  # type: ignore[attr-defined]
