"""PreAct-ResNet-18 (He, Zhang, Ren and Sun 2016, arXiv 1603.05027), the architecture of the field's leaderboards."""

from typing import ClassVar

from torch import nn

from bdray.models import Model
from bdray.models._resnet import PreActBlock, ResNet
from bdray.samples import Outline


class PreActResNet18(Model):
    """Normalisation before every convolution; width 64 as published. As in the originals of 2016 a BatchNorm follows the
    last block, which the code bases of backdoor papers leave out."""

    modality: ClassVar[str] = "image"
    stem: ClassVar[tuple[str, ...]] = ("conv1",)

    def build(self, outline: Outline) -> nn.Module:
        return ResNet(PreActBlock, (2, 2, 2, 2), self.width, len(outline.classes), outline.shape)
