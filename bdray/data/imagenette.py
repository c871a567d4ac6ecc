"""Imagenette, version 2 (Howard 2019): 9,469 + 3,925 photographs of 10 easily told ImageNet classes."""

from pathlib import Path
from typing import ClassVar

from bdray.data import Published
from bdray.data._images import Images
from bdray.spec import Count

FOLDERS = ("imagenette2", "imagenette2-320", "imagenette2-160")
CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


class Imagenette(Images):
    """Photographs of any shape, squeezed to `size` x `size`; the published `val` is the test set. The full-sized folder
    wins over the published reductions to 320 and 160 pixels."""

    unit: ClassVar[str] = "a photograph"
    home: ClassVar[str] = "https://github.com/fastai/imagenette"
    layout: ClassVar[str] = "imagenette2 (or -320, -160) with train and val of ten folders each, named by WordNet id,"

    size: Count = 128
    """Height and width in pixels."""

    def read(self, root: Path) -> Published:
        folder = next((root / name for name in FOLDERS if (root / name).is_dir()), None)
        if folder is None:
            self.missing(root, f"holds none of {', '.join(FOLDERS)}")
        train, test = (self.class_folders([folder / part / n for n in CLASSES], self.size) for part in ("train", "val"))
        return Published(train, test, list(CLASSES.values()))
