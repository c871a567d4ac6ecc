"""Any image data set arranged as one folder a class, train and test apart, as torchvision's ImageFolder reads them."""

from pathlib import Path
from typing import ClassVar, NoReturn

from bdray.data import Published, Samples
from bdray.data._images import Images, subfolders
from bdray.spec import BadInput, Count


class ImageFolder(Images):
    """Classes are the sorted names of the class folders. Hidden files, folders that start with an underscore and files
    that are no images are skipped; images in folders below a class folder belong to that class. What several images have in
    common (a film, a person) is not known here: `held` and `limit` take them one by one."""

    unit: ClassVar[str] = "a file"
    home: ClassVar[str] = "no one place: these are your own images"
    layout: ClassVar[str] = "train/<class>/*.jpg and test/<class>/*.jpg (or val; or png, ppm, bmp, tif, webp) in that folder"

    path: str
    """The folder that holds train and test: below the data folder, or absolute, which ties the key to one machine."""
    size: Count = 64
    """Height and width in pixels."""

    def read(self, root: Path) -> Published:
        home = root / self.path
        train = home / "train"
        test = next((t for t in (home / "test", home / "val") if t.is_dir() and subfolders(t)), None)
        if not train.is_dir():
            self.missing(train)
        if test is None:
            self.missing(home, "holds no test or val with class folders")
        names, tested = ([folder.name for folder in subfolders(part)] for part in (train, test))
        if not names:
            self.missing(train, "holds no class folders")
        for odd in sorted({*names} ^ {*tested}):
            has, lacks = (train, test) if odd in names else (test, train)
            self.missing(lacks / odd, f"is not there, though {has / odd} is")
        return Published(self._part(train, names), self._part(test, names), names)

    def _part(self, folder: Path, names: list[str]) -> Samples:
        return self.class_folders([folder / name for name in names], self.size)

    def missing(self, folder: Path, problem: str = "is not there") -> NoReturn:
        """The sentence, for images that nobody publishes."""
        raise BadInput(f"{self.name}: {folder} {problem}; expected {self.layout}, given as data.path")
