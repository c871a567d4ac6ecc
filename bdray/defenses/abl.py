"""ABL, anti-backdoor learning (Li, Lyu, Koren, Lyu, Li and Ma, NeurIPS 2021, arXiv 2110.11571): the samples that a short
training under local gradient ascent fits best are taken for poison, and unlearnt at the end.

The defaults are those of the authors' code, which differs in this: its first epoch of unlearning only tests, so that 5 epochs
are 4 of ascent; tuning goes through the samples in one fixed order; fine-tuning also cuts a hole of 2x2 pixels into each image;
its momentum is carried into unlearning.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bdray.defenses import Defended, Defense, Evidence
from bdray.defenses._isolation import losses, lowest
from bdray.defenses._stages import Stages, portion
from bdray.samples import Outline, Splits
from bdray.spec import Amount, BatchSize, Count, NonNegative, Positive, Share
from bdray.task import Batch, Task
from bdray.training import Report, Training


class Abl(Defense):
    """Works on any modality. What it isolates is flagged; an image without an object, whose loss is 0 from the start, is never
    isolated."""

    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    flags: ClassVar[bool] = True

    ascent: Literal["flooding", "lga"] = "flooding"
    """How the loss is kept from falling below gamma while tuning. With g for gamma, flooding: |loss - g| + g; lga:
    sign(loss - g) * loss; both of a batch's mean, as in every published implementation."""
    gamma: NonNegative = 0.5
    isolation: Share = 0.01
    """Samples isolated, those with the lowest loss / training samples; a fraction of a sample is cut off, as the authors do."""
    tuning_epochs: Count = 10
    """Of training under local gradient ascent, at `lr`, without augmentation."""
    finetuning_epochs: Amount = 60
    """Of training on the rest, at `lr` and then at a tenth of it."""
    finetuning_drop: Amount = 40
    """How many of them have the full rate."""
    unlearning_epochs: Amount = 5
    """Of gradient ascent on the isolated samples, at `unlearning_lr`, without augmentation."""
    unlearning_lr: Positive = 5e-4
    lr: Positive = 0.1
    batch: BatchSize = 128
    momentum: Share = 0.9
    """Nesterov's."""
    weight_decay: NonNegative = 1e-4

    def check(self, task: Task, outline: Outline, splits: Splits) -> None:
        super().check(task, outline, splits)
        portion("abl.isolation", self.isolation, len(splits.train), cut=True)

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        train = evidence.train
        assert train is not None
        assert evidence.outline is not None
        stages, model = Stages(task, rng, report), task.build(evidence.outline, rng)
        plain = {name: getattr(self, name) for name in ("lr", "batch", "momentum", "weight_decay")}
        plain["nesterov"] = self.momentum > 0

        def ascending(model: nn.Module, batch: Batch) -> Tensor:
            return self.kept_up(task.loss(model, batch))

        recipe = Training(**plain, epochs=self.tuning_epochs, schedule="constant", augment=False)
        stages.fit("tuning", model, train, recipe, ascending)
        lost = losses(model, train, task).masked_fill(~task.teaches(train), torch.inf)
        isolated = lowest(lost, portion("abl.isolation", self.isolation, len(train), cut=True))
        if self.finetuning_epochs:
            dropping = Dropping(**plain, epochs=self.finetuning_epochs, after=self.finetuning_drop)
            stages.fit("finetuning", model, train.take(~isolated), dropping)
        if self.unlearning_epochs:
            recipe = recipe.model_copy(update={"lr": self.unlearning_lr, "epochs": self.unlearning_epochs})
            stages.fit("unlearning", model, train.take(isolated), recipe, lambda m, batch: -task.loss(m, batch))
        return Defended(model, flagged=isolated)

    def kept_up(self, loss: Tensor) -> Tensor:
        """The loss of a batch under local gradient ascent: below gamma its descent raises it."""
        if self.ascent == "lga":
            return torch.sign(loss - self.gamma) * loss
        return (loss - self.gamma).abs() + self.gamma


class Dropping(Training):
    """A rate that falls to a tenth once."""

    after: Amount
    """Epochs at the full rate."""

    def lr_at(self, progress: float) -> float:
        return self.lr if progress < self.after / self.epochs else self.lr / 10
