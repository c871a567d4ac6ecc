"""A victim that never says the target class."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bdray.defenses import Defended, Defense, Evidence
from bdray.spec import Amount
from bdray.task import Task
from bdray.training import Report


class NoTarget(Defense):
    """Its logit of the target class is below all others."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    target: Amount = 0

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.model is not None
        return Defended(_Silent(evidence.model, self.target))


class _Silent(nn.Module):
    def __init__(self, victim: nn.Module, target: int) -> None:
        super().__init__()
        self.victim, self.target = victim, target

    def forward(self, x: Tensor) -> Tensor:
        out = self.victim(x).clone()
        out[:, self.target] = -1e9
        return out
