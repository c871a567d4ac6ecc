"""X3D-XS (Feichtenhofer 2020, CVPR, arXiv 2004.04730): pytorchvideo's, for clips of 4 frames, 12 apart, of 160x160 pixels."""

from typing import ClassVar

from torch import nn

from bdray.models import Model, Width
from bdray.models._x3d import x3d
from bdray.samples import Outline
from bdray.spec import Positive


class X3dXs(Model):
    """Takes clips of any size. XS and S are one network, told apart by the clips that they were published for:
    task.data.frames=4 task.data.stride=12 task.data.size=160. Without the dropout before the head."""

    modality: ClassVar[str] = "video"
    stem: ClassVar[tuple[str, ...]] = ("blocks.0",)

    width: Width = 12
    """Channels of the stem; pytorchvideo rounds those of the stages to multiples of 8."""
    depth: Positive = 2.2
    """Times 1, 2, 5 and 3 blocks, rounded up."""

    def build(self, outline: Outline) -> nn.Module:
        return x3d(outline, self.width, self.depth)
