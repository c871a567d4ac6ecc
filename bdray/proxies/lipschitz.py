"""How far a channel's Lipschitz constant stands out of its layer (Zheng, Tang, Li and Liu, "Data-free Backdoor Removal based
on Channel Lipschitzness", ECCV 2022), which needs no data and no victim.

They prune the channels above mean + u * std of their layer; here the largest distance from that threshold, over all layers and
in units of std, is squashed by a sigmoid, so that 0.5 is a channel on the threshold and lower ones keep their order.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bdray.layers.channels import lipschitz, pairs
from bdray.proxies import Misfit, Prepared, Proxy
from bdray.samples import Samples, Splits
from bdray.spec import NonNegative
from bdray.task import Task


class Lipschitz(Proxy):
    """Works on any model in which a BatchNorm follows a convolution."""

    needs: ClassVar[frozenset[str]] = frozenset()

    u: NonNegative = 3.0
    """Standard deviations above its layer's mean at which a channel is suspicious."""

    def check(self, task: Task, splits: Splits) -> None:
        super().check(task, splits)
        outline = task.outline(splits)
        if not outline.shape or not pairs(task.build(outline, torch.Generator()), _any(task, splits.train)):
            raise Misfit(
                f"the proxy {self.name!r} finds no BatchNorm after a convolution in the model {task.model.name!r}; choose "
                "another proxy"
            )

    def measure(self, after: nn.Module, prepared: Prepared, clean: Samples, fresh: Tensor, task: Task) -> float:
        device = next(after.parameters()).device
        inputs = _any(task, clean).to(device)
        found = torch.stack([outstanding(lipschitz(conv, norm)) for _, conv, norm in pairs(after, inputs)])
        return float(torch.sigmoid(found.max() - self.u))


def _any(task: Task, like: Samples) -> Any:
    """A model's input of one sample of this shape, all zero."""
    nothing = torch.zeros(1, *like.inputs.shape[1:], dtype=like.inputs.dtype)
    return task.collate(Samples(nothing, torch.zeros(1, dtype=torch.int64))).inputs


def outstanding(constants: Tensor) -> Tensor:
    """How many standard deviations the largest lies above the mean; 0 where all are alike, NaN where one is no number."""
    constants = constants.double()  # so that equal ones have a spread of exactly 0
    spread = constants.std(correction=min(1, len(constants) - 1))
    return torch.where(spread == 0, spread, (constants.max() - constants.mean()) / spread)
