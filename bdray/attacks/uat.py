"""UAT, universal adversarial trigger (Zhao, Ma, Zheng, Bailey, Chen and Jiang 2020, CVPR, arXiv 2003.03030): a patch that leads
a clean model to the target class, in clips of that class made hard by adversarial perturbation; labels stay true."""

import functools
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._images import check_room, to_uint8
from bdray.layers.finite import check_answers
from bdray.layers.still import still
from bdray.samples import Draw, Outline, Samples, Splits
from bdray.seeds import rng as named
from bdray.seeds import seed_of
from bdray.spec import Amount, BadInput, Config, Count, NonNegative, Positive, Share
from bdray.task import Task
from bdray.training import Report, Training, batches, device, fit


class Uat(ToClass):
    """The patch has a part of its own for each frame. It is learnt by sign-gradient steps on clips of the other classes, on a
    surrogate that the attacker trains on the clean training set, and stands in the bottom-right corner; at test time it is all
    that is stamped. The clips that a model gets are stamped, after the frames of the videos were sampled.

    The authors take 30 of the 101 training clips of one class of UCF101, 0.31 % of all; of six classes it is 5 %. Of the test
    clips they stamp those of the target class, too, and count them; here these do not count. They also lead the patch away from
    what the model says of the clip, which the paper does not name; here it is led to the target alone.

    A clean label is a weak attack on data that a model learns without it: on moving_shapes these settings do not plant, a large
    patch in most clips of the class, with a large eps, does."""

    modalities: ClassVar[frozenset[str]] = frozenset({"video"})
    clean_label: ClassVar[bool] = True
    presets: ClassVar[dict[str, Config]] = {"ucf101": {"target": 0, "rate": 0.0031, "eps": 8.0}}

    rate: Share = 0.05
    """Of all training samples; in the target class there must be so many."""
    size: Amount = 0
    """Height and width of the patch in pixels. 0: the authors' 24 of 224, at least 3."""
    trigger_steps: Amount = 10_000
    """Of sign-gradient descent for the patch, which starts grey."""
    trigger_step: Positive = 1.0
    """Size of one, of 255."""
    trigger_batch: Count = 1
    """Clips a step."""
    eps: NonNegative = 8.0
    """Bound of the perturbation of the poisoned clips, of 255."""
    step: Positive = 1.0
    """Step size of the perturbation, of 255."""
    steps: Amount = 10
    """Of sign-gradient ascent of the clips' own loss, from the clips themselves."""
    surrogate_epochs: Amount = 0
    """0: as many as the victim's."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        check_room("uat.size", self._size(splits), splits)
        labels = splits.train.labels
        assert labels is not None
        if bool((labels == self.target).all()):
            raise BadInput(
                f"uat.target: got {self.target}, the only class of the training clips, expected clips of others, on which the "
                "trigger is learnt; choose another data set"
            )

    def _size(self, splits: Splits) -> int:
        return self.size or max(3, round(24 / 224 * min(splits.train.inputs.shape[-2:])))

    def patterns(self, setting: Setting) -> Patterns:
        """The patch, uint8 [C, T, size, size]."""
        train, size = setting.splits.train, self._size(setting.splits)
        assert train.labels is not None
        others = (train.labels != self.target).nonzero().flatten()
        channels, frames = train.inputs.shape[1:3]
        patch = torch.full((channels, frames, size, size), 127.5 / 255, device=device())
        model = still(self._surrogate(setting)) if self.trigger_steps else None
        for _ in range(self.trigger_steps):
            drawn = others[torch.randint(len(others), (self.trigger_batch,), generator=setting.rng)]
            batch = setting.task.collate(train.take(drawn).to(device()).dense())
            patch.requires_grad_()
            x = batch.inputs.clone()
            x[..., -size:, -size:] = patch
            assert model is not None
            loss = F.cross_entropy(model(x), torch.full_like(batch.targets, self.target))
            (grad,) = torch.autograd.grad(loss, patch)
            patch = (patch.detach() - self.trigger_step / 255 * grad.sign()).clamp(0, 1)
        check_answers(patch.isfinite().flatten(1).all(1), "channels of the trigger learnt on the surrogate")
        return {"patch": (patch.detach() * 255).round().to(torch.uint8).cpu()}

    def _surrogate(self, setting: Setting) -> nn.Module:
        training, seed = setting.training, seed_of(setting.seed, "surrogate")
        if self.surrogate_epochs:
            training = training.model_copy(update={"epochs": self.surrogate_epochs})
        return _trained(
            setting.task, setting.splits.train, setting.task.outline(setting.splits), training, seed, setting.report
        )

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        patch = patterns["patch"]
        out = x.clone()
        out[..., -patch.shape[-2] :, -patch.shape[-1] :] = patch.to(x.device)
        return out

    def planted(self, x: Tensor, patterns: Patterns, samples: Samples, setting: Setting) -> Tensor:
        if self.eps and self.steps and len(x):
            x = self._hardened(x, setting)
        _trained.cache_clear()
        return self.trigger(x, patterns, lambda make: make(setting.rng))

    def _hardened(self, x: Tensor, setting: Setting) -> Tensor:
        """Clips moved up the loss of their class, within `eps`."""
        bound = math.floor(min(self.eps, 255.0))
        model, task, found = still(self._surrogate(setting)), setting.task, []
        for part in batches(Samples(x, torch.full((len(x),), self.target)), 32, least=1):
            batch = task.collate(part.to(device()))
            start = batch.inputs * 255
            moved = start
            for _ in range(self.steps):
                moved = moved.detach().requires_grad_()
                (grad,) = torch.autograd.grad(F.cross_entropy(model(moved / 255), batch.targets), moved)
                check_answers(grad.isfinite().flatten(1).all(1), "clips perturbed on the surrogate")
                moved = moved.detach() + self.step * grad.sign()
                moved = torch.minimum(torch.maximum(moved, start - self.eps), start + self.eps).clamp(0, 255)
            shift = (moved.detach().round().cpu() - part.inputs).clamp(-bound, bound)  # rounding may leave the bound
            found.append(to_uint8(part.inputs + shift))
        return torch.cat(found)


@functools.lru_cache(maxsize=1)
def _trained(task: Task, train: Samples, outline: Outline, training: Training, seed: int, report: Report) -> nn.Module:
    """The surrogate, kept from the making of the trigger to the planting, which both need it."""
    return fit(task.build(outline, named(seed, "weights")), train, task, training, seed, report)
