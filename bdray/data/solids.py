"""A made miniature of ModelNet: 8 kinds of solids, sheared, stretched and noisy, as .off files."""

from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch

from bdray.data import Published
from bdray.data._made import made, own_folder
from bdray.data._points import Points, SomePoints, modelnet
from bdray.packages import need
from bdray.seeds import rng
from bdray.spec import BadInput, Config

FOLDER = "solids-1"
"""The number changes with what is written, so that no older miniature is taken for it."""
CLASSES = ("arrow", "box", "coffee_table", "cone", "cylinder", "sphere", "tetrahedron", "torus")
COUNTS = {"train": 40, "test": 15}
"""Meshes of each class."""


class Solids(Points):
    """open3d's primitives, and tables made of boxes. The files are written on first use, below the data folder or the
    user's cache folder, in ModelNet's layout with its traps (headers glued to the counts, comments, faces of four corners
    or with a colour, a class with an underscore), and read as ModelNet's are."""

    home: ClassVar[str] = "bdray itself (bdray/data/solids.py)"
    layout: ClassVar[str] = "nothing, or what it wrote itself"
    unit: ClassVar[str] = "a mesh"
    suited_model: ClassVar[Config] = {"name": "pointnet", "width": 16}

    points: SomePoints = 256

    def read(self, root: Path) -> Published:
        return modelnet(self, made(root, FOLDER, write))

    def again(self, path: Path) -> str:
        return f"remove the folder {own_folder(path, FOLDER)}, and it is made again"

    def missing(self, folder: Path, problem: str = "is not there") -> NoReturn:
        raise BadInput(f"{self.name}: {folder} {problem}; {self.again(folder)}")


def write(base: Path) -> None:
    """The whole miniature, below an empty folder."""
    for name in CLASSES:
        for part, count in COUNTS.items():
            folder = base / name / part
            folder.mkdir(parents=True)
            first = 1 if part == "train" else COUNTS["train"] + 1
            for number in range(first, first + count):
                (folder / f"{name}_{number:04d}.off").write_text(drawn(name, number), newline="")


def drawn(name: str, number: int) -> str:
    """One OFF file. Coordinates have four decimals, so that the last bits of a processor's cosines do not show."""
    draw = rng(0, "solids", name, number)

    def among(low: float, high: float, *shape: int) -> np.ndarray:
        """Drawn as whole hundredths."""
        return torch.randint(round(100 * low), round(100 * high) + 1, shape, generator=draw).numpy() / 100

    vertices, triangles = _solid(name, *among(0.7, 1.3, 2))
    shear = np.eye(3)
    shear[0, 2], shear[1, 2], shear[0, 1] = among(-0.25, 0.25, 3)
    size = np.ptp(vertices, axis=0).max()
    vertices = vertices / size + among(-0.02, 0.02, *vertices.shape)
    vertices = vertices * among(0.7, 1.3, 3) @ shear.T * 10 ** among(-1, 2) + among(-5, 5, 3)
    faces = [f"3 {a} {b} {c}" for a, b, c in triangles.tolist()]
    if name == "box" and number % 2:
        faces = [f"4 {' '.join(map(str, corners))}" for corners in _QUADS]
    if number % 5 == 0:
        faces[0] += " 255 0 0"
    counts = f"{len(vertices)} {len(faces)} 0"
    head = [f"OFF{counts}"] if number % 3 == 0 else ["OFF", counts]
    if number % 4 == 0:
        head.insert(1, "# made by bdray")
    return "\n".join([*head, *(" ".join(f"{value:.4f}" for value in vertex) for vertex in vertices.tolist()), *faces, ""])


_QUADS = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))
"""The sides of open3d's box."""


def _solid(name: str, thick: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of one of CLASSES; both numbers are about 1."""
    make: Any = need("open3d").geometry.TriangleMesh
    if name == "arrow":
        mesh = make.create_arrow(0.1 * thick, 0.2 * thick, high, 0.5, resolution=10, cylinder_split=2, cone_split=1)
    elif name == "box":
        mesh = make.create_box(thick, 1.0, high)
    elif name == "coffee_table":
        mesh = make.create_box(1.4, 1.0, 0.1 * thick).translate((0, 0, 0.6 * high))
        for x in (0.0, 1.4 - 0.12):
            for y in (0.0, 1.0 - 0.12):
                mesh += make.create_box(0.12, 0.12, 0.6 * high).translate((x, y, 0))
    elif name == "cone":
        mesh = make.create_cone(0.5 * thick, high, resolution=14, split=1)
    elif name == "cylinder":
        mesh = make.create_cylinder(0.4 * thick, high, resolution=14, split=1)
    elif name == "sphere":
        mesh = make.create_sphere(0.5, resolution=8)
    elif name == "tetrahedron":
        mesh = make.create_tetrahedron(1.0)
    else:
        mesh = make.create_torus(0.5, 0.15 * thick, radial_resolution=16, tubular_resolution=8)
    return np.asarray(mesh.vertices), np.asarray(mesh.triangles)
