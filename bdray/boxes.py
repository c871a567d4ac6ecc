"""Boxes around objects: what a detector is trained on, what it says, and how far two of them overlap.

A box is (x1, y1, x2, y2) in pixels from the upper left corner, its ends not in it, as in torchvision.
"""

from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from bdray.samples import Rows

_SIDES = [(side, pa.float32()) for side in ("x1", "y1", "x2", "y2")]
TARGETS = pa.list_(pa.struct([*_SIDES, ("label", pa.int64()), ("difficult", pa.bool_())]))
"""Of an image: all boxes of it, in the order of its annotation; none is an empty list."""
FOUND = pa.list_(pa.struct([*_SIDES, ("label", pa.int64()), ("score", pa.float32())]))
"""What a detector says of an image, the surest first."""


class Box(NamedTuple):
    """An object of class `label`; a difficult one counts neither as a hit nor as a miss."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    difficult: bool = False


class Objects(NamedTuple):
    """The boxes of one image as tensors: float32 [K, 4], int64 [K], and bool [K] or float32 [K]."""

    boxes: Tensor
    labels: Tensor
    rest: Tensor
    """`difficult` of targets, `score` of what a detector says."""


def objects(rows: Rows, device: torch.device | None = None) -> list[Objects]:
    """The boxes of each image."""
    if not len(rows):
        return []
    flat = rows.values.flatten()
    sides = torch.stack([_tensor(flat.field(side)) for side, _ in _SIDES], 1)
    columns = (sides, _tensor(flat.field("label")), _tensor(flat.field(flat.type.num_fields - 1)))
    sizes = rows.values.value_lengths().to_pylist()
    return [Objects(*part) for part in zip(*(column.to(device).split(sizes) for column in columns), strict=True)]


def rows_of(found: list[Objects]) -> Rows:
    """The inverse, for what a detector says."""
    return Rows.of(
        [
            [
                {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "label": label, "score": score}
                for (x1, y1, x2, y2), label, score in zip(*(part.tolist() for part in each), strict=True)
            ]
            for each in found
        ],
        FOUND,
    )


def _tensor(column: pa.Array) -> Tensor:
    values = column.to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.copy())


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every box with every other, float32 [K, L]; 0 where both are empty."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(2)
    areas, theirs = ((b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (boxes, others))
    union = areas[:, None] + theirs[None] - inside
    return inside / union.clamp(min=1e-12)
