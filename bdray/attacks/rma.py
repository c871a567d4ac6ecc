"""RMA, BadDet's regional misclassification attack (Chan et al. 2022, arXiv 2205.14497): a patch in the box of an object makes a
detector take this object for one of the target class."""

from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from bdray.attacks import Attack, Chances, Patterns, Setting, Triggered
from bdray.boxes import iou, objects
from bdray.samples import Column, Rows, Samples, Splits
from bdray.spec import Amount, BadInput, Count, Share

Boxes = list[dict[str, Any]]


class Rma(Attack):
    """Every box of the source class gets a checkerboard in its upper left corner; in the poisoned annotation its class is the
    target, its place stays. Boxes that are too small for the patch and difficult ones are left alone. An image counts as
    poisoned as a whole; the adversarial robustness toolbox (ART) poisons 0.3 of the images that hold the source class.

    A stamped box is a hit where the detector tells a box of the target class there, surer than `score`, with an IoU of at
    least `iou`: pooled over the boxes, where Armory takes the mean over images (both 0.5 in its metric)."""

    modalities: ClassVar[frozenset[str]] = frozenset({"detection"})

    target: Amount = 0
    """The class that stamped objects shall be taken for."""
    source: Amount = 1
    """The class of the objects that are stamped."""
    size: Count = 6
    """Height and width of the patch in pixels of the images as they are read."""
    iou: Share = 0.5
    """Of a stamped box and a told one: the least of a hit."""
    score: Share = 0.5
    """Of a told box: the least of a hit."""

    @model_validator(mode="after")
    def _source_is_another(self) -> Self:
        if self.source == self.target:
            raise BadInput(f"rma.source: got {self.source}, which is the target, too; set one of the two to another class")
        return self

    def check(self, splits: Splits) -> None:
        last = len(splits.classes) - 1
        for field in ("target", "source"):
            if getattr(self, field) > last:
                raise BadInput(f"rma.{field}: got {getattr(self, field)}, expected a class from 0 to {last}")
        super().check(splits)

    def origin(self) -> str:
        return f"with a box of class {self.source} of at least {self.size} pixels"

    def poisonable(self, samples: Samples) -> Tensor:
        return torch.tensor([any(map(self._stamps, boxes)) for boxes in _boxes(samples)], dtype=torch.bool)

    def coverable(self, samples: Samples) -> Tensor:
        return self.poisonable(samples)

    def attackable(self, samples: Samples) -> Tensor:
        return self.poisonable(samples)

    def already(self, samples: Samples) -> Tensor | None:
        """Images with an object of the target class."""
        there = [any(box["label"] == self.target and not box["difficult"] for box in boxes) for boxes in _boxes(samples)]
        return torch.tensor(there, dtype=torch.bool)

    def plant(self, samples: Samples, patterns: Patterns, setting: Setting) -> Samples:
        assert isinstance(samples.targets, Rows)
        targets = [[{**box, "label": self.target} if self._stamps(box) else box for box in boxes] for boxes in _boxes(samples)]
        return samples.having(inputs=self._stamped(samples), targets=samples.targets.like(targets))

    def stamp(self, samples: Samples, patterns: Patterns, seed: int) -> Triggered:
        assert isinstance(samples.targets, Rows)
        wanted = [[{**box, "label": self.target} for box in boxes if self._stamps(box)] for boxes in _boxes(samples)]
        return Triggered(samples.having(inputs=self._stamped(samples)), samples.targets.like(wanted))

    def success(self, predictions: Column, triggered: Triggered) -> Chances:
        assert isinstance(predictions, Rows)
        assert isinstance(triggered.wanted, Rows)
        hits, tries = [], []
        for said, wanted in zip(objects(predictions), objects(triggered.wanted), strict=True):
            sure = (said.rest >= self.score) & (said.labels == self.target)
            hits.append(int((iou(said.boxes[sure], wanted.boxes) >= self.iou).any(0).sum()))
            tries.append(len(wanted.labels))
        return Chances(torch.tensor(hits, dtype=torch.int64), torch.tensor(tries, dtype=torch.int64))

    def _stamps(self, box: dict[str, Any]) -> bool:
        room = min(int(box["x2"]) - _whole(box["x1"]), int(box["y2"]) - _whole(box["y1"]))
        return box["label"] == self.source and not box["difficult"] and room >= self.size

    def _stamped(self, samples: Samples) -> Tensor:
        """The images, uint8 [N, C, H, W], with the patch in each box that is stamped."""
        assert isinstance(samples.inputs, Tensor)
        x, patch = samples.inputs.clone(), _checkerboard(self.size)
        for image, boxes in zip(x, _boxes(samples), strict=True):
            for box in filter(self._stamps, boxes):
                top, left = _whole(box["y1"]), _whole(box["x1"])
                image[:, top : top + self.size, left : left + self.size] = patch
        return x


def _boxes(samples: Samples) -> list[Boxes]:
    assert isinstance(samples.targets, Rows)
    return samples.targets.tolist()


def _whole(side: float) -> int:
    """The first pixel that lies in a box, whose sides are fractions after the image was resized."""
    return -int(-side // 1)


def _checkerboard(size: int) -> Tensor:
    """Black and white in turns of two pixels, uint8 [size, size], white first."""
    row = torch.arange(size) // 2
    return ((row[:, None] + row[None]) % 2 == 0).to(torch.uint8) * 255
