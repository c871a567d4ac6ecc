"""Adversarial examples that the victim and the defended model share (Wei, Zhang, Zha and Wu, "Shared Adversarial Unlearning:
Backdoor Mitigation by Unlearning Shared Adversarial Examples", NeurIPS 2023).

Their risk bounds the backdoor's: a triggered image is itself an adversarial example of the victim, and a backdoor that is left
makes the same mistake on it. The authors look for examples that fool both models; here they are made on the victim alone, once,
by projected gradient descent, so that every defended model is asked the same, and the share is taken of those that fool it. The
authors' bound, 0.2 in 5 steps of 0.2, is so wide that most defended models share most mistakes; the default is the usual 8/255.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.layers.still import still
from bdray.proxies import Prepared, Proxy
from bdray.proxies._images import at_rest, pixels
from bdray.samples import Samples
from bdray.spec import Count, Positive
from bdray.task import Task
from bdray.training import batches


class SharedAdversarial(Proxy):
    """In the L-infinity norm; pixels are in 0..1 before normalisation."""

    needs: ClassVar[frozenset[str]] = frozenset({"victim", "clean"})
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})

    epsilon: Positive = 8 / 255
    """The most that a pixel changes."""
    step: Positive = 2 / 255
    steps: Count = 10

    def prepare(self, before: nn.Module, clean: Samples, task: Task, classes: int, rng: torch.Generator) -> Prepared:
        """The examples at rest, uint8 [N, C, H, W], and what the victim takes them for, int64 [N]."""
        held = still(before)
        made = [at_rest(self.attack(held, pixels(part, task), part.targets)) for part in batches(clean, 128)]
        images = torch.cat(made)
        return {"images": images, "mistakes": task.predict(before, Samples(images, clean.targets))}

    def attack(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Steps along the sign of the gradient of the loss, each clipped to the bound and to 0..1."""
        targets, found = targets.to(inputs.device), inputs
        for _ in range(self.steps):
            found = found.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(found), targets, reduction="sum"), found)
            change = (found.detach() + self.step * gradient.sign() - inputs).clamp(-self.epsilon, self.epsilon)
            found = (inputs + change).clamp(0, 1)
        return found.detach()

    def measure(self, after: nn.Module, prepared: Prepared, clean: Samples, fresh: Tensor, task: Task) -> float:
        fooled = fresh & (prepared["mistakes"] != clean.targets)
        answers = task.predict(after, Samples(prepared["images"][fooled], clean.targets[fooled]))
        return float((answers == prepared["mistakes"][fooled]).double().mean())
