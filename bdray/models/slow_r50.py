"""Slow R50 (Feichtenhofer, Fan, Malik and He 2019, ICCV, arXiv 1812.03982): pytorchvideo's, the slow path of SlowFast."""

from typing import ClassVar

from torch import nn

from bdray.models import Model, Width
from bdray.packages import need
from bdray.samples import Outline


class SlowR50(Model):
    """Published for 8 frames, 8 apart, of 224x224 pixels; takes clips of any size, whose mean it takes at the end. Without the
    dropout before the head."""

    modality: ClassVar[str] = "video"
    stem: ClassVar[tuple[str, ...]] = ("blocks.0",)

    width: Width = 64
    """Channels of the stem; the last stage has 32 times as many."""

    def build(self, outline: Outline) -> nn.Module:
        net: nn.Module = need("pytorchvideo.models.resnet").create_resnet(
            input_channel=outline.shape[0],
            model_depth=50,
            model_num_class=len(outline.classes),
            dropout_rate=0.0,
            stem_dim_out=self.width,
            stem_conv_kernel_size=(1, 7, 7),
            head_pool=nn.AdaptiveAvgPool3d,
        )
        return net
