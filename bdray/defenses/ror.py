"""ROR, radius outlier removal, as input purification: points with few others around them are taken away before the model sees
a cloud."""

import math

from torch import Tensor

from bdray.defenses._purify import Purifier
from bdray.spec import Count, Positive

USUAL = 1024
"""Points of a cloud, in the field."""


class Ror(Purifier):
    """The same points go as in open3d's remove_radius_outlier. No paper of backdoors sets the two fields: the defaults take
    2.4 % of the points of clean solids, of 256 and of 1,024 points. It takes points that are alone, and no dense ball of a
    trigger."""

    neighbours: Count = 2
    """Other points that a point needs within the radius."""
    radius: Positive = 0.1
    """In a cloud of 1,024 points in the unit sphere; of other numbers it grows as points on a surface lie apart, with the root
    of 1,024 / points."""

    def keeps(self, gaps: Tensor) -> Tensor:
        radius = self.radius * math.sqrt(USUAL / gaps.shape[2])
        return (gaps < radius).sum(2) > self.neighbours  # itself is one more
