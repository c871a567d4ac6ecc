"""ModelNet (Wu et al. 2015, arXiv 1406.5670): CAD models of everyday things, 9,843 + 2,468 of 40 classes, or 10 of them."""

from pathlib import Path
from typing import ClassVar

from bdray.data import Published
from bdray.data._points import Points, modelnet
from bdray.spec import FilePath


class Modelnet(Points):
    """The archives ModelNet40.zip and ModelNet10.zip as unpacked, and whatever else has their layout: meshes that are neither
    centred nor of one scale. Meshes are parsed and sampled whenever a process reads them."""

    home: ClassVar[str] = "https://modelnet.cs.princeton.edu"
    layout: ClassVar[str] = "PATH/<class>/{train,test}/*.off"
    unit: ClassVar[str] = "a mesh"

    path: FilePath = "ModelNet40"
    """The folder of the classes, below the data folder."""

    def read(self, root: Path) -> Published:
        return modelnet(self, root / Path(self.path).expanduser())
