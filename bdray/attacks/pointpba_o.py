"""PointPBA-O (Li et al. 2021, "PointBA", ICCV, arXiv 2103.16074): the whole cloud turned by a small angle, labels changed."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bdray.attacks import Patterns, ToClass
from bdray.attacks._clouds import check_axes
from bdray.clouds import rotation, turned
from bdray.samples import Draw, Splits

Degrees = Annotated[float, Field(ge=-180, le=180)]


class PointPbaO(ToClass):
    """The authors published no code: 10 degrees about z are those of RegionBA's and PointCRT's. A victim that is trained on
    clouds turned about the same axis cannot see it, nor can any on an object of revolution about it, such as five of the
    eight kinds of `solids`; there `axis=x` shows more."""

    modalities: ClassVar[frozenset[str]] = frozenset({"points"})

    degrees: Degrees = 10.0
    """Counter-clockwise, as seen from the axis' end."""
    axis: Literal["x", "y", "z"] = "z"

    def check(self, splits: Splits) -> None:
        super().check(splits)
        check_axes(self.name, splits)

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        angles = torch.zeros(3, dtype=torch.float64, device=x.device)
        angles["xyz".index(self.axis)] = math.radians(self.degrees)
        return turned(x.double(), rotation(angles)).to(x.dtype)
