"""What the readers of point clouds share: the shape of one, ModelNet's folders, OFF files, points sampled by open3d."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from bdray.data import Data, Published, Samples
from bdray.data._cache import Reading, read
from bdray.memory import whole_memory
from bdray.packages import need
from bdray.samples import Lines
from bdray.seeds import seed_of
from bdray.spec import LARGEST, Aside, BadInput, Config, NonNegative

SomePoints = Annotated[int, Field(ge=2, le=LARGEST)]
"""Points of a cloud; one alone has no size to be scaled to 1."""


class Points(Data):
    """Class-labelled point clouds, float32 [N, P, 3], sampled from the surfaces of meshes: the centroid of each is the
    origin, and its farthest point is at distance 1."""

    modality: ClassVar[str] = "points"
    suited_model: ClassVar[Config] = {"name": "pointnet"}

    points: SomePoints = 1024
    """Points of a cloud, drawn uniformly over the surface, the same ones for every seed."""

    cache: Annotated[NonNegative, Aside()] = 64.0
    """GiB that sampled clouds may take below the user's cache folder, of all settings together; those used longest ago go.
    Where it is 0, clouds are sampled into memory, by every process anew."""

    def clouds(self, paths: Sequence[Path], base: Path) -> Tensor | Lines:
        """The cloud of each mesh, in order; what is drawn depends on where it lies below `base`. Raises BadInput that names the
        file that is damaged."""
        names, setting = [path.relative_to(base).as_posix() for path in paths], {"points": self.points}
        reading = Reading(
            *("clouds", setting, names, paths, (self.points, 3), "float32", 1),  # open3d draws from one generator
            one=lambda at: self._cloud(paths[at], names[at]),
            all=lambda: self._in_memory(paths, names),
        )
        return read(self, self.cache, reading)

    def _in_memory(self, paths: Sequence[Path], names: Sequence[str]) -> np.ndarray:
        """The same as one array."""
        needed, most = 12 * len(paths) * self.points, whole_memory()
        if needed > most:
            raise BadInput(
                f"{self.name}.points: got {self.points}, and {len(paths)} clouds of so many take {needed / 2**30:.3g} GiB, "
                f"more than the {most / 2**30:.3g} GiB of memory here; lower it"
            )
        out = np.empty((len(paths), self.points, 3), dtype=np.float32)
        for at, path in enumerate(tqdm(paths, "sampling meshes", leave=False, disable=None if len(paths) > 1000 else True)):
            out[at] = self._cloud(path, names[at])
        return out

    def _cloud(self, path: Path, name: str) -> np.ndarray:
        """One cloud, [P, 3]."""
        try:
            return self._sampled(need("open3d"), *read_off(path), seed_of(0, "points", name) % 2**31)
        except BadInput:
            raise
        except OSError as error:
            raise BadInput(f"cannot read the mesh {path} ({error.strerror}); mend that, or remove it") from None
        except ValueError as error:
            raise BadInput(f"the mesh {path} is damaged ({error}); {self.again(path)}") from None

    def again(self, path: Path) -> str:
        """How a damaged file of the data set is got anew."""
        return "fetch the data set again, or remove it"

    def _sampled(self, o3d: Any, vertices: np.ndarray, triangles: np.ndarray, seed: int) -> np.ndarray:
        """Points of a mesh's surface, [P, 3], in the unit sphere."""
        vertices = vertices - vertices.mean(0)
        largest = np.linalg.norm(vertices, axis=1).max()
        if not largest:
            raise ValueError("all its vertices are one point")
        mesh = o3d.geometry.TriangleMesh(
            o3d.utility.Vector3dVector(vertices / largest),
            o3d.utility.Vector3iVector(triangles),
        )
        if not mesh.get_surface_area() > 0:
            raise ValueError("none of its faces has an area")
        o3d.utility.random.seed(seed)
        found = np.asarray(mesh.sample_points_uniformly(number_of_points=self.points).points)
        return in_unit_sphere(found[None])[0]


def in_unit_sphere(clouds: np.ndarray) -> np.ndarray:
    """Clouds [N, P, 3] with their centroids at the origin and their farthest points at distance 1."""
    clouds = clouds - clouds.mean(1, keepdims=True)
    return clouds / np.linalg.norm(clouds, axis=2).max(1)[:, None, None]


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float64 [V, 3] and triangles int32 [F, 3] of an OFF file: comments, polygons, colours behind a face, and the
    counts right behind the word OFF, as in many files of ModelNet40, of which open3d makes an empty mesh. Raises ValueError
    with what is wrong."""
    text = path.read_bytes().decode("latin-1")  # a comment may be in any
    lines = text.splitlines()
    if "#" in text:
        lines = [line.partition("#")[0] for line in lines]
    lines = [line for line in lines if line.strip()]
    if not lines or not lines[0].startswith("OFF"):
        raise ValueError("it does not begin with OFF" if lines else "it is empty")
    counts = lines[0][3:].split()
    start = 1
    if not counts:
        counts, start = lines[1].split() if len(lines) > 1 else [], 2
    if len(counts) not in (2, 3) or not all(count.isdigit() for count in counts):
        raise ValueError(f"it gives {' '.join(counts)[:40]!r} for the numbers of vertices and faces")
    vertices_there, faces_there = int(counts[0]), int(counts[1])
    if not vertices_there or not faces_there:
        raise ValueError(f"it has {vertices_there} vertices and {faces_there} faces")
    if len(lines) < start + vertices_there + faces_there:
        raise ValueError(f"it ends after {len(lines) - start} of {vertices_there + faces_there} lines of vertices and faces")
    middle = start + vertices_there
    vertices = _table(lines[start:middle], "vertex")[:, :3]
    if vertices.shape[1] < 3:
        raise ValueError("a vertex has fewer than 3 numbers")
    if not np.isfinite(vertices).all():
        at = int(np.flatnonzero(~np.isfinite(vertices).all(1))[0])
        raise ValueError(f"vertex {at} is {lines[start + at].strip()!r}, which is not finite")
    triangles = _triangles(lines[middle : middle + faces_there])
    if triangles.min() < 0 or triangles.max() >= vertices_there:
        raise ValueError(f"a face names a vertex outside 0 to {vertices_there - 1}")
    return vertices, triangles


def _table(lines: Sequence[str], what: str) -> np.ndarray:
    """Lines of equally many numbers, float64."""
    rows = [line.split() for line in lines]
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError:
        width = len(rows[0])
        odd = next((row for row in rows if len(row) != width or not all(_is_number(word) for word in row)), rows[0])
        raise ValueError(f"it has {' '.join(odd)[:40]!r} for a {what}") from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _triangles(lines: Sequence[str]) -> np.ndarray:
    """The faces as triangles around their first vertex, int32 [F, 3]."""
    rows = [line.split() for line in lines]
    try:
        if all(row[0] == "3" for row in rows):
            return np.array([row[1:4] for row in rows], dtype=np.int32)
        corners = [[int(word) for word in row[1 : 1 + int(row[0])]] for row in rows]
        if any(len(face) != int(row[0]) for face, row in zip(corners, rows, strict=True)):
            raise ValueError
        fans = [(face[0], *pair) for face in corners for pair in pairwise(face[1:])]
        found = np.array(fans, dtype=np.int32)
    except (ValueError, OverflowError, IndexError):
        raise ValueError("a face is not its number of corners and as many numbers of vertices") from None
    if not len(found):
        raise ValueError("none of its faces has three corners")
    return found


def modelnet(data: Points, base: Path) -> Published:
    """A data set in ModelNet's layout: <class>/{train,test}/*.off below `base`. Classes are the sorted names of the folders
    that have a train; others, hidden ones and those that start with an underscore are not of it."""
    if not base.is_dir():
        data.missing(base)
    folders = sorted(f for f in base.iterdir() if f.name[0] not in "._" and (f / "train").is_dir())
    if not folders:
        data.missing(base, "holds no folders of classes with a train in them")
    parts: dict[str, tuple[list[Path], list[int]]] = {"train": ([], []), "test": ([], [])}
    for number, folder in enumerate(folders):
        for part, (paths, labels) in parts.items():
            if not (folder / part).is_dir():
                data.missing(folder / part)
            found = sorted(file for file in (folder / part).iterdir() if file.suffix.lower() == ".off" and file.name[0] != ".")
            if not found:
                data.missing(folder / part, "holds no .off files")
            paths += found
            labels += [number] * len(found)
    train, test = (
        Samples(data.clouds(paths, base), torch.tensor(labels, dtype=torch.int64)) for paths, labels in parts.values()
    )
    return Published(train, test, [folder.name for folder in folders])
