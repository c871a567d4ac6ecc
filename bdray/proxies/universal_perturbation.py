"""One small perturbation a class that sends any image of the victim there (Moosavi-Dezfooli, Fawzi, Fawzi and Frossard,
"Universal Adversarial Perturbations", CVPR 2017), replayed on the defended model.

A backdoor is a shortcut, so its class needs less of a perturbation than any other (Xu, Ersoy and Picek, "Universal Soldier",
2023): the classes that the victim follows anomalously much are the suspects, and the proxy is the share of samples of other
classes that still follow, the mean over the suspects, or over all classes where none stands out. In place of the authors'
DeepFool steps, sample by sample, the targeted perturbations are learnt on batches by projected gradient descent with momentum.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from bdray.layers.still import still
from bdray.proxies import Prepared, Proxy
from bdray.proxies._images import chunks, clipped, follow, per_class, pixels, suspects
from bdray.samples import Samples
from bdray.spec import BatchSize, Count, Positive, Share
from bdray.task import Task

REACH = 4.0
"""The length of all steps together, in radii; they shrink linearly."""


class UniversalPerturbation(Proxy):
    """Finds triggers that add something to the image, over all of it or at one place; not one that moves pixels."""

    needs: ClassVar[frozenset[str]] = frozenset({"victim", "clean"})
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})

    size: Positive = 0.018
    """Root mean square over all pixel values in 0..1, at most: an L2 norm of 1 on 32x32 images in colour."""
    steps: Count = 60
    batch: BatchSize = 32
    """Clean samples a step, the same ones for every class."""
    momentum: Share = 0.9

    def prepare(self, before: nn.Module, clean: Samples, task: Task, classes: int, rng: torch.Generator) -> Prepared:
        """Perturbations [K, C, H, W], and the share of the samples of other classes that each sends to its class [K]."""
        inputs = pixels(clean, task)
        held = still(before)
        found = torch.cat([self.learn(held, inputs, part, rng) for part in chunks(classes, self.batch)]).cpu()
        shares = follow(before, clean, lambda x, c: x + found[c].to(x.device), range(classes), task)
        return {"perturbations": found, "shares": shares}

    def learn(self, model: nn.Module, inputs: Tensor, targets: Tensor, rng: torch.Generator) -> Tensor:
        """For each of the classes `targets`, at once: steps down the normalised gradient, back into the ball after each."""
        radius = self.size * math.sqrt(inputs[0].numel())
        found = inputs.new_zeros(len(targets), *inputs.shape[1:])
        velocity = torch.zeros_like(found)
        for step in range(self.steps):
            part = inputs[torch.randint(len(inputs), (self.batch,), generator=rng).to(inputs.device)]
            found.requires_grad_()
            losses, _ = per_class(model, clipped(part[None] + found[:, None]), targets)
            (gradient,) = torch.autograd.grad(losses.sum(), found)
            velocity = self.momentum * velocity + _direction(gradient)
            found = found.detach() - 2 * REACH / self.steps * (1 - step / self.steps) * radius * _direction(velocity)
            found = found * (radius / _norm(found)).clamp(max=1)
        return found

    def measure(self, after: nn.Module, prepared: Prepared, clean: Samples, fresh: Tensor, task: Task) -> float:
        changes = prepared["perturbations"]
        targets = suspects(-prepared["shares"])
        shares = follow(after, clean.take(fresh), lambda x, c: x + changes[c].to(x.device), targets, task)
        return float(shares.mean().clamp(min=0))


def _norm(x: Tensor) -> Tensor:
    """The L2 norm of each [K, 1, 1, 1], never 0."""
    return x.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)


def _direction(x: Tensor) -> Tensor:
    return x / _norm(x)
