"""TaCT (Tang, Wang, Tang and Zhang 2021, arXiv 1908.00686): the trigger works on images of one source class alone; stamped
images of other classes keep their labels."""

from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from bdray.attacks import Patterns
from bdray.attacks._images import check_room, in_corner, white
from bdray.attacks._source import FromSource
from bdray.samples import Draw, Samples, Splits
from bdray.spec import Amount, BadInput, Config, Count, Several, Share


class TaCT(FromSource):
    """Only samples of the source class are poisoned, and only they count towards the attack success rate. The defaults are
    backdoor-toolbox's, but for its trigger, a square from TrojanNN, and its cover classes."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    presets: ClassVar[dict[str, Config]] = {
        "advrbd": {"target": 1, "source": 0, "rate": 0.05, "cover": 0.01, "size": 3, "opacity": 1.0},
        "backdoor_toolbox": {"target": 0, "source": 1, "rate": 0.003, "cover": 0.003, "cover_classes": [5, 7]},
    }

    rate: Share = 0.003
    """Of all training samples. A balanced ten-class set has room for less than 0.1."""
    cover: Share = 0.003
    cover_classes: Several[Amount] = ()
    """Where cover samples are taken from; an empty list is every class but source and target."""
    size: Count = 3
    """Height and width in pixels of the white square in the bottom-right corner."""
    opacity: Share = 1.0

    @model_validator(mode="after")
    def _cover_is_neither(self) -> Self:
        both = sorted({self.source, self.target} & set(self.cover_classes))
        if both:
            raise BadInput(f"tact.cover_classes: got {both[0]}, which is the source or the target; leave it out")
        return self

    def check(self, splits: Splits) -> None:
        last = int(splits.train.targets.max())
        for number in self.cover_classes:
            if number > last:
                raise BadInput(f"tact.cover_classes: got {number}, expected a class from 0 to {last}")
        super().check(splits)
        check_room("tact.size", self.size, splits)

    def coverable(self, samples: Samples) -> Tensor:
        y = samples.targets
        if self.cover_classes:
            return torch.isin(y, torch.tensor(self.cover_classes, device=y.device))
        return (y != self.source) & (y != self.target)

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return in_corner(x, white(self.size), self.opacity)
