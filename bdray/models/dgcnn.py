"""DGCNN (Wang, Sun, Liu, Sarma, Bronstein and Solomon 2019, arXiv 1801.07829): convolutions over the edges to each point's
neighbours, which are found anew among the features of every layer."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.clouds import gathered
from bdray.models import Model
from bdray.samples import Outline
from bdray.spec import Count

SLOPE = 0.2
PART = 16
"""Clouds whose edges are looked at together where no gradients are kept."""


def neighbours(x: Tensor, count: int) -> Tensor:
    """Positions [N, P, count] of the points nearest to each point among values [N, P, C]; it is itself one of them."""
    with torch.no_grad():
        square = x.square().sum(2)
        gaps = square[:, None] - 2 * x @ x.transpose(1, 2)  # but for the point's own square, which orders nothing
        return gaps.topk(min(count, x.shape[1]), 2, largest=False).indices


class Edges(nn.Module):
    """One convolution of the edges, [N, P, C] in and out, the maximum over the neighbours."""

    def __init__(self, inside: int, out: int, near: int) -> None:
        super().__init__()
        self.near = near
        self.conv, self.bn = nn.Conv2d(2 * inside, out, 1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self.seen(x)
        return torch.cat([self.seen(part) for part in x.split(PART)])  # so that 500 clouds take no 20 GB

    def seen(self, x: Tensor) -> Tensor:
        """The same of clouds that fit into memory."""
        others = gathered(x, neighbours(x, self.near))
        own = x[:, :, None].expand_as(others)
        edges = torch.cat([others - own, own], 3).permute(0, 3, 1, 2)
        return F.leaky_relu(self.bn(self.conv(edges)), SLOPE, inplace=True).amax(3).transpose(1, 2)


class DgcnnNet(nn.Module):
    """Clouds [N, P, 3] in, logits out."""

    def __init__(self, width: int, classes: int, near: int) -> None:
        super().__init__()
        w = width
        self.edge1, self.edge2 = Edges(3, w, near), Edges(w, w, near)
        self.edge3, self.edge4 = Edges(w, 2 * w, near), Edges(2 * w, 4 * w, near)
        self.conv, self.bn = nn.Conv1d(8 * w, 16 * w, 1, bias=False), nn.BatchNorm1d(16 * w)
        self.fc1, self.bn1 = nn.Linear(32 * w, 8 * w, bias=False), nn.BatchNorm1d(8 * w)
        self.fc2, self.bn2 = nn.Linear(8 * w, 4 * w), nn.BatchNorm1d(4 * w)
        self.fc3 = nn.Linear(4 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        every = []
        for edge in (self.edge1, self.edge2, self.edge3, self.edge4):
            x = edge(x)
            every.append(x)
        x = F.leaky_relu(self.bn(self.conv(torch.cat(every, 2).transpose(1, 2))), SLOPE, inplace=True)
        x = torch.cat([x.amax(2), x.mean(2)], 1)
        x = F.leaky_relu(self.bn1(self.fc1(x)), SLOPE, inplace=True)
        logits: Tensor = self.fc3(F.leaky_relu(self.bn2(self.fc2(x)), SLOPE, inplace=True))
        return logits


class Dgcnn(Model):
    """Width 64 as published, without dropout. Its memory grows with the points times the neighbours."""

    modality: ClassVar[str] = "points"
    stem: ClassVar[tuple[str, ...]] = ("edge1.conv", "edge1.bn")

    near: Count = 20
    """Neighbours of a point, itself one of them; in a smaller cloud all points."""

    def build(self, outline: Outline) -> nn.Module:
        return DgcnnNet(self.width, len(outline.classes), self.near)
