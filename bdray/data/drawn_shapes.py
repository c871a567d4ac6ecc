"""A made miniature of object detection: squares, discs and triangles on 96x96 pixels, in Pascal VOC's folders."""

from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np
import torch
from PIL import Image

from bdray.data import Published
from bdray.data._made import made, own_folder
from bdray.data._voc import Detection
from bdray.seeds import rng
from bdray.spec import BadInput, Count

CLASSES = ("square", "disc", "triangle")
SIDE = 96
LEAST, MOST = 20, 40
"""Pixels of a shape's side."""
XML = """<annotation>
\t<folder>VOC2007</folder>
\t<filename>{name}.png</filename>
\t<size>
\t\t<width>{side}</width>
\t\t<height>{side}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
{objects}</annotation>
"""
OBJECT = """\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>{difficult}</difficult>
\t\t<bndbox>
\t\t\t<xmin>{0}</xmin>
\t\t\t<ymin>{1}</ymin>
\t\t\t<xmax>{2}</xmax>
\t\t\t<ymax>{3}</ymax>
\t\t</bndbox>
{part}\t</object>
"""
PART = """\t\t<part>
\t\t\t<name>corner</name>
\t\t\t<bndbox>
\t\t\t\t<xmin>{0}</xmin>
\t\t\t\t<ymin>{1}</ymin>
\t\t\t\t<xmax>{0}</xmax>
\t\t\t\t<ymax>{1}</ymax>
\t\t\t</bndbox>
\t\t</part>
"""

Shape = tuple[int, tuple[int, int, int, int], bool]
"""Class number, box (from 1, its ends in it), whether it is difficult."""


class DrawnShapes(Detection):
    """One to three shapes an image, of any colour on any other, none across another; in every fiftieth image there is nothing.
    Made of whole numbers only and stored as PNG, which every decoder reads alike; written below the data folder, or else
    the user's cache folder, on first use."""

    home: ClassVar[str] = "bdray itself (bdray/data/drawn_shapes.py)"
    layout: ClassVar[str] = "nothing, or what it wrote itself"

    count: Count = 400
    """Training images, before `held` is taken off."""
    tests: Count = 100
    size: Count = 96
    """Height and width in pixels, as read; they are drawn at 96."""

    def read(self, root: Path) -> Published:
        home = made(root, self.folder_name(), self._write) / "VOCdevkit/VOC2007"
        return self.published(home, ("trainval", "test"), CLASSES, self.size)

    def folder_name(self) -> str:
        """Of what is written: it says all that the content depends on, and a number that changes with the generator."""
        return f"drawn_shapes-1-{self.count}-{self.tests}"

    def again(self, path: Path) -> str:
        return f"remove the folder {own_folder(path, self.folder_name())}, and it is made again"

    def missing(self, folder: Path, problem: str = "is not there") -> NoReturn:
        raise BadInput(f"{self.name}: {folder} {problem}; {self.again(folder)}")

    def _write(self, folder: Path) -> None:
        """With what is odd in the real files: `difficult` objects, parts with boxes of their own, boxes with decimals, images
        without objects, and each class's own lists."""
        home = folder / "VOCdevkit/VOC2007"
        for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (home / part).mkdir(parents=True)
        total, shown = self.count + self.tests, list[list[Shape]]()
        for number in range(1, total + 1):
            pixels, shapes = _drawn(number)
            Image.fromarray(pixels).save(home / f"JPEGImages/{number:06d}.png")
            (home / f"Annotations/{number:06d}.xml").write_text(_xml(f"{number:06d}", shapes))
            shown.append(shapes)
        for name, numbers in (("trainval", range(1, self.count + 1)), ("test", range(self.count + 1, total + 1))):
            (home / f"ImageSets/Main/{name}.txt").write_text("".join(f"{number:06d}\n" for number in numbers))
            for label, each in enumerate(CLASSES):
                marks = ((number, any(shape[0] == label for shape in shown[number - 1])) for number in numbers)
                listed = "".join(f"{number:06d} {' 1' if there else '-1'}\n" for number, there in marks)
                (home / f"ImageSets/Main/{each}_{name}.txt").write_text(listed)


def _xml(name: str, shapes: list[Shape]) -> str:
    objects = []
    for label, box, difficult in shapes:
        # VOC2011 began to write decimals, and persons have parts.
        sides = [f"{side}.0" if difficult else str(side) for side in box]
        part = PART.format(box[0], box[1]) if label == 0 else ""
        objects.append(OBJECT.format(*sides, name=CLASSES[label], difficult=int(difficult), part=part))
    return XML.format(name=name, side=SIDE, objects="".join(objects))


def _drawn(number: int) -> tuple[np.ndarray, list[Shape]]:
    """The pixels of an image, uint8 [96, 96, 3], and its shapes."""
    draw = rng(0, "drawn_shapes", number)

    def one(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=draw))

    ground = [one(40, 216) for _ in range(3)]
    pixels = torch.tensor(ground).repeat(SIDE, SIDE, 1) + torch.randint(-8, 9, (SIDE, SIDE, 3), generator=draw)
    shapes: list[Shape] = []
    wanted = 0 if number % 50 == 0 else one(1, 4)
    for _ in range(50):
        if len(shapes) == wanted:
            break
        label, side = one(0, len(CLASSES)), one(LEAST, MOST + 1)
        left, top = one(1, SIDE - side + 2), one(1, SIDE - side + 2)
        box = (left, top, left + side - 1, top + side - 1)
        colour = [one(0, 256) for _ in range(3)]
        far = sum(abs(a - b) for a, b in zip(colour, ground, strict=True)) >= 150
        if far and not any(_meet(box, other) for _, other, _ in shapes):
            inside = _mask(label, side)
            window = pixels[top - 1 : top - 1 + side, left - 1 : left - 1 + side]
            window[inside] = torch.tensor(colour) + torch.randint(-8, 9, (int(inside.sum()), 3), generator=draw)
            shapes.append((label, box, one(0, 20) == 0))
    return pixels.clamp(0, 255).to(torch.uint8).numpy(), shapes


def _meet(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return box[0] <= other[2] and other[0] <= box[2] and box[1] <= other[3] and other[1] <= box[3]


def _mask(label: int, side: int) -> torch.Tensor:
    """Which pixels of its box a shape covers, bool [side, side]; it touches all four sides."""
    x = 2 * torch.arange(side)[None] - side + 1  # in half pixels from the middle
    y = 2 * torch.arange(side)[:, None] - side + 1
    if CLASSES[label] == "square":
        return torch.ones(side, side, dtype=torch.bool)
    if CLASSES[label] == "disc":
        return x * x + y * y <= side * side
    return 2 * x.abs() <= y + side
