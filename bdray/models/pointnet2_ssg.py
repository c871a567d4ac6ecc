"""PointNet++ (Qi, Yi, Su and Guibas 2017, arXiv 1706.02413), single-scale grouping: small PointNets around sampled centres,
then around fewer, then over all."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.clouds import farthest, gathered
from bdray.models import Model
from bdray.samples import Outline

USUAL = 1024
"""Points of the clouds that the radii are made for."""
PART = 32
"""Clouds whose groups are looked at together where no gradients are kept."""


class Layers(nn.Module):
    """Layers that every point of every group passes by itself, BatchNorm and ReLU after each, then the maximum over a group;
    [N, C, groups, points] in, [N, C, groups] out."""

    def __init__(self, inside: int, *widths: int) -> None:
        super().__init__()
        self.count = len(widths)
        for number, out in enumerate(widths, start=1):
            self.add_module(f"conv{number}", nn.Conv2d(inside, out, 1, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm2d(out))
            inside = out

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.count + 1):
            x = F.relu(self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x)), inplace=True)
        return x.amax(3)


def within(x: Tensor, centres: Tensor, radius: float, most: int) -> Tensor:
    """Positions [N, centres, most] of the points nearest to each centre; where fewer are within the radius, the nearest of
    all, which is the centre itself, stands for the rest."""
    gaps = torch.cdist(centres, x, compute_mode="donot_use_mm_for_euclid_dist")
    found = gaps.topk(min(most, x.shape[1]), 2, largest=False, sorted=True)
    return torch.where(found.values <= radius, found.indices, found.indices[..., :1])


class Stage(nn.Module):
    """Sampled centres, the points around each, and a small PointNet for these."""

    def __init__(self, inside: int, widths: tuple[int, ...], most: int, share: int, radius: float, group: int) -> None:
        super().__init__()
        self.most, self.share, self.radius, self.group = most, share, radius, group
        self.layers = Layers(3 + inside, *widths)

    def forward(self, x: Tensor, values: Tensor | None, points: int) -> tuple[Tensor, Tensor]:
        """Points [N, P, 3] and their values [N, P, C] in, those of the centres out; `points` are those of the whole cloud."""
        if self.training or torch.is_grad_enabled():
            return self.grouped(x, values, points)
        parts = [None] * len(x) if values is None else values.split(PART)
        found = [self.grouped(part, value, points) for part, value in zip(x.split(PART), parts, strict=False)]
        return torch.cat([centres for centres, _ in found]), torch.cat([seen for _, seen in found])

    def grouped(self, x: Tensor, values: Tensor | None, points: int) -> tuple[Tensor, Tensor]:
        """The same of clouds that fit into memory."""
        with torch.no_grad():
            # The point farthest from the middle is the first whatever the order of the points.
            start = (x - x.mean(1, keepdim=True)).square().sum(2).argmax(1)
            chosen = farthest(x, max(1, min(self.most, points // self.share)), start)
            wider = max(1.0, math.sqrt(USUAL / points))
            near = within(x, gathered(x, chosen), wider * self.radius, self.group)
        centres = gathered(x, chosen)
        groups = gathered(x, near) - centres[:, :, None]
        if values is not None:
            groups = torch.cat([groups, gathered(values, near)], 3)
        return centres, self.layers(groups.permute(0, 3, 1, 2)).transpose(1, 2)


class PointNet2Net(nn.Module):
    """Clouds [N, P, 3] in, logits out."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        w = width
        self.stage1 = Stage(0, (w, w, 2 * w), most=512, share=2, radius=0.2, group=32)
        self.stage2 = Stage(2 * w, (2 * w, 2 * w, 4 * w), most=128, share=8, radius=0.4, group=64)
        self.stage3 = Layers(3 + 4 * w, 4 * w, 8 * w, 16 * w)
        self.fc1, self.bn1 = nn.Linear(16 * w, 8 * w, bias=False), nn.BatchNorm1d(8 * w)
        self.fc2, self.bn2 = nn.Linear(8 * w, 4 * w, bias=False), nn.BatchNorm1d(4 * w)
        self.fc3 = nn.Linear(4 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1]
        centres, values = self.stage1(x, None, count)
        centres, values = self.stage2(centres, values, count)
        whole = torch.cat([centres, values], 2).transpose(1, 2)
        found = self.stage3(whole[:, :, None]).flatten(1)
        found = F.relu(self.bn1(self.fc1(found)), inplace=True)
        logits: Tensor = self.fc3(F.relu(self.bn2(self.fc2(found)), inplace=True))
        return logits


class PointNet2Ssg(Model):
    """Width 64 as published: 512 and 128 centres with 32 and 64 points within 0.2 and 0.4, of 1,024 points. Of a cloud of
    fewer half and an eighth are centres, and the radii grow as its points lie apart, with the root of 1,024 / points: else
    most groups were a single point, of which nothing is seen. Without dropout, and without biases before BatchNorm. A group
    has the nearest points of a ball, not the first in the cloud's order, so that this order is not seen."""

    modality: ClassVar[str] = "points"
    stem: ClassVar[tuple[str, ...]] = ("stage1.layers.conv1", "stage1.layers.bn1")

    def build(self, outline: Outline) -> nn.Module:
        return PointNet2Net(self.width, len(outline.classes))
