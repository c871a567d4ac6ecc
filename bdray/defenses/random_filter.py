"""Random filter: as many samples as are poisoned are removed at random and the victim's recipe is followed again. What a
filter must beat."""

from typing import ClassVar

import torch

from bdray.defenses import Defended, Defense, Evidence
from bdray.defenses._retrain import retrain
from bdray.task import Task
from bdray.training import Report


class RandomFilter(Defense):
    """Uses the truth only for the number of poisoned samples."""

    needs: ClassVar[frozenset[str]] = frozenset({"train", "truth"})
    flags: ClassVar[bool] = True

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.truth is not None
        removed = torch.zeros_like(evidence.truth)
        removed[torch.randperm(len(removed), generator=rng)[: int(evidence.truth.sum())]] = True
        return retrain(evidence, removed, task, rng, report)
