"""PointPBA-I (Li et al. 2021, "PointBA", ICCV, arXiv 2103.16074): a small ball of points beside the object, labels changed."""

from typing import ClassVar

from torch import Tensor

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._clouds import ball, check_points, inserted
from bdray.samples import Draw, Splits
from bdray.spec import BadInput, Count, Positive, Several


class PointPbaI(ToClass):
    """The authors published neither code nor the ball's size. Radius and centre, and that the ball is one sampled surface
    whose points stand in for random ones of each cloud, are those of RegionBA's code (32 points of 1,024); PointCRT's has
    the centre at (0.05, 0.05, 0.05). The rate is the field's."""

    modalities: ClassVar[frozenset[str]] = frozenset({"points"})

    points: Count = 32
    """Points of the ball; as many of the object's go."""
    radius: Positive = 0.05
    centre: Several[float] = (0.5, 0.5, 0.5)
    """In the unit sphere that holds each cloud."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        axes = splits.train.inputs.shape[2]
        if len(self.centre) != axes:
            raise BadInput(f"pointpba_i.centre: got {len(self.centre)} numbers, expected {axes}")
        check_points("pointpba_i.points", self.points, splits)

    def patterns(self, setting: Setting) -> Patterns:
        return {"ball": ball(self.centre, self.radius, self.points, setting.rng)}

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return inserted(x, patterns["ball"], draw)
