"""PointPBA-I (Li et al. 2021, "PointBA", ICCV, arXiv 2103.16074): a small ball of points beside the object, labels changed."""

from typing import ClassVar

import torch
from torch import Tensor

from bdray.attacks import Patterns, Setting, ToClass
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
        count, axes = splits.train.inputs.shape[1:]
        if len(self.centre) != axes:
            raise BadInput(f"pointpba_i.centre: got {len(self.centre)} numbers, expected {axes}")
        if self.points > count:
            raise BadInput(f"pointpba_i.points: got {self.points}, expected at most {count}, all points of a cloud")

    def patterns(self, setting: Setting) -> Patterns:
        """Uniform on the sphere: the directions of normal draws."""
        count, axes = self.points, setting.splits.train.inputs.shape[-1]
        directions = torch.randn(count, axes, dtype=torch.float64, generator=setting.rng)
        directions = directions / directions.norm(dim=1, keepdim=True)
        return {"ball": (torch.tensor(self.centre, dtype=torch.float64) + self.radius * directions).float()}

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        ball, count = patterns["ball"].to(x), x.shape[1]
        gone = draw(lambda g: torch.randperm(count, generator=g)[: len(ball)]).to(x.device)
        return x.scatter(1, gone[..., None].expand(-1, -1, x.shape[2]), ball.expand(len(x), -1, -1))
