"""CutMix (Yun et al., ICCV 2019) as a defense (Borgnia et al., "Strong Data Augmentation Sanitizes Poisoning and Backdoor
Attacks Without an Accuracy Tradeoff", ICASSP 2021, arXiv 2011.09527): a fresh model is trained on the poisoned set, a box of
another image pasted into each."""

import math
from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import nn

from bdray.defenses import Defended, Defense, Evidence
from bdray.seeds import numpy_rng
from bdray.spec import Amount, BadInput, Positive, Share
from bdray.task import Batch, Task
from bdray.training import Report, fit


class CutMix(Defense):
    """By the victim's recipe. The defaults are BackdoorBox's, which bounds the share; Yun et al. do not (least=0 most=1)."""

    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    because: ClassVar[str] = "it pastes a box of one image into another"

    epochs: Amount = 0
    """0: as many as the victim's."""
    probability: Share = 1.0
    """That a batch is mixed."""
    beta: Positive = 1.0
    """The share of its own that an image keeps, one a batch, is drawn from Beta(beta, beta), then bounded."""
    least: Share = 0.3
    most: Share = 0.7

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.least > self.most:
            raise BadInput(
                f"cutmix.least: got {self.least:g}, expected at most cutmix.most ({self.most:g}); change one of the two"
            )
        return self

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        train, training = evidence.train, evidence.training
        assert train is not None
        assert training is not None
        assert evidence.outline is not None
        model = task.build(evidence.outline, rng)
        seed, draw, partners = int(torch.randint(2**62, (1,), generator=rng)), numpy_rng(rng), rng
        if self.epochs:
            training = training.model_copy(update={"epochs": self.epochs})

        def mixing(model: nn.Module, batch: Batch) -> Batch:
            if draw.random() >= self.probability:
                return batch
            share = min(max(float(draw.beta(self.beta, self.beta)), self.least), self.most)
            order = torch.randperm(len(batch.targets), generator=partners).to(batch.targets.device)
            return pasted(batch, order, box(batch.inputs.shape[-2], batch.inputs.shape[-1], share, draw))

        fit(model, train, task, training, seed, report, adversary=mixing)
        return Defended(model)


def box(height: int, width: int, share: float, draw: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a box around a pixel drawn from all of them, of a size that leaves this share of the image to itself
    where the border does not cut the box off."""
    side = math.sqrt(1 - share)
    sides = []
    for size in (height, width):
        half, middle = int(size * side) // 2, int(draw.integers(size))
        sides.append(slice(max(middle - half, 0), min(middle + half, size)))
    return sides[0], sides[1]


def pasted(batch: Batch, order: torch.Tensor, where: tuple[slice, slice]) -> Batch:
    """Images with the box of their partner in it; the weight of the own label is the share of pixels that are still its own."""
    rows, columns = where
    inputs = batch.inputs.clone()
    inputs[..., rows, columns] = batch.inputs[order][..., rows, columns]
    height, width = inputs.shape[-2:]
    weight = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return Batch(inputs, batch.targets, batch.targets[order], weight)
