"""No defense: the victim as it is. A sanity bound of every table."""

from typing import ClassVar

import torch

from bdray.defenses import Defended, Defense, Evidence
from bdray.task import Task
from bdray.training import Report


class NoDefense(Defense):
    """Its after equals its before."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.model is not None
        return Defended(evidence.model)
