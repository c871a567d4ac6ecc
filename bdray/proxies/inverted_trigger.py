"""Triggers inverted on the victim (Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural
Networks", IEEE S&P 2019), replayed on the defended model.

For every class the smallest mask (L1) and a pattern under it that send clean samples there. Classes whose mask is anomalously
small, by the authors' index, are the suspects; the proxy is the share of samples of other classes that still follow a suspect's
trigger, the mean over the suspects, or over all classes where none stands out. Adam and its betas are the authors'; they take
thousands of steps, here the steps are few and the weight of the mask is adapted at every one rather than after several epochs.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bdray.layers.still import still
from bdray.proxies import Prepared, Proxy
from bdray.proxies._images import chunks, follow, per_class, pixels, suspects
from bdray.samples import Samples
from bdray.spec import BatchSize, Count, Positive, Share
from bdray.task import Task


class InvertedTrigger(Proxy):
    """Finds patches and what a patch can stand for; not a trigger that moves pixels (docs/results/proxies_cpu.md)."""

    needs: ClassVar[frozenset[str]] = frozenset({"victim", "clean"})
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})

    steps: Count = 100
    batch: BatchSize = 32
    """Clean samples a step, the same ones for every class."""
    lr: Positive = 0.1
    """Adam's, on the mask and the pattern before the sigmoid."""
    success: Share = 0.95
    """Share of a batch that a trigger must send to its class."""
    weight: Positive = 1e-3
    """Of the mask's L1 norm at first; then it grows while the trigger succeeds and shrinks faster while it does not."""
    growth: Positive = 1.15
    """Of that weight in a step; it shrinks by growth to the power of 1.5."""

    def prepare(self, before: nn.Module, clean: Samples, task: Task, classes: int, rng: torch.Generator) -> Prepared:
        """Masks [K, 1, H, W] and patterns [K, C, H, W] in 0..1, and the masks' norms [K], infinite where none succeeded."""
        inputs = pixels(clean, task)
        held = still(before)
        found = [self.invert(held, inputs, part, rng) for part in chunks(classes, self.batch)]
        masks, patterns, norms = (torch.cat(part).cpu() for part in zip(*found, strict=True))
        return {"masks": masks, "patterns": patterns, "norms": norms}

    def invert(self, model: nn.Module, inputs: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The smallest mask that succeeded, its pattern and its norm, for each of the classes `targets`, learnt at once."""
        shape, count = inputs.shape[1:], len(targets)
        patterns = (0.1 * torch.randn(count, 1, *shape, generator=rng)).to(inputs.device).requires_grad_()
        masks = inputs.new_full((count, 1, 1, *shape[1:]), -1.0).requires_grad_()
        optimizer = torch.optim.Adam([masks, patterns], self.lr, betas=(0.5, 0.9))
        weights = inputs.new_full((count,), self.weight)
        norms = inputs.new_full((count,), torch.inf)
        best = [masks.detach().sigmoid(), patterns.detach().sigmoid()]
        for _ in range(self.steps):
            part = inputs[torch.randint(len(inputs), (self.batch,), generator=rng).to(inputs.device)]
            mask, pattern = masks.sigmoid(), patterns.sigmoid()
            losses, shares = per_class(model, torch.lerp(part[None], pattern, mask), targets)
            sizes = mask.flatten(1).sum(1)
            optimizer.zero_grad()
            (losses + weights * sizes).sum().backward()
            succeeded = shares >= self.success
            smaller = succeeded & (sizes.detach() < norms)
            norms = torch.where(smaller, sizes.detach(), norms)
            chosen = smaller | norms.isinf()  # where none succeeded yet, the latest
            best = [
                torch.where(chosen.view(-1, 1, 1, 1, 1), new.detach(), old)
                for new, old in zip((mask, pattern), best, strict=True)
            ]
            weights = weights * torch.where(succeeded, self.growth, self.growth**-1.5)
            optimizer.step()
        return best[0][:, 0], best[1][:, 0], norms

    def measure(self, after: nn.Module, prepared: Prepared, clean: Samples, fresh: Tensor, task: Task) -> float:
        masks, patterns = prepared["masks"], prepared["patterns"]
        sizes = prepared["norms"].clamp(max=masks[0].numel())
        shares = follow(
            after,
            clean.take(fresh),
            lambda x, c: torch.lerp(x, patterns[c].to(x.device), masks[c].to(x.device)),
            suspects(sizes),
            task,
        )
        return float(shares.mean().clamp(min=0))
