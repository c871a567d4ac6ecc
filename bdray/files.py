"""Files: bytes by path below a folder or a bucket. Whole or not at all: on a disk a file is written under a temporary name and
renamed; in a bucket an upload shows once it is complete."""

import contextlib
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from bdray.filesystems import open_uri, place, uploads_in_parts, with_defaults
from bdray.refusal import first_line, refusal, without_secrets
from bdray.spec import BadInput

AT_ONCE = 16
"""Requests to a bucket at once: it answers a single small one in tens of milliseconds."""
SMALL = 8 * 2**20
"""Bytes that pyarrow uploads in one request, whatever its version."""
BUCKETS = ("s3", "gcs", "abfs")
"""pyarrow's file systems that have one, by their type_name."""

T = TypeVar("T")


class DamagedFile(UserWarning):
    """A file of the store was cut short or is not what its name says; it was ignored and will be made again."""


class Files:
    """Paths are relative to the URI. What the disk or the bucket refuses is a BadInput that names the store."""

    def __init__(self, uri: str) -> None:
        self.uri = uri = place(uri)
        self.on_damage: Callable[[str, str], None] = self._warn
        """Called with the path and what is wrong with it."""
        self._opened = with_defaults(uri)
        try:
            self.system, root = open_uri(self._opened)
        except (OSError, ValueError, ImportError, NotImplementedError) as error:
            raise self._refused("use", error) from None
        self._large = uploads_in_parts(self._opened) if self.system.type_name == "s3" else self.system
        self.root = root.rstrip("/")
        # fsspec's file systems raise whatever their libraries do.
        self._errors = (Exception,) if isinstance(self.system, fs.PyFileSystem) else (OSError, pa.ArrowException)
        if self.system.type_name in BUCKETS:
            self._check_bucket()

    def location(self, below: str = "") -> str:
        """The URI, or the absolute folder, that another process opens the same files by, or a folder below."""
        if "://" not in self.uri:
            return f"{self.root}/{below}".rstrip("/")
        parts = urlsplit(self._opened)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{below}".rstrip("/")).geturl() if below else self._opened

    def folder(self) -> Path | None:
        """The folder on a disk of this machine that the paths are relative to; None in a bucket."""
        return Path(self.root) if isinstance(self.system, fs.LocalFileSystem) else None

    def info(self, path: str) -> fs.FileInfo:
        """Type, size and time of what is at a path, if anything."""
        with self._refusing(f"look for {path} in"):
            return self.system.get_file_info(f"{self.root}/{path}")

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        return bool(self.info(path).type == fs.FileType.File)

    def list(self, folder: str, recursive: bool = False) -> dict[str, fs.FileInfo]:
        """What is in a folder, by path; nothing where there is no folder."""
        selector = fs.FileSelector(f"{self.root}/{folder}".rstrip("/"), allow_not_found=True, recursive=recursive)
        for left in reversed(range(100)):
            try:
                with self._refusing(f"list {folder} in"):
                    infos = self.system.get_file_info(selector)
                break
            except FileNotFoundError:
                # A folder that is made while a disk is looking for it is neither found nor, a moment later, missing.
                if not left:
                    raise
        above = len(self.root.lstrip("/")) + 1
        return {str(info.path).lstrip("/")[above:]: info for info in sorted(infos, key=lambda info: info.path)}

    def get(self, path: str) -> bytes:
        """Raises FileNotFoundError where there is none. In a bucket, one that is just being replaced may come garbled."""
        with self._refusing(f"read {path} in"):
            if isinstance(self.system, fs.PyFileSystem):  # whose own open takes a network that is down for a missing file
                return bytes(self.system.handler.fs.cat_file(f"{self.root}/{path}"))
            try:
                with self.system.open_input_file(f"{self.root}/{path}") as file:
                    return bytes(file.read())
            except FileNotFoundError:
                raise
            except self._errors:
                if self.exists(path):
                    raise
                raise FileNotFoundError(path) from None  # gone since it was opened, which a bucket says in another way

    def put(self, path: str, data: bytes | pa.Buffer, durable: bool = True) -> None:
        """Write a file, in place of the one that is there. One that is not durable may be lost with the power, on a disk."""
        final, buffer = f"{self.root}/{path}", pa.py_buffer(data)
        try:
            if isinstance(self.system, fs.LocalFileSystem):
                _replace(final, buffer, durable)
            elif isinstance(self.system, fs.PyFileSystem):
                self.system.handler.fs.makedirs(final.rpartition("/")[0], exist_ok=True)
                self.system.handler.fs.pipe_file(final, bytes(buffer))
            else:
                self._upload(final, buffer)
        except self._errors as error:
            raise self._refused("write to", error) from None

    def delete(self, path: str) -> None:
        """Remove a file; it may be gone already."""
        with contextlib.suppress(FileNotFoundError), self._refusing(f"delete {path} in"):
            self.system.delete_file(f"{self.root}/{path}")

    def delete_all(self, paths: Iterable[str]) -> None:
        """Remove files; some may be gone already."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(self.delete, paths):
                pass

    def delete_folder(self, path: str) -> None:
        """Remove a folder and all that is in it; it may be gone already."""
        with contextlib.suppress(FileNotFoundError), self._refusing(f"delete {path} in"):
            self.system.delete_dir(f"{self.root}/{path}")

    def now(self) -> int:
        """Nanoseconds by the clock that stamps the files, which is the disk's or the bucket's, not this machine's."""
        name = f".now.{uuid.uuid4().hex}"
        self.put(name, b"", durable=False)
        stamp = self.info(name).mtime_ns
        self.delete(name)
        return time.time_ns() if stamp is None else int(stamp)

    def put_table(self, path: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        sink = pa.BufferOutputStream()
        # What makes a large file small makes that of a single row twice as large and three times as slow to read.
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        pq.write_table(table, sink, **(plain if len(table) == 1 else {"compression": "zstd"}))
        self.put(path, sink.getvalue())

    def table(self, path: str) -> pa.Table | None:
        """A Parquet file; None where there is none, and with a warning where it is damaged."""
        try:
            return self.parquet(path, read_table)
        except FileNotFoundError:
            return None

    def parquet(self, path: str, read: Callable[[pq.ParquetFile], T]) -> T | None:
        """What `read` makes of a Parquet file; None, with a warning, where it is damaged. Raises FileNotFoundError."""

        def parse(data: bytes) -> T:
            with pq.ParquetFile(pa.BufferReader(data)) as file:
                return read(file)

        return self.parsed(path, parse, (pa.ArrowException, OSError))

    def parsed(self, path: str, parse: Callable[[bytes], T], errors: tuple[type[Exception], ...]) -> T | None:
        """What `parse` makes of a file; None, with a warning, where it raises one of these. Raises FileNotFoundError."""
        before = None
        while True:
            data = self.get(path)
            try:
                return parse(data)
            except errors as error:
                # pyarrow mixes up the old size and the new bytes of an object that is replaced while it reads.
                if data == before:
                    return self.damaged(path, first_line(error))
                before = data

    def damaged(self, path: str, why: str) -> Any:
        """Say that a file is ignored; None, which stands for its content."""
        self.on_damage(path, why)

    def _warn(self, path: str, why: str) -> None:
        shown = without_secrets(self.uri)
        warnings.warn(f"ignored {path} in the store {shown!r}: {why}; it will be made again", DamagedFile, stacklevel=4)

    def _upload(self, final: str, buffer: pa.Buffer) -> None:
        """In a thread of its own, out of reach of Ctrl-C: pyarrow completes an object even if it got only a part of it."""

        def upload() -> None:
            stream = (self.system if buffer.size < SMALL else self._large).open_output_stream(final)
            try:
                stream.write(buffer)
            except BaseException:
                with contextlib.suppress(OSError):  # of an upload that failed: without it, pyarrow prints it once more
                    stream.close()
                raise
            stream.close()

        with ThreadPoolExecutor(1, "upload") as alone:
            alone.submit(upload).result()

    def _check_bucket(self) -> None:
        """One that does not exist lists as an empty folder does."""
        try:
            if self.system.get_file_info(fs.FileSelector(self.root, allow_not_found=True)):
                return
        except self._errors as error:
            raise self._refused("open", error) from None
        bucket = self.root.partition("/")[0]
        with contextlib.suppress(OSError, pa.ArrowException):  # who may list a folder of it may not look at all of it
            if self.system.get_file_info(bucket).type == fs.FileType.NotFound:
                missing = FileNotFoundError(f"there is no bucket {bucket!r}")
                raise self._refused("open", missing) from None

    @contextlib.contextmanager
    def _refusing(self, verb: str) -> Iterator[None]:
        """What goes wrong within is a BadInput, but for a file that is not there."""
        try:
            yield
        except FileNotFoundError:
            raise
        except self._errors as error:
            raise self._refused(verb, error) from None

    def _refused(self, verb: str, error: Exception) -> BadInput:
        return refusal(verb, self.uri, error)


def read_table(file: pq.ParquetFile, columns: list[str] | None = None) -> pa.Table:
    """All of a Parquet file, or some of its columns; in one thread where it is small, which is faster."""
    return file.read(columns, use_threads=file.metadata.num_rows > 1000)


def _replace(final: str, data: pa.Buffer, durable: bool) -> None:
    folder, _, name = final.rpartition("/")
    part = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        os.makedirs(folder, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise
