"""SOR, statistical outlier removal, as input purification (Zhou et al. 2019, DUP-Net, ICCV, arXiv 1812.11017): points that lie
farther from their neighbours than most of their cloud do are taken away before the model sees it."""

import torch
from torch import Tensor

from bdray.defenses._purify import Purifier
from bdray.spec import Count, NonNegative


class Sor(Purifier):
    """The defaults are DUP-Net's, without its upsampling. The same points go as in open3d's remove_statistical_outlier, which
    counts a point among its neighbours: `neighbours` + 1 there. A cluster of as many points as there are neighbours is no
    outlier for it, however far away: it takes single points."""

    neighbours: Count = 2
    """Of a point, the nearest; their mean distance to it is what is looked at."""
    ratio: NonNegative = 1.1
    """Standard deviations above the cloud's mean from which a point goes."""

    def keeps(self, gaps: Tensor) -> Tensor:
        count = min(self.neighbours + 1, gaps.shape[2])  # the point itself, at 0, is the first
        apart = gaps.double().topk(count, 2, largest=False).values.sum(2) / max(1, count - 1)
        mean = apart.mean(1, keepdim=True)
        spread = apart.std(1, keepdim=True) if gaps.shape[1] > 1 else torch.zeros_like(mean)
        return apart <= mean + self.ratio * spread
