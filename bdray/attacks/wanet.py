"""WaNet (Nguyen and Tran 2021, arXiv 2102.10369): a smooth warp as the trigger; noisy warps with true labels as cover."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._frames import OverTime, check_over_time, frame_count, frame_shape
from bdray.attacks._images import by_parts
from bdray.samples import Draw, Samples, Splits
from bdray.spec import Config, Count, NonNegative, Positive, Share


def identity(height: int, width: int) -> Tensor:
    """The sampling grid that changes nothing, float32 [1, H, W, 2], x before y, -1..1 from first to last pixel centre."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)[None]


def warp(controls: Tensor, height: int, width: int, strength: float, rescale: float) -> Tensor:
    """The warping grid [1, H, W, 2] of control offsets [1, 2, k, k]: normalised by their mean size, enlarged bicubically."""
    offsets = F.interpolate(controls / controls.abs().mean(), (height, width), mode="bicubic", align_corners=True)
    grid = identity(height, width) + strength * offsets.permute(0, 2, 3, 1) / height
    return (grid * rescale).clamp(-1, 1)


def sample(x: Tensor, grid: Tensor) -> Tensor:
    """uint8 images [N, C, H, W] sampled bilinearly at a grid [1 or N, H, W, 2], clips [N, C, T, H, W] at one
    [1 or N, 1 or T, H, W, 2]; fractions are rounded, not cut off, which would darken every image by half a step."""

    def warped(part: Tensor, grids: Tensor) -> Tensor:
        if part.dim() == 5:
            frames = part.transpose(1, 2)
            at = grids.expand(-1, frames.shape[1], -1, -1, -1).flatten(0, 1)
            return warped(frames.flatten(0, 1), at).unflatten(0, frames.shape[:2]).transpose(1, 2)
        return F.grid_sample(part.float(), grids, align_corners=True).round().clamp(0, 255).to(torch.uint8)

    return by_parts(warped, x, grid.to(x.device).expand(len(x), *grid.shape[1:]))


class WaNet(ToClass):
    """The authors choose the poison anew in every batch; here its index set is fixed, which defenses that read the training
    set need, and which is a weaker attack at the same rate."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    presets: ClassVar[dict[str, Config]] = {
        "advrbd": {"target": 1, "rate": 0.05, "cover": 0.05},
        "backdoor_toolbox": {"target": 0, "rate": 0.05, "cover": 0.1},
        "backdoorbox": {"target": 0, "rate": 0.1, "cover": 0.0},
    }

    cover: Share = 0.2
    """Noise samples: the authors' cross ratio of 2 times the rate."""
    strength: NonNegative = 0.5
    grid: Count = 4
    """Control points per side, drawn once a victim."""
    rescale: Positive = 1.0
    over_time: OverTime = "static"
    """On clips. dynamic: each frame has a warp of its own, drawn once a victim; so has each frame of a cover sample."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        check_over_time("wanet", self.over_time, splits)

    def patterns(self, setting: Setting) -> Patterns:
        _, height, width = frame_shape(setting.splits)
        grids = []
        for _ in range(frame_count(setting.splits) if self.over_time == "dynamic" else 1):
            controls = torch.rand(1, 2, self.grid, self.grid, generator=setting.rng) * 2 - 1
            grids.append(warp(controls, height, width, self.strength, self.rescale))
        return {"grid": torch.cat(grids)}

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return sample(x, self._grid(x, patterns))

    def disguised(self, x: Tensor, patterns: Patterns, samples: Samples, setting: Setting) -> Tensor:
        grid = self._grid(x, patterns)
        noise = torch.rand(len(x), *grid.shape[1:], generator=setting.rng) * 2 - 1
        return sample(x, (grid + noise / x.shape[-2]).clamp(-1, 1))

    def _grid(self, x: Tensor, patterns: Patterns) -> Tensor:
        """[1, H, W, 2] for images; for clips one for all frames or one for each, [1, 1 or T, H, W, 2]."""
        return patterns["grid"][None] if x.dim() == 5 else patterns["grid"]
