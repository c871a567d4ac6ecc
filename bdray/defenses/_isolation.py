"""Which training samples a model has learnt best: those that a filter takes for poison."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bdray.layers.finite import check_answers
from bdray.samples import Samples
from bdray.task import Task
from bdray.training import batches, device

LEAST = torch.finfo(torch.float32).eps
"""The smallest loss that float32 tells from none."""


class Groups(NamedTuple):
    """Numbers in two groups."""

    low: Tensor
    """Which belong to the lower one, bool [N]."""
    separation: float
    """The variance between the groups / the whole variance: 0 for equal numbers, 1 for two values. Otsu's criterion; a normal
    distribution cut in its middle has 2 / pi = 0.64, a uniform one 0.75."""


def losses(model: nn.Module, samples: Samples, task: Task) -> Tensor:
    """The loss of each sample alone, in eval mode, without augmentation, float [N] on the CPU, in their order.

    Raises FloatingPointError where one is not finite: the lowest of NaNs is any.
    """
    model.eval()
    found: list[Tensor] = []
    with torch.inference_mode():
        for part in batches(samples, 500):
            found.append(task.losses(model, task.collate(part.to(device())).to(device())))
    values = torch.cat(found).cpu()
    check_answers(values.isfinite(), "losses of the samples")
    return values


def lowest(values: Tensor, count: int) -> Tensor:
    """Which `count` values are the lowest, bool [N]; of equal ones the first."""
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[values.argsort(stable=True)[:count]] = True
    return chosen


def two_groups(losses: Tensor) -> Groups:
    """Losses, float [N], cut in two where Otsu (1979) cuts the histogram of their logarithms, here exactly: where the variance
    between the groups is largest. Equal losses are never cut; where all are equal none is low."""
    values = losses.double().clamp(min=LEAST).log()
    ordered, order = values.sort()
    count = len(values)
    if count < 2 or ordered[0] == ordered[-1]:
        return Groups(torch.zeros(count, dtype=torch.bool), 0.0)
    below, sums = torch.arange(1, count, dtype=torch.float64), ordered.cumsum(0)
    gap = (sums[-1] - sums[:-1]) / (count - below) - sums[:-1] / below
    between = torch.where(ordered[1:] > ordered[:-1], below * (count - below) * gap**2 / count**2, -1.0)
    cut = int(between.argmax()) + 1
    low = torch.zeros(count, dtype=torch.bool)
    low[order[:cut]] = True
    return Groups(low, float(between[cut - 1] / values.var(correction=0)))
