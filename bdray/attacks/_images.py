"""What the attacks on images share: blending, the checkerboard patch, and an image of our own to blend in."""

from collections.abc import Callable

import torch
from torch import Tensor

PART = 256  # images stamped at a time

CHECKER = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
"""The 3x3 patch of the ANP and NFT code bases and of the label-consistent attack."""


def to_uint8(x: Tensor) -> Tensor:
    """Clip to 0..255, then cut the fraction off: in this order, or values above 255 wrap around to black."""
    return x.clamp(0, 255).to(torch.uint8)


def by_parts(stamp: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """`stamp` applied to so many images at a time that their copies in floating point stay small beside the data set.
    `others` are as long as `x` and cut with it."""
    out = torch.empty_like(x)
    for parts in zip(*(tensor.split(PART) for tensor in (out, x, *others)), strict=True):
        parts[0].copy_(stamp(*parts[1:]))
    return out


def blended(x: Tensor, image: Tensor, opacity: float) -> Tensor:
    """(1 - opacity) x + opacity image, in double precision so that the cut-off fraction is that of the formula."""
    return by_parts(lambda part: to_uint8((1 - opacity) * part.double() + opacity * image.double()), x)


def rosette(height: int, width: int) -> Tensor:
    """Our own image to blend in, uint8 [3, height, width]: a bright sheet with a dark-rimmed flower of six petals."""
    rows = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None]
    columns = torch.linspace(-1, 1, width, dtype=torch.float64)[None, :]
    radius, angle = torch.hypot(rows, columns), torch.atan2(rows, columns)
    edge = 0.55 + 0.3 * torch.cos(6 * angle)
    petals, heart = radius < edge, radius < 0.22
    rim = (radius - edge).abs() < 0.09
    image = torch.full((3, height, width), 245.0, dtype=torch.float64)
    for where, colour in ((petals, (225, 60, 95)), (rim, (25, 25, 40)), (heart, (250, 200, 40))):
        image[:, where] = torch.tensor(colour, dtype=torch.float64)[:, None]
    return image.to(torch.uint8)
