"""Miniatures that are written to disk in a real layout on first use, so that they are read as the real data sets are."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bdray.spec import BadInput


def made(root: Path, name: str, write: Callable[[Path], None]) -> Path:
    """The folder of a miniature, whole or not there at all: `name` below the data folder or, where that cannot be written,
    below the user's cache folder. `write` gets an empty folder to fill, which is renamed once it is full; of two processes
    that make a miniature at once, one makes it in vain. Raises BadInput where neither folder can be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bdray"
    places = [place / name for place in (root, cache)]
    if found := next((place for place in places if place.is_dir()), None):
        return found
    why = ""
    for place in places:
        try:
            if place.parent == cache:
                cache.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place.parent))
        except OSError as error:
            why = f"{place.parent} ({error.strerror})"
            continue
        try:
            write(draft)
            draft.chmod(0o755)  # mkdtemp's is its owner's alone
            with contextlib.suppress(OSError):
                draft.rename(place)
            if not place.is_dir():
                raise BadInput(f"cannot make {name} in {place.parent}; move away what is there under that name")
            return place
        except OSError as error:
            why = f"{place.parent} ({error.strerror})"
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    raise BadInput(f"cannot write the miniature {name} to {root} nor to {why}; name a folder that can be written with --data")


def own_folder(path: Path, name: str) -> Path:
    """The folder of the miniature that a path lies in."""
    return next(place for place in (path, *path.parents) if place.name == name)
