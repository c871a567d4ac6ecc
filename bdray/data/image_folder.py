"""Any image data set arranged as one folder a class, train and test apart, as torchvision's ImageFolder reads them, without
hidden folders and those that start with an underscore."""

import re
from pathlib import Path
from typing import ClassVar, NoReturn

from pydantic import field_validator

from bdray.data import Published
from bdray.data._images import Images, skipped_folders, subfolders
from bdray.samples import Samples
from bdray.spec import BadInput, Count, FilePath, at_home
from bdray.wording import quoted


class ImageFolder(Images):
    """Classes are the sorted names of the class folders; images in folders below a class folder belong to that class. Hidden
    files and folders, which torchvision reads, are skipped without a word. A warning names what else is skipped: folders that
    start with an underscore, links to a folder that they lie in, images in other formats or in no class folder. What several
    images have in common (a film, a person) is not known here: `held` and `limit` take them one by one."""

    unit: ClassVar[str] = "a file"
    home: ClassVar[str] = "no one place: these are your own images"
    layout: ClassVar[str] = "train/<class>/*.jpg and test/<class>/*.jpg (or val; or png, ppm, bmp, tif, webp) in that folder"

    path: FilePath
    """The folder that holds train and test: below the data folder or the home folder (`~/pets`), or absolute, which ties the
    key to one machine."""
    size: Count = 64
    """Height and width in pixels."""

    @field_validator("path")
    @classmethod
    def _names_a_folder(cls, path: str) -> str:
        if not path.strip():
            raise BadInput("image_folder.path: got an empty text, expected a folder; a single dot is the data folder itself")
        return path

    def read(self, root: Path) -> Published:
        home = root / at_home(self.path)
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
        for name in names:
            if re.search("[\x00-\x1f\x7f\ud800-\udfff]", name):
                raise BadInput(
                    f"{self.name}: got a class folder named {quoted(name)} in {train}, expected UTF-8 without control "
                    "characters; rename it"
                )
        self.tell([*skipped_folders(train), *skipped_folders(test)])
        return Published(self._part(train, names), self._part(test, names), names)

    def _part(self, folder: Path, names: list[str]) -> Samples:
        return self.class_folders([folder / name for name in names], self.size)

    def missing(self, folder: Path, problem: str = "is not there") -> NoReturn:
        """The sentence, for images that nobody publishes."""
        raise BadInput(f"{self.name}: {folder} {problem}; expected {self.layout}, given as data.path")
