"""Perfect filter: an oracle removes exactly the poisoned samples and the victim's recipe is followed again. The upper bound
of every defense that filters its training set."""

from typing import ClassVar

import torch

from bdray.defenses import Defended, Defense, Evidence
from bdray.defenses._retrain import retrain
from bdray.task import Task
from bdray.training import Report


class PerfectFilter(Defense):
    """Needs the truth, which no defender has."""

    needs: ClassVar[frozenset[str]] = frozenset({"train", "truth"})
    flags: ClassVar[bool] = True

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.truth is not None
        return retrain(evidence, evidence.truth, task, rng, report)
