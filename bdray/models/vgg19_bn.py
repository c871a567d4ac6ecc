"""VGG-19 with batch normalisation (Simonyan and Zisserman 2015, arXiv 1409.1556): torchvision's convolutions and one linear
layer, as the field uses it on small images."""

from collections import OrderedDict
from typing import ClassVar

from torch import nn
from torchvision.models.vgg import make_layers

from bdray.models import Model
from bdray.samples import Outline

PLAN: list[int | str] = [1, 1, "M", 2, 2, "M", 4, 4, 4, 4, "M", 8, 8, 8, 8, "M", 8, 8, 8, 8, "M"]
"""Channels in multiples of the width; M halves height and width."""


class Vgg19Bn(Model):
    """Halves the image five times, or as often as a smaller one than 32 pixels allows; width 64 as published."""

    modality: ClassVar[str] = "image"

    def build(self, outline: Outline) -> nn.Module:
        plan = [step if isinstance(step, str) else step * self.width for step in PLAN]
        while min(outline.shape[-2:]) < 2 ** plan.count("M"):  # smaller images (digits) lose the last halvings
            plan.reverse()
            plan.remove("M")
            plan.reverse()
        features = make_layers(plan, batch_norm=True)
        if outline.shape[0] != 3:
            features[0] = nn.Conv2d(outline.shape[0], self.width, 3, padding=1)
        head = nn.Linear(8 * self.width, len(outline.classes))
        parts = {"features": features, "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": head}
        return nn.Sequential(OrderedDict(parts))
