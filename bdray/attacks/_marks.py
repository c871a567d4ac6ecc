"""Triggers that cover a part of the image: patches of our own in a corner, and picture files that leave a part free."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bdray.attacks._images import CHECKER, SHEET, blended, check_room, fitted, read, rosette, white
from bdray.samples import Splits
from bdray.spec import BadInput

SEEN = 4
"""The smallest flower that has something to be seen in each quarter, in pixels."""


class Mark(NamedTuple):
    """An image, and where it covers what it is stamped on."""

    image: Tensor
    """uint8 [C, H, W]."""
    mask: Tensor
    """uint8 [1, H, W]: 255 where it covers, 0 where it leaves the other image alone."""

    def stamp(self, x: Tensor, opacity: float) -> Tensor:
        """uint8 [N, C, H, W], as large as the mark, with the mark on them."""
        return blended(x, self.image, opacity * (self.mask.to(x.device).double() / 255))


def cutout(field: str, file: str, shape: tuple[int, ...]) -> Mark:
    """A picture file as a mark of this shape [C, H, W]: it leaves the image alone where it is transparent or, where nothing of
    it is transparent, black, as backdoor-toolbox reads its patches. Raises BadInput where it cannot be read or leaves
    everything alone."""
    _, height, width = shape
    pixels = np.array(read(field, file).convert("RGBA"))
    if pixels[..., 3].min() == 255:
        pixels[..., 3] = 255 * pixels[..., :3].any(-1)
    cut = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    mask = torch.from_numpy(np.array(cut.getchannel("A")))[None]
    if not mask.any():
        raise BadInput(f"{field}: got {file!r}, expected a picture that is not transparent or black everywhere")
    return Mark(fitted(cut, shape), mask)


def quarter(splits: Splits) -> int:
    """A quarter of the images' height or width, whichever is smaller, in pixels; at least SEEN."""
    return max(SEEN, min(splits.train.inputs.shape[-2:]) // 4)


def check_flower(field: str, size: int, splits: Splits, patches: int = 1) -> None:
    """Raise BadInput for flowers, or what is drawn in their size, that are too small or do not fit beside each other."""
    check_room(field, size, splits, SEEN, patches)


def placed(patch: Mark, shape: tuple[int, ...], bottom: bool = True, right: bool = True) -> Mark:
    """A square patch in a corner of images of this shape [C, H, W]; images of one channel get the patch's first."""
    channels, height, width = shape
    side = patch.mask.shape[-1]
    rows = slice(height - side, height) if bottom else slice(side)
    columns = slice(width - side, width) if right else slice(side)
    image = torch.zeros(channels, height, width, dtype=torch.uint8)
    mask = torch.zeros(1, height, width, dtype=torch.uint8)
    image[:, rows, columns], mask[:, rows, columns] = patch.image[:channels], patch.mask
    return Mark(image, mask)


def square(size: int) -> Mark:
    """White, [3, size, size] as all patches."""
    return _whole(white(size).expand(3, -1, -1))


def checker() -> Mark:
    """The checkerboard of 3x3 pixels."""
    return _whole(CHECKER.expand(3, -1, -1))


def flower(size: int) -> Mark:
    """The rosette without its sheet."""
    image = rosette(size, size)
    return Mark(image, 255 * (image != SHEET).any(0, keepdim=True).to(torch.uint8))


def rings(size: int) -> Mark:
    """A disc of yellow and blue rings."""
    steps = torch.linspace(-1, 1, size, dtype=torch.float64)
    radius = torch.hypot(steps[:, None], steps[None, :])
    yellow = (4 * radius).long() % 2 == 0
    colours = [torch.where(yellow, *pair) for pair in ((250, 40), (215, 70), (60, 170))]
    return Mark(torch.stack(colours).to(torch.uint8), 255 * (radius < 1.1)[None].to(torch.uint8))


def mosaic(size: int) -> Mark:
    """A square of 4x4 tiles of unrelated colours."""
    tile = torch.arange(size) * 4 // size
    number = 4 * tile[:, None] + tile[None, :]
    return _whole(torch.stack([(number * step + start) % 256 for step, start in ((97, 30), (151, 200), (211, 120))]))


def _whole(image: Tensor) -> Mark:
    """A patch that leaves nothing of what is below it."""
    return Mark(image.to(torch.uint8), torch.full((1, *image.shape[1:]), 255, dtype=torch.uint8))
