"""Any image data set arranged as one folder a class, train and test apart, as torchvision's ImageFolder reads them, without
hidden folders and those that start with an underscore."""

from pathlib import Path
from typing import ClassVar

from bdray.data import Published
from bdray.data._folders import Folders
from bdray.data._images import Images, skipped_folders
from bdray.samples import Samples
from bdray.spec import Count


class ImageFolder(Folders, Images):
    """Classes are the sorted names of the class folders; images in folders below a class folder belong to that class. Hidden
    files and folders, which torchvision reads, are skipped without a word. A warning names what else is skipped: folders that
    start with an underscore, links to a folder that they lie in, images in other formats or in no class folder. What several
    images have in common (a film, a person) is not known here: `held` and `limit` take them one by one."""

    unit: ClassVar[str] = "a file"
    home: ClassVar[str] = "no one place: these are your own images"
    layout: ClassVar[str] = "train/<class>/*.jpg and test/<class>/*.jpg (or val; or png, ppm, bmp, tif, webp) in that folder"

    size: Count = 64
    """Height and width in pixels."""

    def read(self, root: Path) -> Published:
        _, train, test, names = self.parts(root)
        self.tell([*skipped_folders(train), *skipped_folders(test)])
        return Published(self._part(train, names), self._part(test, names), names)

    def _part(self, folder: Path, names: list[str]) -> Samples:
        return self.class_folders([folder / name for name in names], self.size)
