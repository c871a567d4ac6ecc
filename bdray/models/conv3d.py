"""A small 3D convolutional network, for clips that a CPU learns: four 3x3x3 convolutions that each halve the frame."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from bdray.models import Model, Width
from bdray.samples import Outline


class Conv3dNet(nn.Module):
    """conv-BN-ReLU four times, the mean over time and place, and one linear layer. The first convolution keeps every frame,
    each of the others halves the time, too."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        inside = channels
        for stage, factor in enumerate((1, 2, 4, 8)):
            stride = (2 if stage else 1, 2, 2)
            self.add_module(f"conv{stage + 1}", nn.Conv3d(inside, factor * width, 3, stride, padding=1, bias=False))
            self.add_module(f"bn{stage + 1}", nn.BatchNorm3d(factor * width))
            inside = factor * width
        self.fc = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage in range(1, 5):
            x = F.relu(self.get_submodule(f"bn{stage}")(self.get_submodule(f"conv{stage}")(x)), inplace=True)
        logits: Tensor = self.fc(x.mean((2, 3, 4)))
        return logits


class Conv3d(Model):
    """No published network, but the plainest that sees motion: of C3D (Tran et al. 2015) it has the 3x3x3 kernels."""

    modality: ClassVar[str] = "video"
    stem: ClassVar[tuple[str, ...]] = ("conv1", "bn1")

    width: Width = 16
    """Channels of the first stage; the last has eight times as many."""

    def build(self, outline: Outline) -> nn.Module:
        return Conv3dNet(outline.shape[0], self.width, len(outline.classes))
