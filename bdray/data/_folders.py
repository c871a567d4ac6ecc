"""What the readers of a person's own files share: one folder a class, train and test apart."""

import re
from pathlib import Path
from typing import NamedTuple, NoReturn, Self

from pydantic import model_validator

from bdray.data import Data
from bdray.data._images import subfolders
from bdray.spec import BadInput, FilePath, at_home
from bdray.wording import quoted


class Parts(NamedTuple):
    """The folders of a data set, and the names of its classes, each of which has a folder in both."""

    home: Path
    train: Path
    test: Path
    classes: list[str]


class Folders(Data):
    """Classes are the sorted names of the class folders."""

    path: FilePath
    """The folder that holds train and test: below the data folder or the home folder (`~/mine`), or absolute, which ties the
    key to one machine."""

    @model_validator(mode="after")
    def _names_a_folder(self) -> Self:
        if not self.path.strip():
            raise BadInput(f"{self.name}.path: got an empty text, expected a folder; a single dot is the data folder itself")
        return self

    def parts(self, root: Path) -> Parts:
        """Where they are. Raises BadInput where a part or a class is lacking, and for a name that cannot be shown."""
        home = root / at_home(self.path)
        train = home / "train"
        test = next((part for part in (home / "test", home / "val") if part.is_dir() and subfolders(part)), None)
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
        return Parts(home, train, test, names)

    def missing(self, folder: Path, problem: str = "is not there") -> NoReturn:
        """The sentence, for files that nobody publishes."""
        raise BadInput(f"{self.name}: {folder} {problem}; expected {self.layout}, given as data.path")
