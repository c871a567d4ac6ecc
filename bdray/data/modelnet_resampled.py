"""ModelNet as clouds (modelnet40_normal_resampled, of the authors of PointNet++): 10,000 points of each mesh, as text."""

from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from bdray.data import Published, Samples
from bdray.data._clouds import Clouds
from bdray.spec import FilePath, at_home

COLUMNS = 6


class ModelnetResampled(Clouds):
    """The archive as unpacked. Each line of a cloud is a point and its normal, of which the point is taken: the models here
    see points alone. A sample's class is its name up to the last underscore, so that `night_stand_0001` is a night_stand."""

    home: ClassVar[str] = "https://shapenet.cs.stanford.edu/media/modelnet40_normal_resampled.zip"
    layout: ClassVar[str] = "PATH/<class>/*.txt and PATH/modelnet40_{shape_names,train,test}.txt"
    unit: ClassVar[str] = "a mesh"

    path: FilePath = "modelnet40_normal_resampled"
    """The folder of the classes and the lists, below the data folder."""
    classes: Literal[40, 10] = 40
    """10: those of the lists of modelnet10, in the same folder."""

    def read(self, root: Path) -> Published:
        base = root / at_home(self.path)
        names = self._listed(base, "shape_names")
        parts = []
        for part in ("train", "test"):
            ids = self._listed(base, part)
            labels = []
            for one in ids:
                name = one.rpartition("_")[0]
                if name not in names:
                    self.missing(self._list(base, part), f"lists {one[:80]!r}, which is of no class of shape_names")
                labels.append(names.index(name))
            paths = [base / names[label] / f"{one}.txt" for one, label in zip(ids, labels, strict=True)]
            for path in paths:
                if not path.is_file():
                    self.missing(path)
            parts.append(Samples(self.clouds(paths, base), torch.tensor(labels, dtype=torch.int64)))
        train, test = parts
        return Published(train, test, names)

    def _list(self, base: Path, what: str) -> Path:
        return base / f"modelnet{self.classes}_{what}.txt"

    def _listed(self, base: Path, what: str) -> list[str]:
        """The lines of a list, without empty ones."""
        file = self._list(base, what)
        if not file.is_file():
            self.missing(file)
        found = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if not found:
            self.missing(file, "is empty")
        return found

    def parsed(self, path: Path, name: str) -> np.ndarray:
        """Of a cloud of which the first points are taken no more lines are read."""
        with path.open(encoding="latin-1") as file:
            lines = [line for line in islice(file, self.points if self.sampling == "first" else None) if line.strip()]
        rows = [line.split(",") for line in lines]
        for number, row in enumerate(rows, start=1):
            if len(row) != COLUMNS:
                raise ValueError(f"line {number} has {len(row)} numbers with commas between them, expected {COLUMNS}")
        try:
            return np.array(rows, dtype=np.float64).reshape(-1, COLUMNS)[:, :3]
        except ValueError:
            raise ValueError("a value in it is no number") from None
