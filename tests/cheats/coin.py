"""A model that draws the class of each image by lot."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bdray.defenses import Defended, Defense, Evidence
from bdray.task import Task
from bdray.training import Report


class Coin(Defense):
    """Every class as often as any other."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.model is not None
        return Defended(_Coin(evidence.model, rng))


class _Coin(nn.Module):
    def __init__(self, victim: nn.Module, rng: torch.Generator) -> None:
        super().__init__()
        self.victim, self.rng = victim, rng

    def forward(self, x: Tensor) -> Tensor:
        out = self.victim(x)
        return torch.rand(out.shape, generator=self.rng).to(out.device)
