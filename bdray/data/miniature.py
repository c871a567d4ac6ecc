"""A made miniature of the image modality for the product tests: noisy coloured shapes in 4 classes, not on disk."""

from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bdray.data import Published
from bdray.data._images import Images
from bdray.samples import Samples
from bdray.seeds import rng
from bdray.spec import LARGEST, Config, Count

# Red, green, blue of each class's shape.
COLOURS = {"disc": (210, 70, 70), "square": (70, 200, 80), "cross": (80, 90, 220), "frame": (200, 190, 60)}
SHADE, NOISE, SHIFT = 25, 16, 0.1


class Miniature(Images):
    """One shape an image, of its class's colour give or take, somewhere near the middle, so that the corners stay free
    for triggers; `per_class` images a class to train on and half as many to test. Made of whole numbers only, hence the
    same to the bit on every machine."""

    unit: ClassVar[str] = "an image"
    home: ClassVar[str] = "bdray itself (bdray/data/miniature.py)"
    layout: ClassVar[str] = "nothing"
    mean: ClassVar[tuple[float, ...]] = (0.46, 0.48, 0.42)
    std: ClassVar[tuple[float, ...]] = (0.16, 0.15, 0.15)
    suited_model: ClassVar[Config] = {"name": "resnet18", "width": 4}

    size: Annotated[int, Field(ge=8, le=LARGEST)] = 16
    """Height and width in pixels."""
    per_class: Count = 60
    """Training images of each class, before `held` is taken off."""

    def read(self, root: Path) -> Published:
        return Published(self._make("train", self.per_class), self._make("test", -(-self.per_class // 2)), list(COLOURS))

    def _make(self, part: str, per_class: int) -> Samples:
        self.check_memory(len(COLOURS) * per_class, self.size, "size or per_class", each=27)  # three int64, and three bytes
        draw = rng(0, "miniature", part, self.size)
        targets = torch.arange(len(COLOURS)).repeat(per_class)
        count = len(targets)

        def around(centre: int | Tensor, width: int, *shape: int) -> Tensor:
            return centre + torch.randint(-width, width + 1, (count, *shape), generator=draw)

        background = around(110, SHADE, 1, 1, 1)
        colour = around(torch.tensor(list(COLOURS.values()))[targets][..., None, None], SHADE, 3, 1, 1)
        reach = round(SHIFT * self.size)
        inside = _shapes(self.size, around(0, reach), around(0, reach))[torch.arange(count), targets]
        pixels = torch.where(inside[:, None], colour, background) + around(0, NOISE, 3, self.size, self.size)
        return Samples(pixels.clamp(0, 255).to(torch.uint8), targets)


def _shapes(size: int, down: Tensor, right: Tensor) -> Tensor:
    """Masks [N, 4, size, size] of the four shapes, moved by so many pixels, in the order of COLOURS."""
    # In half pixels from the middle, so that an even size has one too.
    steps = 2 * torch.arange(size) - size + 1
    y = (steps[None] - 2 * down[:, None])[:, :, None].abs()
    x = (steps[None] - 2 * right[:, None])[:, None, :].abs()
    far, radius = torch.maximum(x, y), 6 * size // 10
    near = torch.minimum(x, y)
    shapes = (x * x + y * y <= radius * radius, far <= radius, (far <= radius) & (3 * near <= radius))
    return torch.stack([*shapes, (far <= radius) & (2 * far > radius)], dim=1)
