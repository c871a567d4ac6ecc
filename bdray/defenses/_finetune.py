"""Fine-tuning on the defender's clean samples, which several defenses do or end with."""

from typing import ClassVar, Literal

import torch
from torch import nn

from bdray.defenses import Defense
from bdray.samples import Samples
from bdray.spec import Amount, BatchSize, NonNegative, Positive, Share
from bdray.task import Task
from bdray.training import Report, Training, fit


class Tuned(Defense):
    """The recipe of a fine-tuning; the defaults are BackdoorBench's."""

    needs: ClassVar[frozenset[str]] = frozenset({"model", "clean"})

    epochs: Amount = 100
    """Over the clean samples; 0 leaves the tuning out."""
    batch: BatchSize = 256
    lr: Positive = 0.01
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Literal["cosine", "onecycle", "constant"] = "cosine"
    augment: bool = True

    def tune(self, model: nn.Module, clean: Samples, task: Task, rng: torch.Generator, report: Report) -> nn.Module:
        """Train every weight on the clean samples alone, in place."""
        if not self.epochs:
            return model.eval()
        fields = {name: getattr(self, name) for name in Tuned.model_fields if name in Training.model_fields}
        return fit(model, clean, task, Training(**fields), int(torch.randint(2**62, (1,), generator=rng)), report)
