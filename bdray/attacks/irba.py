"""IRBA (Gao et al. 2023, IEEE TIFS, arXiv 2211.05638): the cloud bent by a weighted local transformation, labels changed."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from bdray.attacks import Patterns, ToClass
from bdray.attacks._clouds import check_axes, check_points
from bdray.clouds import farthest, gathered, in_unit_sphere, rotation, turned
from bdray.samples import Draw, Splits
from bdray.spec import Config, Count, NonNegative, Positive, Share

PART = 32
"""Clouds at a time: each is copied once for every anchor."""


class Irba(ToClass):
    """Around each of some anchors, farthest points of the cloud, the whole cloud is turned and scaled; what becomes of a
    point is the mean of these, each weighed by a Gaussian of the point's distance to the anchor; then the cloud is put into
    the unit sphere again. Angle, scale and width are those of the authors' code, in which they are constants: only the
    anchors differ from cloud to cloud. There the first anchor stands at one place in the order of the points, the same for
    all clouds; here it is drawn for each."""

    modalities: ClassVar[frozenset[str]] = frozenset({"points"})
    presets: ClassVar[dict[str, Config]] = {"irba": {"rate": 0.1, "target": 8}}

    rate: Share = 0.1
    anchors: Count = 16
    degrees: NonNegative = 5.0
    """Turned by so much about x, y and z."""
    scale: Positive = 5.0
    sigma: Positive = 0.5
    """Of the Gaussian; the cloud's radius is 1."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        check_axes(self.name, splits)
        check_points("irba.anchors", self.anchors, splits)

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        count = x.shape[1]
        start = draw(lambda g: torch.randint(count, (1,), generator=g)).flatten().to(x.device)
        out = torch.empty_like(x)
        for found, part, first in zip(out.split(PART), x.split(PART), start.split(PART), strict=True):
            found.copy_(self._bent(part.double(), first))
        return out

    def _bent(self, x: Tensor, start: Tensor) -> Tensor:
        """Clouds in double precision, so that what a processor's last bits are does not show."""
        angle = torch.full((3,), math.radians(self.degrees), dtype=x.dtype, device=x.device)
        matrix = rotation(angle).T  # the authors' points are rows, and stand before it
        anchors = gathered(x, farthest(x, self.anchors, start))
        apart = x[:, None] - anchors[:, :, None]
        weight = (-0.5 * apart.square().sum(3) / self.sigma**2).softmax(1)  # normalised before it can be 0 for all anchors
        moved = self.scale * turned(apart, matrix.expand(*apart.shape[:2], 3, 3)) + anchors[:, :, None]
        return in_unit_sphere((weight[..., None] * moved).sum(1))
