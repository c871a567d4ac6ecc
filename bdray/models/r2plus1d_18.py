"""R(2+1)D-18 (Tran et al. 2018, CVPR, arXiv 1711.11248): torchvision's ResNet-18 of convolutions over place, then time."""

from typing import ClassVar

from torch import nn
from torchvision.models.video.resnet import Conv2Plus1D

from bdray.models import Model, Width
from bdray.models._video_resnet import Narrow
from bdray.samples import Outline


class R2Plus1d18(Model):
    """Published for 16 frames of 112x112 pixels; takes clips of any size, without other strides for small ones. Between the two
    parts of a convolution there are so many channels that it has as many weights as a 3x3x3 one."""

    modality: ClassVar[str] = "video"
    stem: ClassVar[tuple[str, ...]] = ("stem",)

    width: Width = 64

    def build(self, outline: Outline) -> nn.Module:
        def first() -> nn.Module:
            between = max(1, round(45 / 64 * self.width))
            place = nn.Conv3d(outline.shape[0], between, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
            time = nn.Conv3d(between, self.width, (3, 1, 1), padding=(1, 0, 0), bias=False)
            norms = [nn.Sequential(nn.BatchNorm3d(count), nn.ReLU(inplace=True)) for count in (between, self.width)]
            return nn.Sequential(place, *norms[0], time, *norms[1])

        return Narrow(self.width, Conv2Plus1D, first, len(outline.classes))
