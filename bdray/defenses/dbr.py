"""D-BR (Chen, Wu and Wang, "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples", NeurIPS 2022): samples
whose features a rotation and a shift change most are taken for poison and unlearnt, those that they change least are relearnt.

It needs the training set alone: one model, trained for little else, tells the samples apart, and another, trained by the
victim's recipe, is cleansed. The defaults are those of the authors' code, which differs in this: it draws each image's rotation
and shift anew between finding the thresholds and splitting by them; of the removal's epochs it keeps the one with the best test
accuracy less ASR, here it is the last; the first model's rate follows the first twelve epochs of a cosine of 100.
"""

from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from bdray.defenses import Defended, Defense, Evidence
from bdray.defenses._stages import Stages, portion
from bdray.layers.features import features, head
from bdray.layers.finite import check_answers, check_finite
from bdray.samples import Outline, Samples, Splits
from bdray.spec import Amount, BadInput, BatchSize, Count, Incompatible, NonNegative, Positive, Share
from bdray.task import Task
from bdray.training import Report, Training, batches, device


class Dbr(Defense):
    """Works on any model with a linear layer: what enters the last one are its features. Flags what it takes for poison."""

    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    because: ClassVar[str] = "it turns and shifts images"
    flags: ClassVar[bool] = True

    alpha_c: Share = 0.20
    """Samples taken for clean, those whose features change least / training samples."""
    alpha_p: Share = 0.05
    """Samples taken for poison, those whose features change most / training samples."""
    rotate: NonNegative = 180.0
    """Degrees at most, either way."""
    translate: Share = 0.2
    """At most, either way, of height and width."""
    tuning_epochs: Count = 2
    """Of the model that tells the samples apart, without augmentation."""
    intra_epochs: Amount = 10
    """Then, on the intra-class loss alone: how alike the classes' mean features are."""
    lr: Positive = 0.01
    """Of that model."""
    victim_epochs: Amount = 0
    """Of the model to cleanse; 0: as many as the victim's."""
    removal_epochs: Amount = 20
    """Each unlearns the poison, then relearns the clean samples."""
    removal_lr: Positive = 1e-4
    batch: BatchSize = 128
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4

    @model_validator(mode="after")
    def _parts_are_apart(self) -> Self:
        if self.alpha_c + self.alpha_p > 1:
            raise BadInput(
                f"dbr.alpha_c: got {self.alpha_c:g}, which with dbr.alpha_p ({self.alpha_p:g}) is more than the whole training "
                "set; lower one of the two"
            )
        return self

    def check(self, task: Task, outline: Outline, splits: Splits) -> None:
        super().check(task, outline, splits)
        self.counts(len(splits.train))

    def fits(self, model: nn.Module, task: Task) -> None:
        if head(model) is None:
            raise Incompatible(
                f"the defense 'dbr' looks at what enters a linear layer, and the model {task.model.name!r} has none; choose "
                "another"
            )

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        train, training = evidence.train, evidence.training
        assert train is not None
        assert training is not None
        assert evidence.outline is not None
        clean, poison = self.counts(len(train))
        stages = Stages(task, rng, report)
        distinguisher = self.distinguisher(train, evidence.outline, task, stages)
        order = self.sensitivity(distinguisher, train, task, rng).argsort(stable=True)
        lowest, highest = order[:clean], order[-poison:]
        if self.victim_epochs:
            training = training.model_copy(update={"epochs": self.victim_epochs})
        model = stages.fit("victim", task.build(evidence.outline, rng), train, training)
        self.remove(model, train.take(highest), train.take(lowest), stages)
        flagged = torch.zeros(len(train), dtype=torch.bool)
        flagged[highest] = True
        return Defended(model.eval(), flagged=flagged)

    def counts(self, samples: int) -> tuple[int, int]:
        """How many samples are taken for clean, and for poison. Raises BadInput where a part is less than a batch."""
        return portion("dbr.alpha_c", self.alpha_c, samples), portion("dbr.alpha_p", self.alpha_p, samples)

    def recipe(self, **fields: Any) -> Training:
        """Of this defense's own trainings."""
        plain = {name: getattr(self, name) for name in ("batch", "momentum", "weight_decay")}
        return Training(**plain, **fields, schedule="constant")

    def distinguisher(self, train: Samples, outline: Outline, task: Task, stages: Stages) -> nn.Module:
        """A model on whose features clean and poisoned samples of one class lie apart."""
        model = task.build(outline, stages.rng)
        stages.fit("tuning", model, train, self.recipe(epochs=self.tuning_epochs, lr=self.lr, augment=False))
        if self.intra_epochs:
            recipe = self.recipe(epochs=self.intra_epochs, lr=self.lr, augment=False)
            stages.fit("intra", model, train, recipe, lambda m, b: likeness(features(m, b.inputs), b.targets))
        return model

    def sensitivity(self, model: nn.Module, train: Samples, task: Task, rng: torch.Generator) -> Tensor:
        """The metric FCT: the mean squared change of each sample's features when it is turned and shifted, once, float [N] on
        the CPU. Raises FloatingPointError where one is no finite number: the largest of NaNs tells nothing."""
        angles = (2 * torch.rand(len(train), generator=rng) - 1) * self.rotate
        height, width = train.inputs.shape[-2:]
        reach = self.translate * torch.tensor([height, width])
        shifts = ((2 * torch.rand(len(train), 2, generator=rng) - 1) * reach).round().long()
        found, done = [], 0
        model.eval()
        with torch.inference_mode():
            for part in batches(train, 500):
                part, here = part.to(device()), slice(done, done + len(part))
                other = part.having(inputs=moved(part.inputs, angles[here].to(device()), shifts[here].to(device())))
                before, after = (features(model, task.collate(samples).inputs) for samples in (part, other))
                found.append((before - after).square().mean(1))
                done += len(part)
        changes = torch.cat(found).cpu()
        check_answers(changes.isfinite(), "changes of the samples' features")
        return changes

    def remove(self, model: nn.Module, poison: Samples, clean: Samples, stages: Stages) -> None:
        """In turns a pass of ascent on the poison and one of descent on the clean samples, in place, with one optimizer.

        Raises FloatingPointError when a loss, or at last a weight, is no longer finite.
        """
        optimizer = self.recipe(lr=self.removal_lr).stepper(model.parameters())
        tell = stages.told("removal", self.removal_epochs)
        for epoch in range(1, self.removal_epochs + 1):
            climbed = one_pass(model, poison, stages, optimizer, self.batch, ascend=True)
            tell(epoch, poison_loss=climbed, clean_loss=one_pass(model, clean, stages, optimizer, self.batch))
        check_finite(model, "removal", f"lower dbr.removal_lr ({self.removal_lr:g})")


def one_pass(
    model: nn.Module, samples: Samples, stages: Stages, optimizer: torch.optim.Optimizer, size: int, ascend: bool = False
) -> float:
    """One pass over the samples, shuffled and augmented; the mean loss."""
    task, total = stages.task, torch.zeros((), device=device())
    model.train()
    for part in batches(samples.to(device()), size, stages.rng):
        loss = task.loss(model, task.collate(task.augment(part, stages.rng)))
        optimizer.zero_grad()
        (-loss if ascend else loss).backward()
        optimizer.step()
        total += loss.detach() * len(part)
    mean = float(total) / len(samples)
    if not torch.tensor(mean).isfinite():
        raise FloatingPointError(f"the loss is {mean} while {'unlearning' if ascend else 'relearning'}; lower dbr.removal_lr")
    return mean


def likeness(found: Tensor, targets: Tensor) -> Tensor:
    """The intra-class loss: the cosine between the mean features [N, features] of each two classes of a batch, summed over
    all ordered pairs and divided by the squared number of classes, as in the authors' code."""
    centres = F.normalize(torch.stack([found[targets == c].mean(0) for c in targets.unique()]))
    cosines = centres @ centres.T
    return (cosines.sum() - cosines.trace()) / cosines.numel()


def moved(images: Tensor, angles: Tensor, shifts: Tensor) -> Tensor:
    """Images [N, C, H, W] turned about their middle (degrees counter-clockwise, [N]), then shifted (pixels down and right,
    int64 [N, 2]); each pixel is the nearest one, black where it comes from outside."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height, device=images.device), torch.arange(width, device=images.device), indexing="ij")
    angles = angles.deg2rad()[:, None, None]
    up, right = y - (height - 1) / 2, x - (width - 1) / 2
    turned = looked_up(
        images,
        angles.sin() * right + angles.cos() * up + (height - 1) / 2,
        angles.cos() * right - angles.sin() * up + (width - 1) / 2,
    )
    return looked_up(turned, y - shifts[:, 0, None, None], x - shifts[:, 1, None, None])


def looked_up(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels of each image [N, C, H, W] nearest to these places [N, H, W], black outside."""
    height, width = images.shape[-2:]
    rows, columns = rows.round().long(), columns.round().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(1)
    found = images.flatten(2).gather(2, places[:, None].expand(-1, images.shape[1], -1))
    return found.view(images.shape) * inside[:, None]
