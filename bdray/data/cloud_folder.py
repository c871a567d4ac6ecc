"""Any point clouds and meshes arranged as one folder a class, train and test apart."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from bdray.data import Published, Samples
from bdray.data._clouds import Clouds
from bdray.data._folders import Folders
from bdray.data._points import read_off
from bdray.packages import need
from bdray.seeds import seed_of

KINDS = (".off", ".ply", ".obj", ".pcd", ".npy")


class CloudFolder(Folders, Clouds):
    """Classes are the sorted names of the class folders; hidden ones and those that start with an underscore are skipped, and
    so are files of other kinds than `.off`, `.ply`, `.obj`, `.pcd` and `.npy`. A file with faces is a mesh, whose surface is
    sampled uniformly, the same points for every seed; of any other, `sampling` says which points are taken. `.npy` is an
    array with a line a point, whose first three numbers count; colours and normals of a file are left alone."""

    home: ClassVar[str] = "no one place: these are your own"
    layout: ClassVar[str] = "train/<class>/*.ply and test/<class>/*.ply (or val; or off, obj, pcd, npy) in that folder"
    unit: ClassVar[str] = "a file"

    sampling: Literal["first", "random", "farthest"] = "random"
    """Of a file without faces: random points, the same ones for every seed; its first ones; or by farthest-point sampling, from
    the first one on. A scanner's first points are one corner of the object."""

    def read(self, root: Path) -> Published:
        home, train, test, names = self.parts(root)
        return Published(self._part(train, names, home), self._part(test, names, home), names)

    def _part(self, folder: Path, names: list[str], home: Path) -> Samples:
        paths, labels = [], []
        for label, name in enumerate(names):
            every = sorted((folder / name).iterdir())
            found = [file for file in every if file.suffix.lower() in KINDS and file.name[0] != "."]
            if not found:
                self.missing(folder / name, f"holds no {', '.join(KINDS[:-1])} or {KINDS[-1]} files")
            paths += found
            labels += [label] * len(found)
        return Samples(self.clouds(paths, home), torch.tensor(labels, dtype=torch.int64))

    def again(self, path: Path) -> str:
        return "mend it, or remove it"

    def parsed(self, path: Path, name: str) -> np.ndarray:
        kind = path.suffix.lower()
        if kind == ".npy":
            return _array(path)
        if kind == ".off":
            return self._surface(*read_off(path), name)
        o3d = need("open3d")
        with path.open("rb"), o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):  # raises what open3d hides
            mesh = o3d.geometry.TriangleMesh() if kind == ".pcd" else o3d.io.read_triangle_mesh(str(path))
            if mesh.has_triangles():
                return self._surface(np.asarray(mesh.vertices), np.asarray(mesh.triangles), name)
            found = np.asarray(mesh.vertices)
            if not len(found) and kind != ".obj":
                found = np.asarray(o3d.io.read_point_cloud(str(path), remove_nan_points=False).points)
        if not len(found):
            raise ValueError(f"open3d reads no points in it as {kind}")
        return found

    def _surface(self, vertices: Any, triangles: Any, name: str) -> np.ndarray:
        """Points of a mesh, as many as are wanted."""
        if not np.isfinite(vertices).all():
            raise ValueError(f"vertex {int(np.flatnonzero(~np.isfinite(vertices).all(1))[0])} is not finite")
        return self._sampled(need("open3d"), vertices, triangles, seed_of(0, "points", name) % 2**31)


def _array(path: Path) -> np.ndarray:
    """The points of a .npy file. Raises ValueError where it is no such array."""
    try:
        found = np.load(path, allow_pickle=False)
    except EOFError:
        raise ValueError("it is empty") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.shape[1] < 3 or found.dtype.kind not in "fiu":
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else "no array"
        raise ValueError(f"it is {what}, expected numbers [points, 3]")
    return found[:, :3]
