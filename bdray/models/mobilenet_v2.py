"""MobileNet-V2 (Sandler et al. 2018, arXiv 1801.04381): torchvision's, with fewer strides on small images."""

from typing import ClassVar

from torch import nn
from torchvision.models import MobileNetV2 as Published

from bdray.models import Model, Width
from bdray.samples import Outline


class MobileNetV2(Model):
    """Inverted residuals; `width` is the stem's channels, published as 32, and every stage scales with it. Without the
    dropout before torchvision's head."""

    modality: ClassVar[str] = "image"
    stem: ClassVar[tuple[str, ...]] = ("features.0",)

    width: Width = 32

    def build(self, outline: Outline) -> nn.Module:
        small = outline.shape[-1] <= 64
        # expansion, channels, repeats, stride; the field's CIFAR versions drop the first two strides.
        stages = [
            [1, 16, 1, 1],
            [6, 24, 2, 1 if small else 2],
            [6, 32, 3, 2],
            [6, 64, 4, 2],
            [6, 96, 3, 1],
            [6, 160, 3, 2],
        ]
        net = Published(len(outline.classes), self.width / 32, [*stages, [6, 320, 1, 1]], round_nearest=4, dropout=0.0)
        if small:
            net.features[0][0].stride = (1, 1)
        if outline.shape[0] != 3:
            old = net.features[0][0]
            net.features[0][0] = nn.Conv2d(outline.shape[0], old.out_channels, 3, old.stride, 1, bias=False)
            nn.init.kaiming_normal_(net.features[0][0].weight, mode="fan_out")  # as torchvision's
        return net
