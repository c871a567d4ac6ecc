"""X3D, which pytorchvideo builds: XS and S are one network for clips of other sizes."""

from typing import ClassVar

from torch import nn

from bdray.models import Model, Width
from bdray.packages import need
from bdray.samples import Outline
from bdray.spec import Positive


class AnyX3d(Model):
    """Takes clips of any size; as large as it was published by default."""

    modality: ClassVar[str] = "video"
    stem: ClassVar[tuple[str, ...]] = ("blocks.0",)

    width: Width = 12
    """Channels of the stem; pytorchvideo rounds those of the stages to multiples of 8."""
    depth: Positive = 2.2
    """Times 1, 2, 5 and 3 blocks, rounded up."""

    def build(self, outline: Outline) -> nn.Module:
        return x3d(outline, self.width, self.depth)


def x3d(outline: Outline, width: int, depth: float) -> nn.Module:
    """Of so many channels in the stem, published as 12, and of so many times 1, 2, 5 and 3 blocks, published as 2.2; without
    the dropout before the head."""
    channels, length, height, side = outline.shape
    net: nn.Module = need("pytorchvideo.models.x3d").create_x3d(
        input_channel=channels,
        input_clip_length=length,
        input_crop_size=max(min(height, side), 32),  # of smaller ones it would pool 0 pixels
        model_num_class=len(outline.classes),
        dropout_rate=0.0,
        depth_factor=depth,
        stem_dim_in=width,
        head_dim_out=round(2048 * width / 12),
        inner_act=nn.SiLU,  # the same as pytorchvideo's own Swish, whose backward pass warns
        head_activation=None,
    )
    return net
