"""Blend (Chen, Liu, Li, Lu and Song 2017, arXiv 1712.05526): a whole image faintly blended in, labels changed."""

from typing import ClassVar

import torch
from torch import Tensor

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._frames import OverTime, check_over_time, frame_count, frame_shape, in_all_frames
from bdray.attacks._images import blended, picture
from bdray.samples import Draw, Splits
from bdray.spec import Config, FilePath, Share


class Blend(ToClass):
    """The field blends in Hello Kitty; ours is a flower drawn here, and `image` takes any file."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    presets: ClassVar[dict[str, Config]] = {"advrbd": {"target": 1, "rate": 0.05, "opacity": 0.2}}

    image: FilePath = ""
    """A picture file; it is resized to the data set's images and saved with the victim."""
    opacity: Share = 0.2
    over_time: OverTime = "static"
    """On clips. dynamic: in each frame the picture is shifted around (what leaves on one side comes in on the other), by steps
    drawn once a victim."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        check_over_time("blend", self.over_time, splits)
        self._picture(splits)

    def patterns(self, setting: Setting) -> Patterns:
        image = self._picture(setting.splits)
        if self.over_time == "static":
            return {"image": image}
        _, height, width = image.shape
        steps = zip(
            *(torch.randint(side, (frame_count(setting.splits),), generator=setting.rng) for side in (height, width)),
            strict=True,
        )
        return {"image": torch.stack([image.roll((int(down), int(right)), (1, 2)) for down, right in steps], dim=1)}

    def _picture(self, splits: Splits) -> Tensor:
        return picture("blend.image", self.image, frame_shape(splits))

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return blended(x, in_all_frames(patterns["image"], x), self.opacity)
