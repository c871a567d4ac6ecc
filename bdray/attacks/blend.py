"""Blend (Chen, Liu, Li, Lu and Song 2017, arXiv 1712.05526): a whole image faintly blended in, labels changed."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bdray.attacks import Attack, Patterns, Setting
from bdray.attacks._images import blended, rosette
from bdray.data import Splits
from bdray.spec import BadInput, Config, Share


class Blend(Attack):
    """The field blends in Hello Kitty; ours is a flower drawn here, and `image` takes any file."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    presets: ClassVar[dict[str, Config]] = {"advrbd": {"target": 1, "rate": 0.05, "opacity": 0.2}}

    image: str = ""
    """A picture file; it is resized to the data set's images and saved with the victim."""
    opacity: Share = 0.2

    def check(self, splits: Splits) -> None:
        super().check(splits)
        self._picture(splits)

    def patterns(self, setting: Setting) -> Patterns:
        return {"image": self._picture(setting.splits)}

    def _picture(self, splits: Splits) -> Tensor:
        channels, height, width = splits.train.inputs.shape[1:]
        if not self.image:
            return rosette(height, width)[:channels]
        try:
            with Image.open(Path(self.image).expanduser()) as picture:
                mode = "L" if channels == 1 else "RGB"
                fitted = picture.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
        except (OSError, Image.DecompressionBombError) as error:
            raise BadInput(f"blend.image: got {self.image!r}, expected a picture file that can be read ({error})") from None
        return torch.from_numpy(np.array(fitted)).view(height, width, channels).permute(2, 0, 1).contiguous()

    def stamp(self, x: Tensor, patterns: Patterns, rng: torch.Generator) -> Tensor:
        return blended(x, patterns["image"].to(x.device), self.opacity)
