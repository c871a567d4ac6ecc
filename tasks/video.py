"""Video action recognition. Try: bdray run task=video attack=badnets defense=fine_tuning defense.clean=0.07"""

from collections import OrderedDict
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.data import Data
from bdray.models import Model
from bdray.needs import Needs
from bdray.samples import Outline, Samples
from bdray.seeds import rng as named_rng
from bdray.spec import Config, member
from bdray.task import Batch
from bdray.tasks._classes import Classification, Normalize

AXES = {"spatial": (3, 4), "temporal": (2,), "spatiotemporal": (2, 3, 4)}
"""Of [N, C, T, H, W], those along which the cuboid of each way of mixing is smaller than the clip."""


class Video(Classification):
    """Top-1 accuracy on one clip a video. Where no model is named, it is the one that suits the data set."""

    modality: ClassVar[str] = "video"
    space: ClassVar[Literal["", "pixels", "points", "words"]] = "pixels"
    victim_needs: ClassVar[Needs] = Needs(1, 1, 3)
    cell_needs: ClassVar[Needs] = Needs(1, 0.25, 3)
    suited: ClassVar[dict[str, Config]] = {
        "attack": {"name": "badnets"},
        "training": {"epochs": 20, "batch": 16, "lr": 0.1, "schedule": "onecycle", "augment": False},
        "defense": {"name": "nft", "clean": 0.05, "steps": 100, "batch": 32},
    }

    data: Data = member("moving_shapes")
    model: Model = member("conv3d")
    mixup: Literal["spatial", "temporal", "spatiotemporal", "linear"] = "spatial"
    """How a defense mixes two clips: VideoMix (Yun et al. 2020, arXiv 2012.03457), in which a cuboid of the other clip is
    pasted in, of a part of the frame in all frames, of the whole frame in some, or of both; or all values in their shares
    (MixUp)."""

    def stem(self) -> tuple[str, ...]:
        return tuple(f"net.{name}" for name in self.model.stem)

    def network(self, outline: Outline) -> nn.Module:
        net = self.model.build(outline)
        normalize = Normalize(self.data.mean, self.data.std, axes=3)  # type: ignore[attr-defined]
        return nn.Sequential(OrderedDict({"normalize": normalize, "net": net}))

    def collate(self, samples: Samples) -> Batch:
        """Pixels as float32 in 0..1, channels last."""
        pixels = samples.inputs.contiguous(memory_format=torch.channels_last_3d).float().div_(255)
        return Batch(pixels, samples.targets)

    def augment(self, samples: Samples, rng: torch.Generator) -> Samples:
        """A random crop after zero padding by an eighth of the size, and where it keeps the class a random mirroring; the
        same in all frames of a clip."""
        x = samples.inputs
        n, (height, width) = len(x), x.shape[-2:]
        pad = width // 8
        rows, columns = torch.randint(2 * pad + 1, (2, n), generator=rng).tolist()
        wide = F.pad(x, (pad,) * 4)
        parts = (wide[i, ..., r : r + height, c : c + width] for i, (r, c) in enumerate(zip(rows, columns, strict=True)))
        x = torch.stack(list(parts))
        if self.data.flip:  # type: ignore[attr-defined]
            mirrored = (torch.rand(n, generator=rng) < 0.5).to(x.device)
            x = torch.where(mirrored[:, None, None, None, None], x.flip(-1), x)
        return samples.having(inputs=x)

    def mix_inputs(self, inputs: Tensor, other: Tensor, weight: float) -> Tensor:
        return torch.lerp(other, inputs, weight)

    def mix(self, batch: Batch, order: Tensor, weight: float) -> Batch:
        """Of a cuboid, whose sides are whole, the weight becomes the share of the pixels that are left. Where it lies
        follows from `order` and `weight`, which are drawn."""
        if self.mixup == "linear":
            return super().mix(batch, order, weight)
        x = batch.inputs.clone()
        draw = named_rng(0, "videomix", weight, *order.tolist())
        place, voxels = [slice(None)] * 5, 1.0
        for axis in AXES[self.mixup]:
            side = round(x.shape[axis] * (1 - weight) ** (1 / len(AXES[self.mixup])))
            start = int(torch.randint(x.shape[axis] - side + 1, (1,), generator=draw))
            place[axis] = slice(start, start + side)
            voxels *= side / x.shape[axis]
        x[tuple(place)] = batch.inputs[order][tuple(place)]
        return Batch(x, batch.targets, batch.targets[order], 1 - voxels)
