"""What the readers share whose files are clouds already: which of a file's points are taken."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bdray.clouds import farthest
from bdray.data._cache import Reading, read
from bdray.data._points import Points, in_unit_sphere
from bdray.samples import Lines
from bdray.seeds import rng
from bdray.spec import BadInput


class Clouds(Points):
    """One cloud a file, which has as many points as asked for, or more."""

    sampling: Literal["first", "random", "farthest"] = "first"
    """Which points of a file are taken: its first ones, as the field's loaders do; random ones, the same for every seed; or by
    farthest-point sampling, from the first one on."""

    @abstractmethod
    def parsed(self, path: Path, name: str) -> np.ndarray:
        """The points of a file, [at least P, 3]; fewer where it has fewer. Raises OSError, and ValueError with what is
        wrong."""
        raise NotImplementedError

    def clouds(self, paths: Sequence[Path], base: Path) -> Tensor | Lines:
        names = [path.relative_to(base).as_posix() for path in paths]
        reading = Reading(
            *("clouds", {"points": self.points, "sampling": self.sampling}, names, paths, (self.points, 3), "float32", 1),
            one=lambda at: self._cloud(paths[at], names[at]),
            all=lambda: self._in_memory(paths, names),
        )
        return read(self, self.cache, reading)

    def _cloud(self, path: Path, name: str) -> np.ndarray:
        try:
            found = self.parsed(path, name)
            if len(found) >= self.points and not np.isfinite(found).all():
                raise ValueError(f"point {int(np.flatnonzero(~np.isfinite(found).all(1))[0])} is not finite")
        except BadInput:
            raise
        except OSError as error:
            raise BadInput(f"cannot read the cloud {path} ({error.strerror or error}); mend that, or remove it") from None
        except ValueError as error:
            raise BadInput(f"the cloud {path} is damaged ({error}); {self.again(path)}") from None
        if len(found) < self.points:
            raise BadInput(f"{self.name}.points: got {self.points}, but the cloud {path} has {len(found)}; lower it")
        found = found[self._taken(found, name)].astype(np.float64)
        if (found == found[0]).all():
            raise BadInput(f"the cloud {path} is damaged (all its points are one); {self.again(path)}")
        return in_unit_sphere(found[None])[0].astype(np.float32)

    def _taken(self, cloud: np.ndarray, name: str) -> np.ndarray:
        """Positions of the points that are taken."""
        if self.sampling == "random":
            return torch.randperm(len(cloud), generator=rng(0, "points", name))[: self.points].numpy()
        if self.sampling == "farthest":
            whole = torch.from_numpy(np.ascontiguousarray(cloud, dtype=np.float64))[None]
            return farthest(whole, self.points, torch.zeros(1, dtype=torch.int64))[0].numpy()
        return np.arange(self.points)
