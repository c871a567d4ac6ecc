"""Object detection. Try: bdray run task=detection attack=rma defense=nft"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bdray.boxes import FOUND, TARGETS, iou, objects, rows_of
from bdray.data import Data
from bdray.layers.finite import check_answers
from bdray.models import Model
from bdray.packages import need
from bdray.samples import Column, Outline, Rows, Samples, joined
from bdray.spec import Config, member
from bdray.task import Batch
from bdray.tasks._losses import OwnLosses
from bdray.training import batches, device


class Detection(OwnLosses):
    """mAP at an IoU of 0.5 by torchmetrics, which is COCO's: 101 points, all classes that are there, `difficult` objects
    neither hit nor missed. VOC2007's own had 11 points. MixUp is LossMix (Vu et al. 2024): the mixed image is to
    show the boxes of both, and the losses are mixed, not the boxes."""

    modality: ClassVar[str] = "detection"
    utility: ClassVar[str] = "map50"
    suited: ClassVar[dict[str, Config]] = {
        "attack": {"name": "rma"},
        "training": {"epochs": 24, "batch": 32, "lr": 5e-3, "optimizer": "adamw", "weight_decay": 0.01, "schedule": "onecycle"},
        "defense": {"name": "nft", "clean": 0.1, "steps": 100, "batch": 32},
    }

    data: Data = member("drawn_shapes")
    model: Model = member("ssd")

    def example(self, outline: Outline) -> Samples:
        return Samples(torch.zeros(1, *outline.shape, dtype=torch.uint8), Rows.of([[]], TARGETS))

    def collate(self, samples: Samples) -> Batch:
        """Pixels as float32 in 0..1, channels last."""
        pixels = samples.inputs.contiguous(memory_format=torch.channels_last).float().div_(255)
        return Batch(pixels, samples.targets)

    def teaches(self, samples: Samples) -> Tensor:
        """Images with an object: SSD's loss of an image without one is 0, whatever the model."""
        targets = samples.targets
        assert isinstance(targets, Rows)
        return torch.tensor([bool(size) for size in targets.values.value_lengths().to_pylist()], dtype=torch.bool)

    def mix_inputs(self, inputs: Any, other: Any, weight: float) -> Any:
        return torch.lerp(other, inputs, weight)

    def harden(self, model: nn.Module, soft: Tensor, batch: Batch) -> Any:
        """The losses [N] of the batch's boxes."""
        return model(soft, [batch.targets])[0]

    def predict(self, model: Any, samples: Samples) -> Rows:
        """Boxes with classes and scores (bdray/boxes.py). Raises FloatingPointError where one is not finite."""
        if not len(samples):
            return Rows.of([], FOUND)
        model.eval()
        found: list[Rows] = []
        finite = []
        with torch.inference_mode():
            for part in batches(samples, 100):
                boxes, sound = model.detect(self.collate(part.to(device())).inputs)
                found.append(rows_of(boxes))
                finite.append(sound)
        check_answers(torch.cat(finite), "answers of the model")
        return Rows(joined(found).values)

    def score(self, predictions: Any, targets: Any) -> float:
        return map50(predictions, targets)

    def correct(self, predictions: Column, targets: Column) -> Tensor:
        """Images of which every object that is not difficult is found (IoU 0.5, score 0.5), and nothing else."""
        assert isinstance(predictions, Rows)
        assert isinstance(targets, Rows)
        right = []
        for said, true in zip(objects(predictions), objects(targets), strict=True):
            sure = said.rest >= 0.5
            meet = iou(said.boxes[sure], true.boxes) >= 0.5
            meet &= said.labels[sure][:, None] == true.labels[None]
            right.append(bool(meet.any(1).all()) and bool((meet.any(0) | true.rest).all()))
        return torch.tensor(right, dtype=torch.bool)


def map50(predictions: Rows, targets: Rows) -> float:
    """The mean over all classes with objects of the average precision at an IoU of 0.5; NaN of none."""
    detection = need("torchmetrics.detection")
    # Not gathered from the other workers of a group, each of which scores a victim of its own: they would wait for each other.
    metric = detection.MeanAveragePrecision(iou_thresholds=[0.5], backend="faster_coco_eval", sync_on_compute=False)
    metric.warn_on_many_detections = False
    need("faster_coco_eval")
    said = [{"boxes": o.boxes, "labels": o.labels, "scores": o.rest} for o in objects(predictions)]
    true = [{"boxes": o.boxes, "labels": o.labels, "iscrowd": o.rest.long()} for o in objects(targets)]
    if not any(bool((~o.rest).any()) for o in objects(targets)):
        return float("nan")
    metric.update(said, true)
    return float(metric.compute()["map"])
