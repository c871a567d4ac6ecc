"""Any videos arranged as one folder a class, train and test apart."""

import os
import warnings
from pathlib import Path
from typing import ClassVar

import torch

from bdray.data import Published
from bdray.data._folders import Folders
from bdray.data._videos import FORMATS, Videos
from bdray.samples import Samples
from bdray.spec import BadInput

UNREAD = (".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".ogv", ".gif")
"""Videos of which nobody can tell that the end is lost, or that lead a decoder elsewhere."""


class ClipFolder(Folders, Videos):
    """Classes are the sorted names of the class folders; videos in folders below a class folder belong to that class. Hidden
    files and folders are skipped, and so are folders whose name starts with an underscore and links to folders below a class
    folder; a warning names videos of other formats than `.avi`, `.mp4`, `.m4v` and `.mov`. What several clips have in common (a
    film, a person) is not known here: `held` and `limit` take them one by one."""

    home: ClassVar[str] = "no one place: these are your own videos"
    layout: ClassVar[str] = "train/<class>/*.mp4 and test/<class>/*.mp4 (or val; or avi, m4v, mov) in that folder"
    unit: ClassVar[str] = "a file"

    def read(self, root: Path) -> Published:
        _, train, test, names = self.parts(root)
        return Published(self._part(train, names), self._part(test, names), names)

    def _part(self, folder: Path, names: list[str]) -> Samples:
        paths: list[Path] = []
        labels: list[int] = []
        others: list[Path] = []
        for label, name in enumerate(names):
            found, odd = videos(folder / name)
            if not found:
                self.missing(folder / name, f"holds no videos{f' but {odd[0]}' if odd else ''}")
            paths += found
            labels += [label] * len(found)
            others += odd
        if others:
            warnings.warn(
                f"{self.name}: skipped {len(others)} file{'s' * (len(others) > 1)} of other formats than {' '.join(FORMATS)}, "
                f"such as {others[0]}; convert what belongs to the data set",
                stacklevel=2,
            )
        return Samples(self.clips(paths), torch.tensor(labels, dtype=torch.int64))

    def again(self, path: Path) -> str:
        return "make it anew, or remove it"


def videos(folder: Path) -> tuple[list[Path], list[Path]]:
    """The videos below a folder, sorted, and those of other formats. Raises BadInput where a folder cannot be listed, which is
    not to be taken for empty."""

    def fail(error: OSError) -> None:
        raise BadInput(
            f"cannot read the folder {error.filename} ({error.strerror}); make it readable, or move it away"
        ) from None

    found, others = [], []
    for here, below, files in os.walk(folder, onerror=fail):
        below[:] = [name for name in below if name[0] not in "._"]
        for path in (Path(here, name) for name in files if name[0] != "."):
            if path.suffix.lower() in FORMATS:
                found.append(path)
            elif path.suffix.lower() in UNREAD:
                others.append(path)
    return sorted(found), sorted(others)
