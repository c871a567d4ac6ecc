"""Label-consistent attack (Turner, Tsipras and Madry 2019, arXiv 1912.02771): images of the target class are made hard by
adversarial perturbation, then stamped in the four corners; labels stay true."""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._images import CHECKER, blended, to_uint8
from bdray.layers.finite import check_answers
from bdray.layers.still import still
from bdray.samples import Draw, Samples, Splits
from bdray.seeds import rng as named
from bdray.spec import Amount, BadInput, NonNegative, Positive, Share
from bdray.task import Batch
from bdray.training import batches, device, fit


class LabelConsistent(ToClass):
    """The perturbation is projected gradient ascent within an L-infinity ball, on a surrogate that the attacker trains on
    the clean training set. At test time only the corners are stamped."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    clean_label: ClassVar[bool] = True

    rate: Share = 0.05
    """Of all training samples. A balanced ten-class set has room for less than 0.1."""
    eps: NonNegative = 8.0
    """Bound of the perturbation, of 255."""
    step: Positive = 1.5
    """Step size, of 255."""
    steps: Amount = 100
    opacity: Share = 1.0
    """Of the corners. The authors' weaker trigger adds and subtracts an amplitude instead; at 1 the two are the same."""
    surrogate: Literal["robust", "standard"] = "robust"
    """robust: trained on one-step perturbations with a random start (Wong, Rice and Kolter 2020), as the attack wants."""
    surrogate_epochs: Amount = 0
    """0: as many as the victim's."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        side = min(splits.train.inputs.shape[-2:])
        if side < 6:
            raise BadInput(f"label_consistent: got images of {side} pixels, expected at least 6, room for four corners")

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return self._cornered(x)

    def _cornered(self, x: Tensor) -> Tensor:
        out = x.clone()
        patch = CHECKER.to(x.device)
        for rows in (slice(0, 3), slice(-3, None)):
            # The left corners mirror the right ones, so that a flipped image shows the same trigger.
            for columns, corner in ((slice(0, 3), patch.flip(1)), (slice(-3, None), patch)):
                out[..., rows, columns] = blended(out[..., rows, columns], corner, self.opacity)
        return out

    def planted(self, x: Tensor, patterns: Patterns, samples: Samples, setting: Setting) -> Tensor:
        if self.eps and self.steps and len(x):
            x = self._perturb(x, setting)
        return self._cornered(x)

    def _perturb(self, x: Tensor, setting: Setting) -> Tensor:
        task, splits, training, rng, report, _ = setting
        seed = int(torch.randint(2**62, (1,), generator=rng))
        if self.surrogate_epochs:
            training = training.model_copy(update={"epochs": self.surrogate_epochs})
        draw = torch.Generator(device()).manual_seed(seed)

        def harden(model: nn.Module, batch: Batch) -> Batch:
            return batch._replace(inputs=self._ascend(model, batch, draw, steps=1, step=1.25 * self.eps))

        model = task.build(task.outline(splits), named(seed, "surrogate"))
        fit(model, splits.train, task, training, seed, report, adversary=harden if self.surrogate == "robust" else None)
        bound = math.floor(min(self.eps, 255.0))
        model, y, hard = still(model), torch.full((len(x),), self.target), []
        for part in batches(Samples(x, y), 512):
            batch = task.collate(part).to(device())
            pixels = (self._ascend(model, batch, draw, self.steps, self.step) * 255).round().cpu()
            check_answers(pixels.isfinite().flatten(1).all(1), "images perturbed on the surrogate")
            moved = (pixels - part.inputs).clamp(-bound, bound)  # rounding may leave the ball
            hard.append(to_uint8(part.inputs + moved))
        return torch.cat(hard)

    def _ascend(self, model: nn.Module, batch: Batch, draw: torch.Generator, steps: int, step: float) -> Tensor:
        """Inputs in 0..1 moved up the cross-entropy within `eps`, from a random start."""
        eps, x = self.eps / 255, batch.inputs
        training = model.training
        model.eval()
        delta = (torch.rand(x.shape, generator=draw, device=x.device) * 2 - 1) * eps
        for _ in range(steps):
            delta = ((x + delta).clamp(0, 1) - x).detach().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(model(x + delta), batch.targets), delta)
            delta = (delta.detach() + step / 255 * grad.sign()).clamp(-eps, eps)
        model.train(training)
        return (x + delta.detach()).clamp(0, 1)
