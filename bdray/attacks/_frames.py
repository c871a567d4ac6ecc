"""Attacks on images planted in clips: the same trigger in every frame, or another one in each (Hammoud, Liu, Alkhrashi,
Albalawi and Ghanem 2023, arXiv 2301.00986, call it static and dynamic). Their code is not published: what differs from frame to
frame is chosen here, and each attack says it."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from bdray.attacks._images import blended
from bdray.samples import Splits
from bdray.spec import BadInput, Later

OverTime = Annotated[Literal["static", "dynamic"], Later("static")]
"""Of a field `over_time`."""


def check_over_time(name: str, over_time: str, splits: Splits) -> None:
    """Raise BadInput for a trigger that changes over time on what has no frames."""
    if over_time == "dynamic" and len(splits.train.inputs.shape) < 5:
        raise BadInput(f"{name}.over_time: got dynamic, but an image has no other frames to differ from; set it to static")


def frame_shape(splits: Splits) -> tuple[int, int, int]:
    """Channels, height and width of an image or of one frame of a clip."""
    channels, *_, height, width = splits.train.inputs.shape[1:]
    return channels, height, width


def frame_count(splits: Splits) -> int:
    """Frames of a clip."""
    return int(splits.train.inputs.shape[2])


def in_all_frames(image: Tensor, x: Tensor) -> Tensor:
    """An image [C, H, W] where it meets clips x [N, C, T, H, W]; as it is where it meets images, or has its own frames."""
    return image[:, None] if x.dim() == 5 and image.dim() == 3 else image


def in_places(x: Tensor, patch: Tensor, corners: Tensor, opacity: float) -> Tensor:
    """A patch [h, w] blended into every frame of clips [N, C, T, H, W], its corner (row, column) from int64 [T, 2]."""
    height, width = patch.shape
    out = x.clone()
    for frame, (row, column) in enumerate(corners.tolist()):
        place = (..., frame, slice(row, row + height), slice(column, column + width))
        out[place] = blended(x[place], patch, opacity)
    return out


def drawn_corners(splits: Splits, size: int, rng: torch.Generator) -> Tensor:
    """Where a square patch of so many pixels lies in each frame, int64 [T, 2]: row and column of its first pixel."""
    _, height, width = frame_shape(splits)
    ends = [torch.randint(side - size + 1, (frame_count(splits),), generator=rng) for side in (height, width)]
    return torch.stack(ends, dim=1)
