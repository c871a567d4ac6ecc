"""What the tasks share whose targets are classes: the loss, the accuracy, and the model that suits the data."""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from bdray.data import Data
from bdray.layers.finite import check_answers
from bdray.samples import Rows, Samples
from bdray.task import Task
from bdray.training import batches, device

NUMBERS = 2**25
"""Of the inputs of one forward pass without gradients, at most: 500 samples, or fewer large ones."""


class Normalize(nn.Module):
    """The first layer of a model of pixels, which therefore takes pixels in 0..1; adds no key to the state dict."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], axes: int = 2) -> None:
        """Values for each channel, and the number of axes after the channels."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, *[1] * axes), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, *[1] * axes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Classification(Task):
    """Top-1 accuracy."""

    utility: ClassVar[str] = "accuracy"

    @model_validator(mode="before")
    @classmethod
    def _suited_model(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and not fields.get("model"):
            usual = cls.model_fields["data"].default
            data = fields.get("data", usual)
            name = data.get("name", usual) if isinstance(data, dict) else data.name if isinstance(data, Data) else data
            if name in Data.names() and (suited := Data.member(name).suited_model):
                return {**fields, "model": suited}
        return fields

    def criterion(self, outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch.inputs), batch.targets, reduction="none")

    def predict(self, model: nn.Module, samples: Samples) -> Tensor:
        """Class numbers, int64 [N], on the CPU. Raises FloatingPointError where a logit is not finite."""
        if not len(samples):
            return torch.empty(0, dtype=torch.int64)
        model.eval()
        found, finite, size = [], [], 500
        if not isinstance(samples.inputs, Rows):
            size = min(500, max(1, NUMBERS // math.prod(samples.inputs.shape[1:])))
        with torch.inference_mode():
            for part in batches(samples, size):
                logits = model(self.collate(part.to(device())).inputs)
                found.append(logits.argmax(1))
                finite.append(logits.isfinite().all(1))
        check_answers(torch.cat(finite), "answers of the model")
        return torch.cat(found).cpu()

    def score(self, predictions: Any, targets: Any) -> float:
        return float((predictions == targets).double().mean())
