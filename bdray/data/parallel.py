"""Parallel corpora, two files a part, such as Multi30k (Elliott et al. 2016): line n of `train.en` is line n of `train.de`."""

from pathlib import Path
from typing import ClassVar

from bdray.data import Published
from bdray.data._texts import Pairs
from bdray.spec import FilePath, at_home


class Parallel(Pairs):
    """The defaults are Multi30k's first task as it is in its repository: 29,000 training pairs, 1,000 to test, raw. The
    validation pairs are not used: what a defender holds is a part of the training set, as in every data set here."""

    home: ClassVar[str] = "https://github.com/multi30k/dataset"
    layout: ClassVar[str] = "train.en, train.de and the same of the test set (or these with .gz), in that folder"

    path: FilePath = "multi30k/data/task1/raw"
    """The folder that holds the files, below the data folder; or absolute."""
    source: str = "en"
    """The ending of the files that are translated."""
    target: str = "de"
    """The ending of their translations."""
    train: str = "train"
    """What the names of the training files begin with."""
    test: str = "test_2016_flickr"

    def read(self, root: Path) -> Published:
        folder = root / at_home(self.path)
        if not folder.is_dir():
            self.missing(folder)
        languages = (self.source, self.target)
        return Published(self.pairs(folder, self.train, languages), self.pairs(folder, self.test, languages), ())
