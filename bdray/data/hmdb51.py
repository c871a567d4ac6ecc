"""HMDB51 (Kuehne, Jhuang, Garrote, Poggio and Serre 2011, ICCV): 6,766 clips of 51 human actions, three official splits."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import torch

from bdray.data import Published
from bdray.data._videos import Videos, _lines
from bdray.samples import Samples
from bdray.wording import quoted

SPLITS, VIDEOS = "testTrainMulti_7030_splits", "hmdb51_org"


class Hmdb51(Videos):
    """The archives hmdb51_org.rar, with the archive of each class in it, and test_train_splits.rar as unpacked, below the data
    folder or in a folder hmdb51 of it. A split trains on 70 clips of each class and tests on 30; the others are in none. `held`
    takes all clips of a film. Names hold nearly everything but a slash: a line of a list is cut at its last space, and the
    class is the list's, whatever a name says."""

    home: ClassVar[str] = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"
    layout: ClassVar[str] = f"{VIDEOS}/<class>/*.avi and {SPLITS}/<class>_test_splitN.txt"
    unit: ClassVar[str] = "a film"

    split: Literal[1, 2, 3] = 1
    """Which of the official splits."""

    def read(self, root: Path) -> Published:
        base = next((place for place in (root, root / "hmdb51") if (place / SPLITS).is_dir()), root)
        videos, lists = base / VIDEOS, base / SPLITS
        for folder in (lists, videos):
            if not folder.is_dir():
                self.missing(folder)
        end = f"_test_split{self.split}.txt"
        names = sorted(file.name.removesuffix(end) for file in lists.iterdir() if file.name.endswith(end))
        if not names:
            self.missing(lists, f"holds no *{end}")
        parts: dict[str, list[tuple[Path, int]]] = {"1": [], "2": []}
        for number, name in enumerate(names):
            for tag, path in self._listed(lists / f"{name}{end}", videos / name):
                parts[tag].append((path, number))
        train, test = (
            Samples(self.clips([path for path, _ in part]), torch.tensor([label for _, label in part], dtype=torch.int64))
            for part in parts.values()
        )
        films = [(label, path.stem.rpartition(f"_{names[label]}_")[0] or path.stem) for path, label in parts["1"]]
        numbers = {film: number for number, film in enumerate(dict.fromkeys(films))}
        return Published(train, test, names, torch.tensor([numbers[film] for film in films], dtype=torch.int64))

    def _listed(self, file: Path, folder: Path) -> Iterator[tuple[str, Path]]:
        """The clips of one class that are in the split, each after its tag: 1 to train, 2 to test."""
        seen = set()
        for line, text in _lines(self, file):
            name, _, tag = text.rpartition(" ")
            name = name.strip()
            if not name or tag not in ("0", "1", "2"):
                self.missing(file, f"has {quoted(text)} in line {line}, not a file and 0, 1 or 2")
            if name in seen:
                self.missing(file, f"names {quoted(name)} again in line {line}")
            seen.add(name)
            if tag != "0":
                if not (folder / name).is_file():
                    self.missing(folder / name, f"is listed in {file.name}, line {line}, but is not there")
                yield tag, folder / name
