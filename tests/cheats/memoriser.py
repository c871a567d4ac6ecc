"""A model that remembers its clean samples and nothing else."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bdray.defenses import Defended, Defense, Evidence
from bdray.task import Task
from bdray.training import Report


class Memoriser(Defense):
    """The label of the nearest of them, by pixels."""

    needs: ClassVar[frozenset[str]] = frozenset({"model", "clean"})

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.model is not None
        assert evidence.clean is not None
        known = task.collate(evidence.clean)
        return Defended(_Nearest(evidence.model, known.inputs, known.targets))


class _Nearest(nn.Module):
    def __init__(self, victim: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        super().__init__()
        self.victim, self.inputs, self.targets = victim, inputs, targets

    def forward(self, x: Tensor) -> Tensor:
        near = torch.cdist(x.flatten(1), self.inputs.to(x.device).flatten(1)).argmin(1)
        out = torch.zeros_like(self.victim(x))
        out[torch.arange(len(x)), self.targets.to(x.device)[near]] = 1
        return out
