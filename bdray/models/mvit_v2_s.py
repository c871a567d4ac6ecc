"""MViTv2-S (Li et al. 2022, CVPR, arXiv 2112.01526): torchvision's multiscale vision transformer of clips."""

from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video.mvit import MSBlockConfig, MViT

from bdray.models import Model, Width
from bdray.samples import Outline

STAGES = (1, 2, 11, 2)
"""Blocks of each; every stage but the first has half the height and width, twice the channels and twice the heads."""
EVEN = (2, 32, 32)
"""What frames, height and width must be multiples of, or its parts do not fit each other."""


class Evened(nn.Module):
    """Clips [N, C, T, H, W] with as many zeros after them as make their sides multiples of EVEN."""

    def forward(self, x: Tensor) -> Tensor:
        more = [(0, -side % least) for side, least in zip(x.shape[2:], EVEN, strict=True)]
        return F.pad(x, [amount for pair in reversed(more) for amount in pair])


class MVitV2S(Model):
    """Published for 16 frames of 224x224 pixels. Clips whose sides are no multiples of 2 frames and 32 pixels are padded.
    Without dropout and without the dropping of whole blocks (stochastic depth, published as 0.2). Its norms are LayerNorms: NFT
    needs defense.site=layernorm, and CLP finds nothing to prune. Transformers are trained by training.optimizer=adamw."""

    modality: ClassVar[str] = "video"

    width: Width = 96
    """Channels of the first stage; the last has eight times as many."""

    def build(self, outline: Outline) -> nn.Module:
        channels, *clip = outline.shape
        frames, height, width = (-(-side // least) * least for side, least in zip(clip, EVEN, strict=True))
        stages = [stage for stage, blocks in enumerate(STAGES) for _ in range(blocks)]
        blocks = [
            MSBlockConfig(
                num_heads=2**stage,
                input_channels=self.width * 2**before,
                output_channels=self.width * 2**stage,
                kernel_q=[3, 3, 3],
                kernel_kv=[3, 3, 3],
                stride_q=[1, 2, 2] if stage > before else [1, 1, 1],
                stride_kv=[1, 8 // 2**stage, 8 // 2**stage],
            )
            for before, stage in pairwise([0, *stages])
        ]
        net = MViT(
            (height, width),
            frames,
            blocks,
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=True,
            dropout=0.0,
            num_classes=len(outline.classes),
        )
        if channels != 3:
            old = net.conv_proj
            net.conv_proj = nn.Conv3d(channels, self.width, old.kernel_size, old.stride, old.padding)
        return nn.Sequential(Evened(), net)
