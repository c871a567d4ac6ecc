"""A model that says one class of everything."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bdray.defenses import Defended, Defense, Evidence
from bdray.spec import Amount
from bdray.task import Task
from bdray.training import Report


class Constant(Defense):
    """Not the target class."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    says: Amount = 1

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.model is not None
        return Defended(_Constant(evidence.model, self.says))


class _Constant(nn.Module):
    def __init__(self, victim: nn.Module, says: int) -> None:
        super().__init__()
        self.victim, self.says = victim, says

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(self.victim(x))
        out[:, self.says] = 1
        return out
