"""Adaptive-Blend (Qi, Xie, Li, Mahloujifar and Mittal 2023, arXiv 2205.13613): an image blended in piece by piece, half of the
pieces left out of each training sample and none at test time; some of the stamped samples keep their labels."""

import math
from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._images import blended, by_parts, mixed, picture
from bdray.samples import Draw, Samples, Splits
from bdray.spec import BadInput, Config, Count, FilePath, Share


class AdaptiveBlend(ToClass):
    """The authors blend in Hello Kitty; ours is a flower drawn here, and `image` takes any file."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    presets: ClassVar[dict[str, Config]] = {
        "advrbd": {"target": 1, "rate": 0.05, "cover": 0.01, "opacity": 0.2, "test_opacity": 0.2},
    }

    rate: Share = 0.003
    cover: Share = 0.003
    image: FilePath = ""
    """A picture file; it is resized to the data set's images and saved with the victim."""
    opacity: Share = 0.15
    """In training samples."""
    test_opacity: Share = 0.2
    pieces: Count = 16
    """A square number."""
    masked: Share = 0.5
    """Of the pieces, drawn anew for each training sample."""

    @model_validator(mode="after")
    def _pieces_are_a_square(self) -> Self:
        if math.isqrt(self.pieces) ** 2 != self.pieces:
            raise BadInput(f"adaptive_blend.pieces: got {self.pieces}, expected a square number, such as 4, 9 or 16")
        return self

    def check(self, splits: Splits) -> None:
        super().check(splits)
        most = min(splits.train.inputs.shape[-2:]) ** 2
        if self.pieces > most:
            raise BadInput(f"adaptive_blend.pieces: got {self.pieces}, expected at most {most}, one a pixel")
        self._picture(splits)

    def patterns(self, setting: Setting) -> Patterns:
        return {"image": self._picture(setting.splits)}

    def _picture(self, splits: Splits) -> Tensor:
        return picture("adaptive_blend.image", self.image, splits.train.inputs.shape[1:])

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return blended(x, patterns["image"], self.test_opacity)

    def planted(self, x: Tensor, patterns: Patterns, samples: Samples, setting: Setting) -> Tensor:
        masked = round(self.masked * self.pieces)
        order = torch.rand(len(x), self.pieces, generator=setting.rng).argsort(dim=1)
        side, (height, width) = math.isqrt(self.pieces), x.shape[-2:]
        rows, columns = torch.arange(height) * side // height, torch.arange(width) * side // width
        piece = (rows[:, None] * side + columns).to(x.device)
        image = patterns["image"].to(x.device)

        def blend(part: Tensor, kept: Tensor) -> Tensor:
            return mixed(part, image, self.opacity * kept[:, piece][:, None].double())

        return by_parts(blend, x, (order >= masked).to(x.device))
