"""ShapeNet part (Yi et al. 2016, SIGGRAPH Asia), with normals: clouds of 16 kinds of things, told apart as wholes here."""

import json
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from bdray.data import Published, Samples
from bdray.data._clouds import Clouds
from bdray.spec import FilePath, at_home

COLUMNS = 7
PARTS = {"train": ("train", "val"), "test": ("test",)}


class ShapenetPart(Clouds):
    """The archive as unpacked, in the order of its lists; the validation clouds are learnt, too. A line of a cloud is a point,
    its normal and its part, of which the point is taken. Clouds differ in their number of points; IRBA, which learns this
    set, takes the same points twice where one has fewer than asked for, and here that is an error."""

    home: ClassVar[str] = "https://shapenet.cs.stanford.edu/media/shapenetcore_partanno_segmentation_benchmark_v0_normal.zip"
    layout: ClassVar[str] = (
        "PATH/<number>/*.txt, PATH/synsetoffset2category.txt and PATH/train_test_split/shuffled_{train,val,test}_file_list.json"
    )
    unit: ClassVar[str] = "a mesh"

    path: FilePath = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
    """The folder of the lists, below the data folder."""
    sampling: Literal["first", "random", "farthest"] = "farthest"
    """Which points of a file are taken: by farthest-point sampling from the first one on, as IRBA does; random ones, the same
    for every seed; or its first ones."""

    def read(self, root: Path) -> Published:
        base = root / at_home(self.path)
        listed = base / "synsetoffset2category.txt"
        if not listed.is_file():
            self.missing(listed)
        rows = [line.split() for line in listed.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if not rows or any(len(row) != 2 for row in rows):
            self.missing(listed, "is not a name and a number in each line")
        names, folders = [name for name, _ in rows], [folder for _, folder in rows]
        parts = []
        for lists in PARTS.values():
            paths, labels = [], []
            for which in lists:
                file = base / "train_test_split" / f"shuffled_{which}_file_list.json"
                for one in self._listed(file):
                    folder, _, name = one.rpartition("/")
                    number = folder.rpartition("/")[2]
                    if number not in folders:
                        self.missing(file, f"lists {one[:80]!r}, which is in no folder of {listed.name}")
                    path = base / number / f"{name}.txt"
                    if not path.is_file():
                        self.missing(path)
                    paths.append(path)
                    labels.append(folders.index(number))
            parts.append(Samples(self.clouds(paths, base), torch.tensor(labels, dtype=torch.int64)))
        train, test = parts
        return Published(train, test, names)

    def _listed(self, file: Path) -> list[str]:
        """The clouds of a list."""
        if not file.is_file():
            self.missing(file)
        try:
            found = json.loads(file.read_bytes())
        except ValueError:
            self.missing(file, "is no JSON")
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            self.missing(file, "is no list of texts")
        return found

    def parsed(self, path: Path, name: str) -> np.ndarray:
        rows = [line.split() for line in path.read_text(encoding="latin-1").splitlines() if line.strip()]
        for number, row in enumerate(rows, start=1):
            if len(row) != COLUMNS:
                raise ValueError(f"line {number} has {len(row)} numbers, expected {COLUMNS}")
        try:
            return np.array(rows, dtype=np.float64).reshape(-1, COLUMNS)[:, :3]
        except ValueError:
            raise ValueError("a value in it is no number") from None
