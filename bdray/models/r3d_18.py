"""R3D-18 (Tran et al. 2018, CVPR, arXiv 1711.11248): torchvision's ResNet-18 of 3x3x3 convolutions."""

from typing import ClassVar

from torch import nn
from torchvision.models.video.resnet import Conv3DSimple

from bdray.models import Model, Width
from bdray.models._video_resnet import Narrow
from bdray.samples import Outline


class R3d18(Model):
    """Published for 16 frames of 112x112 pixels; takes clips of any size, without other strides for small ones."""

    modality: ClassVar[str] = "video"
    stem: ClassVar[tuple[str, ...]] = ("stem",)

    width: Width = 64

    def build(self, outline: Outline) -> nn.Module:
        def first() -> nn.Module:
            convolution = nn.Conv3d(outline.shape[0], self.width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
            return nn.Sequential(convolution, nn.BatchNorm3d(self.width), nn.ReLU(inplace=True))

        return Narrow(self.width, Conv3DSimple, first, len(outline.classes))
