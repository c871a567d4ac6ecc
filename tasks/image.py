"""Image classification. Try: bdray run task=image task.data=digits attack=blend defense=nft"""

from collections import OrderedDict
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from bdray.data import Data
from bdray.models import Model
from bdray.samples import Outline, Samples
from bdray.spec import member
from bdray.task import Batch
from bdray.tasks._classes import Classification, Normalize


class Image(Classification):
    """Top-1 accuracy. Where no model is named, it is the one that suits the data set: a narrow one for digits."""

    modality: ClassVar[str] = "image"
    space: ClassVar[Literal["", "pixels", "points", "words"]] = "pixels"

    data: Data = member("digits")
    model: Model = member("resnet18")

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

    def mix_inputs(self, inputs: Any, other: Any, weight: float) -> Any:
        return torch.lerp(other, inputs, weight)
