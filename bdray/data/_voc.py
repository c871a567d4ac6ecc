"""What the readers of Pascal VOC's layout share: lists of images, an XML file of boxes for each."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bdray.boxes import TARGETS, Box
from bdray.data import Published
from bdray.data._images import Images, decode
from bdray.imagefile import opened
from bdray.samples import Rows, Samples
from bdray.spec import BadInput, Config
from bdray.wording import quoted

SUFFIXES = (".jpg", ".jpeg", ".png")


class Detection(Images):
    """Images with boxes: uint8 [N, 3, H, W], and `Rows` of lists of boxes (bdray/boxes.py) in pixels of what was read."""

    modality: ClassVar[str] = "detection"
    flip: ClassVar[bool] = False
    unit: ClassVar[str] = "an image"
    suited_model: ClassVar[Config] = {"name": "ssd"}

    def published(self, home: Path, lists: tuple[str, str], classes: Sequence[str], size: int) -> Published:
        """The images of two of the lists in ImageSets/Main, for training and for testing, squeezed to `size` x `size`, boxes
        with them. Raises BadInput, with the file, for what VOC would not write."""
        train, test = (self._part(home, name, classes, size) for name in lists)
        return Published(train, test, tuple(classes))

    def _part(self, home: Path, name: str, classes: Sequence[str], size: int) -> Samples:
        listed = home / "ImageSets/Main" / f"{name}.txt"
        if not listed.is_file():
            self.missing(listed)
        try:
            lines = listed.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeError) as error:
            raise BadInput(f"the file {listed} is damaged ({error}); {self.again(listed)}") from None
        stems = [line.split()[0] for line in lines if line.strip()]  # a class's own list has a second column
        if not stems:
            self.missing(listed, "lists no images")
        self.check_memory(len(stems), size)
        paths = [self._image(home, stem, listed) for stem in stems]
        pixels = decode(paths, size)
        boxes = []
        for stem, path in zip(stems, paths, strict=True):
            with opened(path) as image:
                width, height = image.size
            marked = home / "Annotations" / f"{stem}.xml"
            if not marked.is_file():
                self.missing(marked, f"is not there, though {listed} lists its image")
            found = self.boxes(marked, classes, width, height)
            boxes.append([_scaled(box, size / width, size / height)._asdict() for box in found])
        return Samples(pixels, Rows.of(boxes, TARGETS))

    def _image(self, home: Path, stem: str, listed: Path) -> Path:
        paths = [home / "JPEGImages" / f"{stem}{suffix}" for suffix in SUFFIXES]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            self.missing(paths[0], f"is not there, though {listed} lists it")
        return found

    def boxes(self, path: Path, classes: Sequence[str], width: int, height: int) -> list[Box]:
        """The objects of an annotation, in its order, as boxes from 0 whose ends are not in them: in the file pixels count from
        1, and the last one is in the box. Raises BadInput for an unknown class and for a box that is outside of its image or
        empty."""
        try:
            objects = ET.parse(path).getroot().findall("object")  # a person's parts have boxes, too, inside of its own
        except (ET.ParseError, ValueError) as error:
            raise BadInput(f"the file {path} is damaged ({error}); {self.again(path)}") from None
        return [self._box(path, each, classes, width, height) for each in objects]

    def _box(self, path: Path, found: ET.Element, classes: Sequence[str], width: int, height: int) -> Box:
        name = (found.findtext("name") or "").strip()
        if name not in classes:
            raise BadInput(
                f"the file {path} has an object of the class {quoted(name)}, expected one of {', '.join(classes)}; name the "
                f"classes of the data set with task.data.classes, or {self.again(path)}"
            )
        texts = [found.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            left, top, right, bottom = (float(text or "") for text in texts)
        except ValueError:
            raise BadInput(f"the file {path} has the box {texts}, expected four numbers; {self.again(path)}") from None
        if not (1 <= left <= right <= width and 1 <= top <= bottom <= height):
            raise BadInput(
                f"the file {path} has the box ({left:g}, {top:g}, {right:g}, {bottom:g}) outside of its image, whose pixels "
                f"are 1 to {width} and 1 to {height}; mend the box, or take the image off its list"
            )
        difficult = (found.findtext("difficult") or "0").strip() == "1"
        return Box(left - 1, top - 1, right, bottom, classes.index(name), difficult)

    def again(self, path: Path) -> str:
        """What to do about a file that is damaged."""
        return "fetch the data set again"


def _scaled(box: Box, across: float, down: float) -> Box:
    return box._replace(x1=box.x1 * across, y1=box.y1 * down, x2=box.x2 * across, y2=box.y2 * down)
