"""Training a fresh model on what a filter leaves of a training set."""

import torch
from torch import Tensor

from bdray.defenses import Defended, Evidence
from bdray.task import Task
from bdray.training import Report, fit


def retrain(evidence: Evidence, removed: Tensor, task: Task, rng: torch.Generator, report: Report) -> Defended:
    """A model trained by the victim's recipe without the removed samples (bool [N]), which are reported as flagged."""
    assert evidence.train is not None
    assert evidence.outline is not None
    assert evidence.training is not None
    model = task.build(evidence.outline, rng)
    seed = int(torch.randint(2**62, (1,), generator=rng))
    fit(model, evidence.train.take(~removed), task, evidence.training, seed, report)
    return Defended(model, flagged=removed)
