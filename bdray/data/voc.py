"""Pascal VOC (Everingham et al. 2010): 5,011 + 4,952 photos of 2007 with boxes around objects of 20 classes, and its layout."""

from pathlib import Path
from typing import ClassVar

from bdray.data import Published
from bdray.data._voc import Detection
from bdray.spec import Count, FilePath, Several, at_home

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class Voc(Detection):
    """Any data set in the layout of VOC2007, by its official lists. Photos are squeezed to `size` x `size`, boxes with them. Of
    2012 no test boxes are published: test on `val` there and train on `train`. `difficult` objects are learnt like others, and
    neither a hit nor a miss when scored."""

    home: ClassVar[str] = "http://host.robots.ox.ac.uk/pascal/VOC"
    layout: ClassVar[str] = (
        "VOCdevkit/VOC2007 with ImageSets/Main, JPEGImages and Annotations (or another folder, as data.path)"
    )

    year: Count = 2007
    """Which of the challenges: the folder VOCdevkit/VOC<year>."""
    path: FilePath = ""
    """A folder of another data set in this layout, below the data folder; or absolute."""
    classes: Several[str] = CLASSES
    """Names of the classes, as they stand in the annotations; their order gives the class numbers."""
    train: str = "trainval"
    """The list of ImageSets/Main that is trained on."""
    test: str = "test"
    size: Count = 300
    """Height and width in pixels."""

    def read(self, root: Path) -> Published:
        home = root / (at_home(self.path) if self.path else f"VOCdevkit/VOC{self.year}")
        if not home.is_dir():
            self.missing(home)
        return self.published(home, (self.train, self.test), self.classes, self.size)
