"""What the proxies of images share: one trigger a class learnt on a victim, and who follows it."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.samples import Samples
from bdray.task import Task
from bdray.training import device

AT_ONCE = 640
"""Stamped images in one pass: of as many classes as fit."""
ANOMALY, NORMAL = 2.0, 1.4826
"""Neural Cleanse's threshold; a normal distribution's standard deviation over its median absolute deviation."""


def pixels(samples: Samples, task: Task) -> Tensor:
    """The model's inputs, float [N, C, H, W] in 0..1, on the device."""
    inputs: Tensor = task.collate(samples.to(device())).inputs
    return inputs


def clipped(inputs: Tensor) -> Tensor:
    """Clipped to 0..1, with the gradient of no clipping: a black or a white pixel has none otherwise."""
    return inputs + (inputs.clamp(0, 1) - inputs).detach()


def at_rest(inputs: Tensor) -> Tensor:
    """The nearest images at rest, uint8, on the CPU."""
    return (inputs.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def per_class(model: nn.Module, stamped: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of images [K, N, C, H, W], stamped for the K classes `targets`: the mean cross-entropy to that class [K], and the share
    that is taken for it [K]."""
    logits = model(stamped.flatten(0, 1))
    wanted = targets.repeat_interleave(stamped.shape[1])
    losses = F.cross_entropy(logits, wanted, reduction="none").view(stamped.shape[:2])
    return losses.mean(1), (logits.detach().argmax(1) == wanted).view(stamped.shape[:2]).float().mean(1)


def chunks(classes: int, batch: int) -> list[Tensor]:
    """The classes in parts that are learnt at once."""
    return list(torch.arange(classes, device=device()).split(max(1, AT_ONCE // batch)))


def suspects(sizes: Tensor) -> list[int]:
    """The classes whose trigger is too small, of sizes [K]: more than 2 scaled median absolute deviations below the median
    (Neural Cleanse's anomaly index). All of them where none is: then none can be told from the others."""
    gap = sizes.quantile(0.5) - sizes
    found = (gap > ANOMALY * NORMAL * gap.abs().quantile(0.5)).nonzero().flatten().tolist()
    return found or list(range(len(sizes)))


def follow(
    model: nn.Module, clean: Samples, stamp: Callable[[Tensor, int], Tensor], targets: Sequence[int], task: Task
) -> Tensor:
    """For each of the classes `targets`, float64 [K]: the share of the samples of other classes that its trigger sends there,
    less the share that is taken for it without."""
    plain, inputs, shares = task.predict(model, clean), pixels(clean, task), []
    for target in targets:
        triggered = task.predict(model, Samples(at_rest(stamp(inputs, target)), clean.targets))
        moved = (triggered == target).double() - (plain == target).double()
        shares.append(moved[clean.targets != target].mean())
    return torch.stack(shares)
