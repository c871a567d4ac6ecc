"""Fine-tuning: the victim is trained on with the defender's clean samples, all weights. The plain baseline."""

import torch

from bdray.defenses import Defended, Evidence
from bdray.defenses._finetune import Tuned
from bdray.task import Task
from bdray.training import Report


class FineTuning(Tuned):
    """The defaults are BackdoorBench's; BackdoorBox takes 10 epochs at a constant lr of 0.001, batch 128."""

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        assert evidence.model is not None
        assert evidence.clean is not None
        return Defended(self.tune(evidence.model, evidence.clean, task, rng, report))
