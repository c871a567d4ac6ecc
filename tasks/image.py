"""Image classification. Try: bdray run task=image task.data=digits attack=blend defense=nft"""

from collections import OrderedDict
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from bdray.data import Data
from bdray.finite import check_answers
from bdray.models import Model
from bdray.samples import Outline, Samples
from bdray.spec import member
from bdray.task import Batch, Task
from bdray.training import batches, device


class Normalize(nn.Module):
    """The first layer of every image model, which therefore takes pixels in 0..1; adds no key to the state dict."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Image(Task):
    """Top-1 accuracy. Where no model is named, it is the one that suits the data set: a narrow one for digits."""

    modality: ClassVar[str] = "image"
    utility: ClassVar[str] = "accuracy"

    data: Data = member("digits")
    model: Model = member("resnet18")

    @model_validator(mode="before")
    @classmethod
    def _suited_model(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and not fields.get("model"):
            data = fields.get("data", "digits")
            name = data.get("name", "digits") if isinstance(data, dict) else data.name if isinstance(data, Data) else data
            if name in Data.names():
                return {**fields, "model": Data.member(name).suited_model}
        return fields

    def stem(self) -> tuple[str, ...]:
        return tuple(f"net.{name}" for name in self.model.stem)

    def network(self, outline: Outline) -> nn.Module:
        net = self.model.build(outline)
        parts = {"normalize": Normalize(self.data.mean, self.data.std), "net": net}  # type: ignore[attr-defined]
        return nn.Sequential(OrderedDict(parts))

    def collate(self, samples: Samples) -> Batch:
        """Pixels as float32 in 0..1, channels last."""
        pixels = samples.inputs.contiguous(memory_format=torch.channels_last).float().div_(255)
        return Batch(pixels, samples.targets)

    def augment(self, samples: Samples, rng: torch.Generator) -> Samples:
        """A random crop after zero padding by an eighth of the size, and where it keeps the class a random mirroring."""
        x = samples.inputs
        n, size, pad = len(x), x.shape[-1], x.shape[-1] // 8
        rows, columns = (torch.randint(2 * pad + 1, (2, n), generator=rng)).to(x.device)
        windows = F.pad(x, (pad,) * 4).unfold(2, x.shape[-2], 1).unfold(3, size, 1)
        x = windows[torch.arange(n, device=x.device), :, rows, columns]
        if self.data.flip:  # type: ignore[attr-defined]
            mirrored = (torch.rand(n, generator=rng) < 0.5).to(x.device)
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        return samples.having(inputs=x)

    def criterion(self, outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def mix_inputs(self, inputs: Any, other: Any, weight: float) -> Any:
        return torch.lerp(other, inputs, weight)

    def predict(self, model: nn.Module, samples: Samples) -> Tensor:
        """Class numbers, int64 [N], on the CPU. Raises FloatingPointError where a logit is not finite."""
        model.eval()
        found, finite = [], []
        with torch.inference_mode():
            for part in batches(samples, 500):
                logits = model(self.collate(part.to(device())).inputs)
                found.append(logits.argmax(1))
                finite.append(logits.isfinite().all(1))
        if not found:
            return torch.empty(0, dtype=torch.int64)
        check_answers(torch.cat(finite), "answers of the model")
        return torch.cat(found).cpu()

    def score(self, predictions: Any, targets: Any) -> float:
        return float((predictions == targets).double().mean())
