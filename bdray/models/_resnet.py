"""Residual networks of basic blocks (He et al. 2016), at any width, with a stem that suits small images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def stem(channels: int, width: int, small: bool) -> nn.Conv2d:
    """3x3 stride 1 for images up to 64 pixels (the CIFAR stem), else ImageNet's 7x7 stride 2."""
    if small:
        return nn.Conv2d(channels, width, 3, padding=1, bias=False)
    return nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)


class Shortcut(nn.Conv2d):
    """A 1x1 convolution whose stride is taken first, which comes to the same. oneDNN's backward pass of a strided one writes
    past its workspace where a channels-last input has fewer than 16 channels (uxlfoundation/oneDNN issue 6035): on two threads
    a batch of an odd size crashes."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__(inside, out, 1, bias=False)
        self.steps = stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, :: self.steps, :: self.steps])


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus the shortcut, then ReLU. Names as in torchvision."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != out:
            self.downsample = nn.Sequential(Shortcut(inside, out, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus the shortcut, which starts after the first activation."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inside != out:
            self.shortcut = Shortcut(inside, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=self.shortcut is not None)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True)) + shortcut


class ResNet(nn.Module):
    """Four stages of width, 2 width, 4 width, 8 width. State-dict names as in torchvision's ResNet."""

    def __init__(self, block: type[nn.Module], depths: tuple[int, ...], width: int, classes: int, shape: tuple[int, ...]):
        super().__init__()
        small, preact = shape[-1] <= 64, block is PreActBlock
        self.conv1 = stem(shape[0], width, small)
        self.bn1: nn.Module = nn.Identity() if preact else nn.BatchNorm2d(width)
        self.relu: nn.Module = nn.Identity() if preact else nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        inside = width
        for stage, depth in enumerate(depths):
            blocks = []
            for place in range(depth):
                blocks.append(block(inside, width * 2**stage, 2 if stage and not place else 1))
                inside = width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.last = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(inplace=True)) if preact else nn.Identity()
        self.fc = nn.Linear(inside, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(self.last(x), 1), 1))
        return logits
