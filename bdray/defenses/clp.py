"""CLP, channel Lipschitzness based pruning (Zheng, Tang, Li and Liu, "Data-free Backdoor Removal based on Channel
Lipschitzness", ECCV 2022): channels that can stretch their input far more than the others of their layer are switched off.

The authors pair a BatchNorm with the convolution registered before it, which on nets that normalise first is another one; here
it is the one whose output it gets (bdray.layers.channels), and other BatchNorms are left alone. They divide by the root of the
variance alone; here eps is added to it, as BatchNorm does: a channel that sleeps is not taken for a steep one.
"""

import functools
from typing import ClassVar

import pyarrow as pa
import torch
from torch import Tensor, nn

from bdray.defenses import Defended, Defense, Evidence
from bdray.layers.channels import lipschitz, met
from bdray.layers.finite import check_answers
from bdray.samples import Outline, Splits
from bdray.spec import Incompatible, NonNegative
from bdray.task import Task
from bdray.training import Report

PRUNED = pa.schema([("layer", pa.string()), ("channel", pa.int64()), ("bound", pa.float64()), ("threshold", pa.float64())])


class Clp(Defense):
    """Needs no data at all. Works on any model in which a BatchNorm follows a convolution."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    u: NonNegative = 3.0
    """Standard deviations above its layer's mean from which a channel is pruned. Of n channels none can be more than
    (n - 1) / sqrt(n) above, so that narrow layers need a lower one: 3 spares every layer of fewer than 11 channels."""

    def check(self, task: Task, outline: Outline, splits: Splits) -> None:
        super().check(task, outline, splits)
        if not prunable(task, outline):
            raise Incompatible(
                f"the defense 'clp' finds no BatchNorm after a convolution in the model {task.model.name!r}; choose another"
            )

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        model = evidence.model
        assert model is not None
        assert evidence.outline is not None
        rows, channels = [], 0
        for layer, conv, norm in sites(model, task, evidence.outline):
            bounds = lipschitz(conv, norm).double()  # so that equal ones have a spread of exactly 0
            check_answers(bounds.isfinite(), f"bounds of the channels of {layer}")
            threshold = self.threshold(bounds)
            for channel in (bounds > threshold).nonzero().flatten().tolist():
                rows.append(dict(zip(PRUNED.names, (layer, channel, float(bounds[channel]), threshold), strict=True)))
                norm.weight.data[channel] = 0  # type: ignore[operator]
                norm.bias.data[channel] = 0  # type: ignore[operator]
            channels += len(bounds)
        report(1, pruned=len(rows), channels=channels)
        return Defended(model.eval(), tables={"pruned": pa.Table.from_pylist(rows, PRUNED)})

    def threshold(self, bounds: Tensor) -> float:
        """Above which a channel of this layer is pruned."""
        return float(bounds.mean() + self.u * bounds.std(correction=min(1, len(bounds) - 1)))


@functools.lru_cache(maxsize=8)
def prunable(task: Task, outline: Outline) -> bool:
    """Whether a fresh model of this task has such layers; the same for every setting."""
    return bool(sites(task.build(outline, torch.Generator()), task, outline))


def sites(model: nn.Module, task: Task, outline: Outline) -> list[tuple[str, nn.Module, nn.Module]]:
    """Name, convolution and BatchNorm of the layers whose channels can be switched off, found with one made sample."""
    batch = task.collate(task.example(outline)).to(next(model.parameters()).device)
    found = met(model, lambda: task.harden(model, task.soften(model, batch), batch))
    return [(name, conv, norm) for name, conv, norm in found if norm.weight is not None]
