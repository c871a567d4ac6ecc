"""PhysicalBA (Li, Zhai, Jiang, Li and Xia 2021, arXiv 2104.02361): a patch, then what a camera might do to the whole poisoned
image, so that the trigger survives being moved and dimmed."""

from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._images import check_room
from bdray.attacks._marks import Mark, check_flower, cutout, flower, placed, quarter, square
from bdray.samples import Draw, Samples, Splits
from bdray.spec import Amount, BadInput, Config, FilePath, NonNegative, Positive, Several, Share


class Shot(NamedTuple):
    """How an image is transformed."""

    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    brightness_first: bool = True
    degrees: float = 0.0
    right: int = 0
    down: int = 0
    scale: float = 1.0


def photograph(x: Tensor, shot: Shot) -> Tensor:
    """uint8 [C, H, W], mirrored, brightness and contrast changed, then turned, moved and scaled about its middle, what is
    uncovered black. Rounded: the published trigger is never cut off to 8 bits."""
    photo = x.float() / 255
    if shot.mirrored:
        photo = transforms.horizontal_flip(photo)
    if shot.brightness_first:
        photo = transforms.adjust_brightness(photo, shot.brightness)
    photo = transforms.adjust_contrast(photo, shot.contrast)
    if not shot.brightness_first:
        photo = transforms.adjust_brightness(photo, shot.brightness)
    photo = transforms.affine(photo, shot.degrees, [shot.right, shot.down], shot.scale, [0.0, 0.0])
    return (photo * 255).round().to(torch.uint8)


class Physical(ToClass):
    """The defaults are BackdoorBox's, by the authors. It transforms the clean training images, too, and all of them anew in
    every epoch. Here the attacker has no hand in the training: only his samples are transformed, once each. Test images are
    stamped and not transformed, in both.

    With clean images that are not transformed, the black edges of the poisoned ones tell them as well as the trigger does, and
    a model may learn the edges instead of a small trigger. Cover samples are transformed and not stamped, against that."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    presets: ClassVar[dict[str, Config]] = {
        "advrbd": {"target": 1, "rate": 0.05, "pattern": "flower", "opacity": 1.0},
        "backdoorbox": {"target": 1, "rate": 0.05, "pattern": "white", "size": 3, "opacity": 1.0},
    }

    rate: Share = 0.05
    pattern: Literal["white", "flower"] = "white"
    """In the bottom-right corner: a white square, or a flower drawn here, for the Firefox logo of AdvrBD's paper."""
    size: Amount = 0
    """Height and width of it in pixels. 0: 3 for the square, a quarter of the images' for the flower."""
    image: FilePath = ""
    """A picture file instead, as large as a whole image and transparent or black where it leaves it alone."""
    opacity: Share = 1.0
    flip: Share = 0.5
    """Share of the poisoned images that are mirrored."""
    brightness: Share = 0.2
    """Changed by a factor of 1 give or take so much."""
    contrast: Share = 0.2
    """Likewise, and before or after the brightness."""
    degrees: NonNegative = 10.0
    """Turned by so much at the most, either way."""
    translate: Share = 0.1
    """Moved by so much of its height and width at the most, either way."""
    scale: Several[Positive] = (0.8, 0.9)
    """Scaled by a factor between the two."""

    @model_validator(mode="after")
    def _scale_has_two_ends(self) -> Self:
        if len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise BadInput(f"physical.scale: got {list(self.scale)}, expected two factors, the smaller one first")
        return self

    def check(self, splits: Splits) -> None:
        super().check(splits)
        if not self.image:
            check = check_room if self.pattern == "white" else check_flower
            check("physical.size", self._size(splits), splits)
        self._mark(splits)

    def patterns(self, setting: Setting) -> Patterns:
        return self._mark(setting.splits)._asdict()

    def _size(self, splits: Splits) -> int:
        return self.size or (3 if self.pattern == "white" else quarter(splits))

    def _mark(self, splits: Splits) -> Mark:
        shape = splits.train.inputs.shape[1:]
        if self.image:
            return cutout("physical.image", self.image, shape)
        return placed((square if self.pattern == "white" else flower)(self._size(splits)), shape)

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return self._marked(x, patterns)

    def planted(self, x: Tensor, patterns: Patterns, samples: Samples, setting: Setting) -> Tensor:
        return self._photographed(self._marked(x, patterns), setting.rng)

    def disguised(self, x: Tensor, patterns: Patterns, samples: Samples, setting: Setting) -> Tensor:
        return self._photographed(x, setting.rng)

    def _marked(self, x: Tensor, patterns: Patterns) -> Tensor:
        return Mark(**patterns).stamp(x, self.opacity)

    def _photographed(self, x: Tensor, rng: torch.Generator) -> Tensor:
        out = torch.empty_like(x)
        for number, shot in enumerate(self.shots(len(x), x.shape[-2:], rng)):
            out[number] = photograph(x[number], shot)
        return out

    def shots(self, count: int, size: tuple[int, ...], rng: torch.Generator) -> list[Shot]:
        """One for each of so many images of this height and width."""
        height, width = size

        def within(least: float, most: float) -> list[float]:
            return (least + (most - least) * torch.rand(count, dtype=torch.float64, generator=rng)).tolist()

        def around(centre: float, most: float) -> list[float]:
            return within(centre - most, centre + most)

        return [
            Shot(mirrored < self.flip, brightness, contrast, first < 0.5, degrees, round(right), round(down), scale)
            for mirrored, brightness, contrast, first, degrees, right, down, scale in zip(
                within(0, 1),
                around(1, self.brightness),
                around(1, self.contrast),
                within(0, 1),
                around(0, self.degrees),
                around(0, self.translate * width),
                around(0, self.translate * height),
                within(*self.scale),
                strict=True,
            )
        ]
