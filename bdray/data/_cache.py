"""A cache of what is slow to read: decoded clips, sampled clouds. One line of bytes each, on disk, mapped into memory by every
process that uses them, so that all of a machine share one copy, and what is not in use need not be in memory.

A folder of the user's cache folder holds the lines of one reader with one setting: `lines`, one after the other, and
`manifest.json`, which says of each file that was read its size, its times and its SHA-256, and of each SHA-256 its line. A line
counts once the manifest names it, which is written after the line is on the disk: what a killed process left behind does not
count. Lines are never changed, so that a process may go on with a file that another one reads anew.
"""

import contextlib
import fcntl
import hashlib
import inspect
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bdray.data import Data
from bdray.samples import Lines
from bdray.spec import BadInput, key_of

GIB = 2**30
AT_ONCE = 256
"""Lines that are read before the manifest is written again: so many are read anew after a kill."""
Signature = list[Any]


def folder() -> Path:
    """The user's cache folder, as freedesktop.org has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bdray"


class Reading(NamedTuple):
    """What a reader makes of files: of each one array."""

    noun: str
    """Of the arrays: clips, clouds."""
    setting: dict[str, Any]
    """All that the arrays depend on beside the files and their names."""
    names: Sequence[str]
    """Of each file, as far as its array depends on that."""
    paths: Sequence[Path]
    shape: tuple[int, ...]
    dtype: str
    threads: int
    one: Callable[[int], np.ndarray]
    """The array of the file at this position. Raises BadInput that names the file."""
    all: Callable[[], np.ndarray]
    """All arrays, in memory. Raises BadInput where there is not enough."""

    @property
    def size(self) -> int:
        """Bytes of one array."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def read(data: Data, most: float, reading: Reading) -> Tensor | Lines:
    """The arrays of all files, in order, from the cache, of which those that it lacks become part; in memory where `most`, the
    GiB that the cache may take, is 0. Raises what the reader raises, and BadInput where the arrays alone take more than
    `most`. A cache that cannot be written is a warning, and the arrays are read into memory."""
    needed = len(reading.paths) * reading.size
    if not most or not needed:
        return torch.from_numpy(reading.all())
    if needed > most * GIB:
        raise BadInput(
            f"{data.name}.cache: got {most:g} GiB, but {len(reading.paths)} {reading.noun} take {needed / GIB:.3g}; raise it, "
            "or read fewer or smaller ones"
        )
    code = {"reader": data.name, "code": _code(type(data)), "shape": list(reading.shape), "dtype": reading.dtype}
    place = folder() / reading.noun
    try:
        return _Cache(place / key_of({**reading.setting, **code}), reading, most).lines()
    except OSError as error:
        warnings.warn(
            f"the cache {place} cannot be used ({error.strerror or error}), so that {reading.noun} are read into memory; mend "
            f"that, name another folder with XDG_CACHE_HOME, or set {data.name}.cache=0",
            stacklevel=2,
        )
        return torch.from_numpy(reading.all())


class _Cache:
    """The folder of one reader with one setting."""

    def __init__(self, place: Path, reading: Reading, most: float) -> None:
        self.place, self.reading, self.most = place, reading, most
        self.file, self.list = place / "lines", place / "manifest.json"
        self.files: dict[str, tuple[Signature, str]] = {}
        self.numbers: dict[str, int] = {}

    def lines(self) -> Lines:
        """Mapped, once they are all there."""
        self._load()
        found, news = self._known()
        if None in found or news:
            try:
                with self._alone():
                    self._load()
                    self._fill()
            except OSError:
                if None in found:
                    raise
                # all lines are there, and only that their files are unchanged could not be written down
        found, _ = self._known()
        with contextlib.suppress(OSError):
            os.utime(self.place)  # see _make_room
        count = max(self.numbers.values()) + 1
        mapped = np.memmap(self.file, self.reading.dtype, "c", shape=(count, *self.reading.shape))
        return Lines(torch.from_numpy(mapped), torch.tensor(found))

    def _load(self) -> None:
        """The manifest as it stands now; an empty one where it is damaged, or the lines are fewer than it names."""
        self.files, self.numbers = {}, {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            found = json.loads(self.list.read_bytes())
            numbers = {str(line): int(number) for line, number in found["lines"].items()}
            files = {str(path): (list(signature), str(sha)) for path, (signature, sha) in found["files"].items()}
            if self.file.stat().st_size >= self.reading.size * (max(numbers.values()) + 1) and min(numbers.values()) >= 0:
                self.files, self.numbers = files, numbers

    def _known(self) -> tuple[list[int | None], bool]:
        """The line of each file, None where it has to be read, and whether a file has other times than the manifest says."""
        found: list[int | None] = []
        news = False
        for name, path in zip(self.reading.names, self.reading.paths, strict=True):
            before, sha = self.files.get(str(path.absolute()), (None, ""))
            now = _signature(path)
            if before is not None and now != before and now:
                news, sha = True, _sum(path) if self._line(name, sha) is not None else ""
            found.append(self._line(name, sha))
        return found, news

    def _line(self, name: str, sha: str) -> int | None:
        return self.numbers.get(_id(name, sha)) if sha else None

    def _fill(self) -> None:
        """Read what is lacking, some at a time."""
        reading = self.reading
        self._make_room(self._known()[0].count(None) * reading.size)
        found, news = self._known()
        todo = [at for at, line in enumerate(found) if line is None]
        free = max(self.numbers.values(), default=-1) + 1
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            bar = tqdm(None, f"reading {reading.noun}", len(todo), leave=False, disable=None if len(todo) > 1000 else True)
            with bar, ThreadPoolExecutor(reading.threads) as pool:
                for start in range(0, len(todo), AT_ONCE):
                    for at, signature, sha, array in pool.map(self._read, todo[start : start + AT_ONCE]):
                        self.files[str(reading.paths[at].absolute())] = (signature, sha)
                        line = _id(reading.names[at], sha)
                        if array is not None and line not in self.numbers:
                            _write(handle, array.tobytes(), free * reading.size)
                            self.numbers[line] = free
                            free += 1
                        bar.update()
                    os.fsync(handle)
                    self._save()
            if news and not todo:
                for name, path in zip(reading.names, reading.paths, strict=True):
                    if (signature := _signature(path)) and self._line(name, sha := _sum(path)) is not None:
                        self.files[str(path.absolute())] = (signature, sha)
                self._save()
        except OSError:
            self._load()  # what the manifest on the disk says
            with contextlib.suppress(OSError):
                os.ftruncate(handle, (max(self.numbers.values(), default=-1) + 1) * reading.size)
            raise
        finally:
            os.close(handle)

    def _read(self, at: int) -> tuple[int, Signature, str, np.ndarray | None]:
        """The array of a file, and what it was read from; no array where the same file under another name has its line."""
        path = self.reading.paths[at]
        before = _signature(path)
        sha = _sum(path) if before else ""
        if self._line(self.reading.names[at], sha) is not None:
            return at, before, sha, None
        array = np.ascontiguousarray(self.reading.one(at), dtype=self.reading.dtype)
        if _signature(path) != before:
            raise BadInput(f"{path} changed while it was read; run the command again once nothing writes to it")
        return at, before, sha, array

    def _save(self) -> None:
        """Write the manifest, whole or not at all."""
        part = self.list.with_suffix(".part")
        with part.open("w") as file:
            json.dump({"files": self.files, "lines": self.numbers}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.list)

    def _make_room(self, more: int) -> None:
        """Remove the caches that were used longest ago until there is room for `more` bytes: a process that has mapped one
        goes on with it. So goes this one itself where too much of it is of files that changed since."""
        own = self.file.stat().st_size if self.file.exists() else 0
        if own + more > self.most * GIB:
            shutil.rmtree(self.place)
            self._load()
        self.place.mkdir(parents=True, exist_ok=True)
        others = [other for other in self.place.parent.iterdir() if other.is_dir() and other != self.place]
        sizes = {other: sum(file.stat().st_size for file in other.iterdir()) for other in others}
        for other in sorted(others, key=lambda other: other.stat().st_mtime):
            if own + more + sum(sizes.values()) <= self.most * GIB:
                break
            shutil.rmtree(other, ignore_errors=True)
            del sizes[other]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process fills this cache: the second of two waits, and finds what the first has read."""
        self.place.parent.mkdir(parents=True, exist_ok=True)
        with self.place.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _write(handle: int, data: bytes, at: int) -> None:
    """All of it: a disk that fills up takes a part first. Not through the mapping, where a full disk kills the process."""
    view = memoryview(data)
    while view:
        done = os.pwrite(handle, view, at)
        view, at = view[done:], at + done


def _signature(path: Path) -> Signature:
    """Size, times and number of a file, or of all in a folder; empty where it is not there."""
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        found = [(file.stat(), str(file.relative_to(path))) for file in files]
    except OSError:
        return []
    return [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for stat, name in found]


def _sum(path: Path) -> str:
    """The SHA-256 of a file, or of the names and files of a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    each = [(str(file.relative_to(path)), _sum(file)) for file in sorted(path.rglob("*")) if file.is_file()]
    return hashlib.sha256(json.dumps(each).encode()).hexdigest()


def _id(name: str, sha: str) -> str:
    return sha if not name else hashlib.sha256(f"{name}\0{sha}".encode(errors="surrogateescape")).hexdigest()


def _code(reader: type[Data]) -> str:
    """A hash of the modules that read, and of the packages that decode: other code may read other values."""
    found = hashlib.sha256()
    for each in reader.__mro__:
        if issubclass(each, Data) and each is not Data:
            found.update(Path(inspect.getfile(each)).read_bytes())
    for package in ("av", "open3d", "numpy", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            found.update(f"{package} {version(package)}".encode())
    return found.hexdigest()
