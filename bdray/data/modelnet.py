"""ModelNet (Wu et al. 2015, arXiv 1406.5670): CAD models of everyday things, 9,843 + 2,468 of 40 classes, or 10 of them."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bdray.data import Published, Samples
from bdray.data._points import Points, in_unit_sphere, modelnet
from bdray.packages import need
from bdray.spec import BadInput, FilePath, at_home


class Modelnet(Points):
    """The archives ModelNet40.zip and ModelNet10.zip as unpacked, and whatever else has their layout: meshes that are
    neither centred nor of one scale. Or the clouds of PointNet's authors, modelnet40_ply_hdf5_2048, of which the first
    `points` are taken. Meshes are parsed and sampled whenever a process reads them."""

    home: ClassVar[str] = "https://modelnet.cs.princeton.edu"
    layout: ClassVar[str] = "PATH/<class>/{train,test}/*.off, or shape_names.txt, {train,test}_files.txt and *.h5 in PATH,"
    unit: ClassVar[str] = "a mesh"

    path: FilePath = "ModelNet40"
    """The folder of the classes, or of the .h5 files, below the data folder."""

    def read(self, root: Path) -> Published:
        base = root / at_home(self.path)
        return self._clouds(base) if (base / "shape_names.txt").is_file() else modelnet(self, base)

    def _clouds(self, base: Path) -> Published:
        classes = lines(base / "shape_names.txt")
        parts = []
        for part in ("train", "test"):
            listed = base / f"{part}_files.txt"
            if not listed.is_file():
                self.missing(listed)
            # The lists name a folder that was the authors' own.
            found = [self._file(base / Path(line).name, len(classes)) for line in lines(listed)]
            if not found:
                self.missing(listed, "is empty")
            parts.append(Samples(torch.cat([points for points, _ in found]), torch.cat([labels for _, labels in found])))
        train, test = parts
        return Published(train, test, classes)

    def _file(self, file: Path, classes: int) -> tuple[Tensor, Tensor]:
        """Clouds and labels of one file."""
        if not file.is_file():
            self.missing(file)
        try:
            with need("h5py").File(file, "r") as content:
                data, labels = np.asarray(content["data"], dtype=np.float64), np.asarray(content["label"]).reshape(-1)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise BadInput(f"the file {file} is damaged ({str(error).splitlines()[0]}); {self.again(file)}") from None
        why = ""
        if data.ndim != 3 or data.shape[2] != 3 or len(data) != len(labels):
            why = f"its data are {list(data.shape)} and its labels {list(labels.shape)}"
        elif data.shape[1] < self.points:
            raise BadInput(f"modelnet.points: got {self.points}, but the clouds of {file} have {data.shape[1]}; lower it")
        elif not np.isfinite(data).all():
            why = f"cloud {int(np.flatnonzero(~np.isfinite(data).all((1, 2)))[0])} is not finite"
        elif len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            why = f"a label is outside 0 to {classes - 1}"
        if why:
            raise BadInput(f"the file {file} is damaged ({why}); {self.again(file)}")
        return torch.from_numpy(in_unit_sphere(data[:, : self.points]).astype(np.float32)), torch.from_numpy(
            labels.astype(np.int64)
        )


def lines(file: Path) -> list[str]:
    """The lines of a list, without empty ones."""
    return [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
