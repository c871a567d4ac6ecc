"""SSD (Liu et al. 2016): one pass from an image to boxes, torchvision's own on a small backbone with BatchNorm."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import box_iou

from bdray.boxes import Objects, objects
from bdray.models import Model, Width
from bdray.samples import Outline, Rows
from bdray.spec import BadInput

SCALES = (0.1, 0.25, 0.45, 0.8)
"""Sides of the default boxes of the three feature maps and of what would follow, as shares of the image's."""


class Ssd(Model):
    """Three feature maps, of a quarter, an eighth and a sixteenth of the image's side, each with four default boxes a place.
    The backbone is not the paper's VGG-16, which has no BatchNorm and was trained on ImageNet."""

    modality: ClassVar[str] = "detection"
    stem: ClassVar[tuple[str, ...]] = ("ssd.backbone.stem",)

    width: Width = 16
    """Channels of the first layer; the last ones have four times as many."""
    least: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Boxes with a lower score are not told."""
    overlap: Annotated[float, Field(gt=0, le=1)] = 0.45
    """Of two boxes of one class with a higher IoU only the surer one is told."""

    def build(self, outline: Outline) -> nn.Module:
        channels, height, width = outline.shape
        if min(height, width) < 32:
            raise BadInput(f"the model 'ssd' got images of {width}x{height} pixels, expected at least 32; raise task.data.size")
        count = len(outline.classes) + 1  # 0 is the background
        backbone, anchors = Backbone(channels, self.width), DefaultBoxGenerator([[2]] * 3, scales=list(SCALES))
        ssd = SSD(
            backbone,
            anchors,
            (height, width),
            count,
            image_mean=[0.5] * channels,
            image_std=[0.25] * channels,
            head=SSDHead(backbone.out_channels, anchors.num_anchors_per_location(), count),
            score_thresh=self.least,
            nms_thresh=self.overlap,
            detections_per_img=100,  # of which COCO's mAP looks at the first hundred
        )
        return Detector(ssd)


class Backbone(nn.Module):
    """Three feature maps."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.stem = _layer(channels, width, 2)
        self.quarter = nn.Sequential(_layer(width, 2 * width, 2), _layer(2 * width, 2 * width))
        self.eighth = nn.Sequential(_layer(2 * width, 4 * width, 2), _layer(4 * width, 4 * width))
        self.sixteenth = nn.Sequential(_layer(4 * width, 4 * width, 2), _layer(4 * width, 4 * width))
        self.out_channels = [2 * width, 4 * width, 4 * width]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        quarter = self.quarter(self.stem(x))
        eighth = self.eighth(quarter)
        return OrderedDict(quarter=quarter, eighth=eighth, sixteenth=self.sixteenth(eighth))


def _layer(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class Detector(nn.Module):
    """Images, pixels in 0..1, float [N, C, H, W], and their boxes to losses; images to boxes by `detect`."""

    def __init__(self, ssd: SSD) -> None:
        super().__init__()
        self.ssd = ssd

    def forward(self, x: Tensor, targets: Sequence[Rows] = ()) -> Tensor:
        """The loss of each image [N] for each of some sets of boxes, [len(targets), N]: SSD's, which is that of the boxes and
        of the classes, for an image alone. An image without boxes has the loss 0, as in the paper: three negatives are taken
        for each box that was matched."""
        seen, anchors = self.look(x)
        losses = [self._losses(seen, anchors[0], objects(each, x.device)) for each in targets]
        return torch.stack(losses) if losses else x.new_empty(0, len(x))

    def look(self, x: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What the heads say, and each image's default boxes [A, 4], the same for all."""
        features = list(self.ssd.backbone(self.ssd.transform.normalize(x)).values())
        sizes = [(x.shape[-2], x.shape[-1])] * len(x)
        return self.ssd.head(features), self.ssd.anchor_generator(ImageList(x, sizes), features)

    def _losses(self, seen: dict[str, Tensor], anchors: Tensor, targets: list[Objects]) -> Tensor:
        """As `SSD.compute_loss` has it, of each image by itself."""
        said, moved = seen["cls_logits"].float(), seen["bbox_regression"].float()
        labels = torch.zeros(said.shape[:2], dtype=torch.int64, device=said.device)
        places = []
        for at, target in enumerate(targets):
            if not len(target.labels):
                places.append(moved[at].sum() * 0)
                continue
            matched = self.ssd.proposal_matcher(box_iou(target.boxes, anchors))
            mine = (matched >= 0).nonzero().flatten()
            labels[at, mine] = target.labels[matched[mine]] + 1
            goal = self.ssd.box_coder.encode_single(target.boxes[matched[mine]], anchors[mine])
            places.append(F.smooth_l1_loss(moved[at, mine], goal, reduction="sum"))
        each = F.cross_entropy(said.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        found = labels > 0
        rank = each.detach().masked_fill(found, -torch.inf).sort(1, descending=True).indices.sort(1).indices
        hardest = rank < self.ssd.neg_to_pos_ratio * found.sum(1, keepdim=True)
        total = torch.stack(places) + (each * (found | hardest)).sum(1)
        return total / found.sum(1).clamp(min=1)

    def detect(self, x: Tensor) -> tuple[list[Objects], Tensor]:
        """The boxes of each image with their scores, the surest first; and whether all that is said of an image is finite,
        bool [N]."""
        seen, anchors = self.look(x)
        finite = seen["cls_logits"].isfinite().flatten(1).all(1) & seen["bbox_regression"].isfinite().flatten(1).all(1)
        found = self.ssd.postprocess_detections(seen, anchors, [(x.shape[-2], x.shape[-1])] * len(x))
        return [Objects(each["boxes"], each["labels"] - 1, each["scores"]) for each in found], finite
