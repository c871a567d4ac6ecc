"""X3D (Feichtenhofer 2020, arXiv 2004.04730): pytorchvideo's, an image network expanded in time, width and depth."""

from typing import ClassVar

from torch import nn

from bdray.models import Model, Width
from bdray.models._x3d import x3d
from bdray.samples import Outline
from bdray.spec import Positive


class X3d(Model):
    """The published XS, S and M have width 12 and depth 2.2, the defaults here are narrower and shallower, for a CPU;
    x3d_xs and x3d_s have theirs. Without the dropout before the head."""

    modality: ClassVar[str] = "video"
    stem: ClassVar[tuple[str, ...]] = ("blocks.0",)

    width: Width = 4
    """Channels of the stem; pytorchvideo rounds those of the stages to multiples of 8."""
    depth: Positive = 1.0
    """Times 1, 2, 5 and 3 blocks, rounded up."""

    def build(self, outline: Outline) -> nn.Module:
        return x3d(outline, self.width, self.depth)
