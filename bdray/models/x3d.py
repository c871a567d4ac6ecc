"""X3D (Feichtenhofer 2020, arXiv 2004.04730): pytorchvideo's, an image network expanded in time, width and depth."""

from typing import ClassVar

from torch import nn

from bdray.models import Model, Width
from bdray.packages import need
from bdray.samples import Outline
from bdray.spec import Positive


class X3d(Model):
    """The published XS, S and M have width 12 and depth 2.2, the defaults here are narrower and shallower, for a CPU.
    Without the dropout before the head."""

    modality: ClassVar[str] = "video"
    stem: ClassVar[tuple[str, ...]] = ("blocks.0",)

    width: Width = 4
    """Channels of the stem; pytorchvideo rounds those of the stages to multiples of 8."""
    depth: Positive = 1.0
    """Times 1, 2, 5 and 3 blocks, rounded up."""

    def build(self, outline: Outline) -> nn.Module:
        channels, length, height, width = outline.shape
        net: nn.Module = need("pytorchvideo.models.x3d").create_x3d(
            input_channel=channels,
            input_clip_length=length,
            input_crop_size=max(min(height, width), 32),  # of smaller ones it would pool 0 pixels
            model_num_class=len(outline.classes),
            dropout_rate=0.0,
            depth_factor=self.depth,
            stem_dim_in=self.width,
            head_dim_out=round(2048 * self.width / 12),
            inner_act=nn.SiLU,  # the same as pytorchvideo's own Swish, whose backward pass warns
            head_activation=None,
        )
        return net
