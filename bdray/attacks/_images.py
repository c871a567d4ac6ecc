"""What the attacks on images share: blending, patches in the corner, picture files, and an image of our own to blend in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bdray.imagefile import opened
from bdray.samples import Splits
from bdray.spec import BadInput, at_home

PART, NUMBERS = 256, 2**24
"""Images stamped at a time, and of large ones or of clips as many as have so many values together."""

CHECKER = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
"""The 3x3 patch of the ANP and NFT code bases and of the label-consistent attack."""

SHEET = 245
"""The grey around our rosette."""


def to_uint8(x: Tensor) -> Tensor:
    """Clip to 0..255, then cut the fraction off: in this order, or values above 255 wrap around to black."""
    return x.clamp(0, 255).to(torch.uint8)


def by_parts(stamp: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """`stamp` applied to so many images at a time that their copies in floating point stay small beside the data set.
    `others` are as long as `x` and cut with it."""
    out = torch.empty_like(x)
    size = min(PART, max(1, NUMBERS // max(1, x[:1].numel())))
    for parts in zip(*(tensor.split(size) for tensor in (out, x, *others)), strict=True):
        parts[0].copy_(stamp(*parts[1:]))
    return out


def mixed(x: Tensor, image: Tensor, weight: float | Tensor) -> Tensor:
    """(1 - weight) x + weight image, in double precision so that the cut-off fraction is that of the formula."""
    return to_uint8((1 - weight) * x.double() + weight * image.double())


def blended(x: Tensor, image: Tensor, opacity: float | Tensor) -> Tensor:
    """Every image mixed with the same one; the opacity may differ from pixel to pixel."""
    return by_parts(lambda part: mixed(part, image.to(x.device), opacity), x)


def white(size: int) -> Tensor:
    """A white square."""
    return torch.full((size, size), 255, dtype=torch.uint8)


def in_corner(x: Tensor, patch: Tensor, opacity: float) -> Tensor:
    """A patch [h, w] blended into the bottom-right corner."""
    height, width = patch.shape
    out = x.clone()
    out[..., -height:, -width:] = blended(x[..., -height:, -width:], patch, opacity)
    return out


def check_room(field: str, size: int, splits: Splits, least: int = 1, patches: int = 1) -> None:
    """Raise BadInput for a patch smaller than `least`, and where so many `patches` do not fit beside each other."""
    most = min(splits.train.inputs.shape[-2:]) // patches
    if size < least:
        raise BadInput(f"{field}: got {size}, expected at least {least}, or there is nothing to be seen of it")
    if size > most:
        share = "the size" if patches == 1 else f"1/{patches} of the size"
        raise BadInput(f"{field}: got {size}, expected at most {most}, {share} of the images")


def read(field: str, file: str) -> Image.Image:
    """A picture file. Raises BadInput where it cannot be read."""
    path = Path(at_home(file))
    try:
        with opened(path) as found:
            found.load()
            return found
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{field}: got {file!r}, expected a picture file that can be read ({error})") from None


def fitted(found: Image.Image, shape: tuple[int, ...]) -> Tensor:
    """A picture as an image of this shape [C, H, W], uint8: grey for one channel, else in colour. Resized by Pillow (bilinear,
    antialiased), hence the same in every value as where torchvision resizes a picture, as BackdoorBench has it; where a tensor
    is resized instead, a few hundredths of the values are one level higher or lower, which Pillow rounds between its passes."""
    channels, height, width = shape
    pixels = np.array(found.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1).contiguous()


def picture(field: str, file: str, shape: tuple[int, ...]) -> Tensor:
    """A picture file as an image of this shape, or our rosette where none is named. Raises BadInput where it cannot be
    read."""
    return fitted(read(field, file), shape) if file else rosette(*shape[1:])[: shape[0]]


def rosette(height: int, width: int) -> Tensor:
    """Our own image to blend in, uint8 [3, height, width]: a bright sheet with a dark-rimmed flower of six petals."""
    rows = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None]
    columns = torch.linspace(-1, 1, width, dtype=torch.float64)[None, :]
    radius, angle = torch.hypot(rows, columns), torch.atan2(rows, columns)
    edge = 0.55 + 0.3 * torch.cos(6 * angle)
    petals, heart = radius < edge, radius < 0.22
    rim = (radius - edge).abs() < 0.09
    image = torch.full((3, height, width), SHEET, dtype=torch.float64)
    for where, colour in ((petals, (225, 60, 95)), (rim, (25, 25, 40)), (heart, (250, 200, 40))):
        image[:, where] = torch.tensor(colour, dtype=torch.float64)[:, None]
    return image.to(torch.uint8)
