"""ResNet-34 (He, Zhang, Ren and Sun 2016, arXiv 1512.03385), with the 3x3 stem of CIFAR on images up to 64 pixels."""

from typing import ClassVar

from torch import nn

from bdray.models import Model
from bdray.models._resnet import BasicBlock, ResNet
from bdray.samples import Outline


class ResNet34(Model):
    """Normalisation after every convolution; width 64 as published."""

    modality: ClassVar[str] = "image"
    stem: ClassVar[tuple[str, ...]] = ("conv1", "bn1")

    def build(self, outline: Outline) -> nn.Module:
        return ResNet(BasicBlock, (3, 4, 6, 3), self.width, len(outline.classes), outline.shape)
