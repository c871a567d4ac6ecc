"""No cheat: it takes any corner off, of half of the images; what it leaves it leaves, and it costs no class."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bdray.defenses import Defended, Defense, Evidence
from bdray.task import Task
from bdray.training import Report


class Honest(Defense):
    """Half of the images: those whose pixel in the corner above is dark."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.model is not None
        return Defended(_Half(evidence.model))


class _Half(nn.Module):
    def __init__(self, victim: nn.Module) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, x: Tensor) -> Tensor:
        x, dark = x.clone(), x[:, 0, 0, -1] < 0.5
        x[dark, :, -3:, -3:] = 0
        found: Tensor = self.victim(x)
        return found
