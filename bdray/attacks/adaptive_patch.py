"""Adaptive-Patch (Qi, Xie, Li, Mahloujifar and Mittal 2023, arXiv 2205.13613): several faint patches, one in each training
sample and more than one at test time; some of the stamped samples keep their labels."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._images import by_parts, mixed
from bdray.attacks._marks import Mark, check_flower, checker, cutout, flower, mosaic, placed, quarter, rings
from bdray.samples import Draw, Samples, Splits
from bdray.spec import Amount, BadInput, Config, Several, Share


class AdaptivePatch(ToClass):
    """Opacities and their order are the authors'. Their patches are a phoenix, the Firefox logo, a BadNets checkerboard and a
    square from TrojanNN; ours, of sizes and in corners of our own, are a flower, rings, the checkerboard and a mosaic. `images`
    takes files. At test time they stamp a second phoenix where we stamp the first patch."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    presets: ClassVar[dict[str, Config]] = {
        "advrbd": {
            "target": 1,
            "rate": 0.05,
            "cover": 0.01,
            "pattern": "quarters",
            "opacities": [1.0, 1.0, 1.0, 1.0],
            "test_patches": [0, 1, 2, 3],
            "test_opacity": 1.0,
        },
    }

    rate: Share = 0.003
    cover: Share = 0.006
    pattern: Literal["corners", "quarters"] = "corners"
    """corners: four patches, each in a corner of its own; quarters: the flower in the bottom-right corner, cut in four, as the
    authors cut the Firefox logo."""
    size: Amount = 0
    """Height and width in pixels of a patch, or of the flower that is cut; the checkerboard is 3. 0: a quarter of the image."""
    images: Several[str] = ()
    """Picture files instead, one a patch, each as large as a whole image and transparent or black where it leaves it alone."""
    opacities: Several[Share] = (0.5, 0.2, 0.5, 0.3)
    """In training samples, one a patch."""
    test_patches: Several[Amount] = (0, 2)
    """Those that are stamped at test time, counted from 0."""
    test_opacity: Share = 1.0

    @model_validator(mode="after")
    def _patches_are_as_many_as_opacities(self) -> Self:
        count = len(self.images) or 4
        if len(self.opacities) != count:
            raise BadInput(f"adaptive_patch.opacities: got {len(self.opacities)}, expected {count}, one a patch")
        if not self.test_patches or max(self.test_patches) >= count:
            got = list(self.test_patches)
            raise BadInput(f"adaptive_patch.test_patches: got {got}, expected numbers of patches, from 0 to {count - 1}")
        return self

    def check(self, splits: Splits) -> None:
        super().check(splits)
        if not self.images:
            patches = 2 if self.pattern == "corners" else 1  # beside each other
            check_flower("adaptive_patch.size", self.size or quarter(splits), splits, patches)
        self._marks(splits)

    def patterns(self, setting: Setting) -> Patterns:
        marks = self._marks(setting.splits)
        return {"images": torch.stack([m.image for m in marks]), "masks": torch.stack([m.mask for m in marks])}

    def _marks(self, splits: Splits) -> list[Mark]:
        shape, size = splits.train.inputs.shape[1:], self.size or quarter(splits)
        if self.images:
            return [cutout("adaptive_patch.images", file, shape) for file in self.images]
        if self.pattern == "corners":
            patches = flower(size), rings(size), checker(), mosaic(size)
            places = (False, False), (False, True), (True, True), (True, False)
            return [placed(patch, shape, *place) for patch, place in zip(patches, places, strict=True)]
        image, mask = placed(flower(size), shape)
        rows, columns = (torch.arange(side) >= side - (size + 1) // 2 for side in shape[1:])
        return [Mark(image, mask * (down[:, None] & right)) for down in (~rows, rows) for right in (~columns, columns)]

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        for number in self.test_patches:
            x = Mark(patterns["images"][number], patterns["masks"][number]).stamp(x, self.test_opacity)
        return x

    def planted(self, x: Tensor, patterns: Patterns, samples: Samples, setting: Setting) -> Tensor:
        images, masks = patterns["images"].to(x.device), patterns["masks"].to(x.device)
        weights = masks.double() / 255 * torch.tensor(self.opacities, dtype=torch.float64, device=x.device).view(-1, 1, 1, 1)
        # At random: the authors go by the samples' order, and in a sorted data set a quarter of them is a few classes.
        number = torch.randperm(len(x), generator=setting.rng) % len(images)
        return by_parts(lambda part, n: mixed(part, images[n], weights[n]), x, number.to(x.device))
