"""PointNet (Qi, Su, Mo and Guibas 2017, arXiv 1612.00593): one small network for every point, then the maximum over points."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.models import Model, Width
from bdray.samples import Outline


class Shared(nn.Module):
    """Layers that every point passes by itself, BatchNorm and ReLU after each; [N, C, P] in and out."""

    def __init__(self, inside: int, *widths: int, last: bool = True) -> None:
        super().__init__()
        self.last = last
        """Whether a ReLU follows the last one."""
        for number, out in enumerate(widths, start=1):
            self.add_module(f"conv{number}", nn.Conv1d(inside, out, 1, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm1d(out))
            inside = out
        self.count = len(widths)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.count + 1):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))
            if number < self.count or self.last:
                x = F.relu(x, inplace=True)
        return x


class Head(nn.Module):
    """Three linear layers, BatchNorm and ReLU after the first two."""

    def __init__(self, inside: int, width: int, out: int) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(inside, 8 * width, bias=False), nn.BatchNorm1d(8 * width)
        self.fc2, self.bn2 = nn.Linear(8 * width, 4 * width, bias=False), nn.BatchNorm1d(4 * width)
        self.fc3 = nn.Linear(4 * width, out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.fc1(x)), inplace=True)
        found: Tensor = self.fc3(F.relu(self.bn2(self.fc2(x)), inplace=True))
        return found


class Alignment(nn.Module):
    """The small PointNet that predicts a matrix to turn a cloud by, at first none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.points, self.head = Shared(3, width, 2 * width, 16 * width), Head(16 * width, width, 9)
        nn.init.zeros_(self.head.fc3.weight)
        nn.init.zeros_(self.head.fc3.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, P] in, matrices [N, 3, 3] out."""
        turns = self.head(self.points(x).amax(2)).view(-1, 3, 3)
        return turns + torch.eye(3, device=x.device, dtype=turns.dtype)


class PointNetNet(nn.Module):
    """Clouds [N, P, 3] in, logits out."""

    def __init__(self, width: int, classes: int, align: bool) -> None:
        super().__init__()
        self.align = Alignment(width) if align else None
        self.points = Shared(3, width, width, width, 2 * width, 16 * width, last=False)
        self.head = Head(16 * width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.align is not None:
            x = x @ self.align(x.transpose(1, 2))
        logits: Tensor = self.head(self.points(x.transpose(1, 2)).amax(2))
        return logits


class PointNet(Model):
    """Width 64 as published; the default is narrow, for a CPU. Without the second alignment, of the features, which needs a
    regularizer in the loss, and without dropout."""

    modality: ClassVar[str] = "points"
    stem: ClassVar[tuple[str, ...]] = ("points.conv1", "points.bn1")

    width: Width = 16
    align: bool = False
    """Whether a small network of its own turns each cloud first, as published."""

    def build(self, outline: Outline) -> nn.Module:
        return PointNetNet(self.width, len(outline.classes), self.align)
