"""Blend (Chen, Liu, Li, Lu and Song 2017, arXiv 1712.05526): a whole image faintly blended in, labels changed."""

from typing import ClassVar

from torch import Tensor

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._images import blended, picture
from bdray.samples import Draw, Splits
from bdray.spec import Config, FilePath, Share


class Blend(ToClass):
    """The field blends in Hello Kitty; ours is a flower drawn here, and `image` takes any file."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    presets: ClassVar[dict[str, Config]] = {"advrbd": {"target": 1, "rate": 0.05, "opacity": 0.2}}

    image: FilePath = ""
    """A picture file; it is resized to the data set's images and saved with the victim."""
    opacity: Share = 0.2

    def check(self, splits: Splits) -> None:
        super().check(splits)
        self._picture(splits)

    def patterns(self, setting: Setting) -> Patterns:
        return {"image": self._picture(setting.splits)}

    def _picture(self, splits: Splits) -> Tensor:
        return picture("blend.image", self.image, splits.train.inputs.shape[1:])

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return blended(x, patterns["image"], self.opacity)
