"""Files: bytes by path below a folder or a bucket. Whole or not at all: on a disk a file is written under a temporary name and
renamed; in a bucket an upload shows once it is complete."""

import contextlib
import os
import stat
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from bdray.spec import BadInput
from bdray.store.filesystems import open_uri, place, uploads_in_parts, with_defaults
from bdray.store.refusal import first_line, refusal, shown
from bdray.store.seal import PLAIN, note_of, sealed
from bdray.wording import printable

AT_ONCE = 16
"""Requests to a bucket at once: it answers a single small one in tens of milliseconds."""
SMALL = 8 * 2**20
"""Bytes that pyarrow uploads in one request, whatever its version."""
BUCKETS = ("s3", "gcs", "abfs")
"""pyarrow's file systems that have one, by their type_name."""
MOST = 2**28
"""Bytes that a Parquet file may take in memory however few rows it has, and ..."""
MOST_A_ROW = 2**13
"""... bytes a row beyond that. Parquet holds a text that is repeated once: a small file may be gigabytes when it is read."""
AT_A_TIME = 2**12
"""Rows that are read before what they take is looked at."""
LINK = "is a link, and no link in a store is followed; put what it points to in its place, or remove it"
UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError)
"""What pyarrow raises on a file that is cut short, damaged or forged."""

T = TypeVar("T")


class DamagedFile(UserWarning):
    """A file of the store was cut short or is not what its name says; it was ignored and will be made again."""


class Files:
    """Paths are relative to the URI. What the disk or the bucket refuses is a BadInput that names the store."""

    def __init__(self, uri: str) -> None:
        uri = place(uri)
        self.uri = shown(uri)
        """As it may be printed; `location` is what opens the store."""
        self.on_damage: Callable[[str, str], None] = self._warn
        """Called with the path and what is wrong with it."""
        self.bare: set[str] = set()
        """Tables that were read and have no seal."""
        self._opened = with_defaults(uri)
        try:
            self.system, root = open_uri(self._opened)
        except (OSError, ValueError, ImportError, NotImplementedError) as error:
            raise refusal("use", uri, error) from None
        self._large = uploads_in_parts(self._opened) if self.system.type_name == "s3" else self.system
        self.root = root.rstrip("/")
        # fsspec's file systems raise whatever their libraries do.
        self._errors = (Exception,) if isinstance(self.system, fs.PyFileSystem) else (OSError, pa.ArrowException)
        if self.system.type_name in BUCKETS:
            self._check_bucket()

    def location(self, below: str = "") -> str:
        """The URI, or the absolute folder, that another process opens the same files by, or a folder below. It may hold a key
        or a token: never to be printed, logged or stored."""
        if "://" not in self._opened:
            return f"{self.root}/{below}".rstrip("/")
        parts = urlsplit(self._opened)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{below}".rstrip("/")).geturl() if below else self._opened

    def folder(self) -> Path | None:
        """The folder on a disk of this machine that the paths are relative to; None in a bucket."""
        return Path(self.root) if isinstance(self.system, fs.LocalFileSystem) else None

    def info(self, path: str) -> fs.FileInfo:
        """Type, size and time of what is at a path, if anything."""
        with self._refusing(f"look for {path} in"):
            return self.system.get_file_info(self._at(path))

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        return bool(self.info(path).type == fs.FileType.File)

    def list(self, folder: str, recursive: bool = False) -> dict[str, fs.FileInfo]:
        """What is in a folder, by path; nothing where there is no folder. A link is said to be damaged and is not followed: its
        type is Unknown, so that nothing reads it and nothing looks behind it."""
        if isinstance(self.system, fs.LocalFileSystem):
            with self._refusing(f"list {folder} in"):
                return self._listed(folder, recursive)
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
        found = {str(info.path).lstrip("/")[above:]: info for info in sorted(infos, key=lambda info: info.path)}
        for path, info in found.items():
            if info.type == fs.FileType.Unknown:
                self.damaged(path, LINK)
        return found

    def _listed(self, folder: str, recursive: bool) -> dict[str, fs.FileInfo]:
        """As `list`, on a disk, where pyarrow follows links."""
        found: dict[str, fs.FileInfo] = {}
        parts = [part for part in folder.split("/") if part]
        for above in ("/".join(parts[: depth + 1]) for depth in range(len(parts))):
            if os.path.islink(self._at(above)):
                self.damaged(above, LINK)
                return {}
        waiting = ["/".join(parts)]
        while waiting:
            here = waiting.pop()
            try:
                entries = list(os.scandir(self._at(here)))
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                if os.path.exists(self._at(here)):  # and not what is above it
                    self.damaged(here, "is a file, and a folder should be there")
                continue
            for entry in entries:
                path = f"{here}/{entry.name}".lstrip("/")
                try:
                    path.encode()
                    about = entry.stat(follow_symlinks=False)
                except UnicodeEncodeError:
                    self.damaged(path, "has a name that is no UTF-8")
                    continue
                except FileNotFoundError:  # gone meanwhile
                    continue
                kind = _KINDS.get(stat.S_IFMT(about.st_mode), fs.FileType.Unknown)
                if entry.is_symlink():
                    self.damaged(path, LINK)
                size = about.st_size if kind == fs.FileType.File else None
                found[path] = fs.FileInfo(self._at(path), kind, mtime_ns=about.st_mtime_ns, size=size)
                if recursive and kind == fs.FileType.Directory:
                    waiting.append(path)
        return dict(sorted(found.items()))

    def get(self, path: str) -> bytes:
        """Raises FileNotFoundError where there is none. In a bucket, one that is just being replaced may come garbled."""
        with self._refusing(f"read {path} in"):
            if isinstance(self.system, fs.PyFileSystem):  # whose own open takes a network that is down for a missing file
                return bytes(self.system.handler.fs.cat_file(self._at(path)))
            if isinstance(self.system, fs.LocalFileSystem):
                return self._content(path)
            try:
                with self.system.open_input_file(self._at(path)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                raise
            except self._errors:
                if self.exists(path):
                    raise
                raise FileNotFoundError(path) from None  # gone since it was opened, which a bucket says in another way

    def _content(self, path: str) -> bytes:
        """As `get`, on a disk: a pipe, which never ends, and a folder are no files."""
        try:
            file = open(os.open(self._at(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115
        except NotADirectoryError:
            raise FileNotFoundError(path) from None
        with file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                self.damaged(path, "is no file")
                raise FileNotFoundError(path)
            return file.read()

    def put(self, path: str, data: bytes | pa.Buffer, durable: bool = True) -> None:
        """Write a file, in place of the one that is there. One that is not durable may be lost with the power, on a disk."""
        final, buffer = self._at(path), pa.py_buffer(data)
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
            self.system.delete_file(self._at(path))

    def delete_all(self, paths: Iterable[str]) -> None:
        """Remove files; some may be gone already."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(self.delete, paths):
                pass

    def delete_folder(self, path: str) -> None:
        """Remove a folder and all that is in it; it may be gone already."""
        with contextlib.suppress(FileNotFoundError), self._refusing(f"delete {path} in"):
            self.system.delete_dir(self._at(path))

    def now(self) -> int:
        """Nanoseconds by the clock that stamps the files, which is the disk's or the bucket's, not this machine's."""
        name = f".now.{uuid.uuid4().hex}"
        self.put(name, b"", durable=False)
        stamp = self.info(name).mtime_ns
        self.delete(name)
        return time.time_ns() if stamp is None else int(stamp)

    def put_table(self, path: str, table: pa.Table, note: bytes = PLAIN) -> None:
        """Write a Parquet file, with a checksum of every page and a seal with this note."""
        sink = pa.BufferOutputStream()
        # What makes a large file small makes that of a single row twice as large and three times as slow to read.
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        how = plain if len(table) == 1 else {"compression": "zstd"}
        pq.write_table(table, sink, write_page_checksum=True, **how)
        self.put(path, sealed(bytes(sink.getvalue()), note))

    def table(self, path: str) -> pa.Table | None:
        """A Parquet file; None where there is none, and with a warning where it is damaged."""
        try:
            return self.parquet(path, lambda file, note: read_table(file, sound=note is not None))
        except FileNotFoundError:
            return None

    def parquet(self, path: str, read: Callable[[pq.ParquetFile, bytes | None], T]) -> T | None:
        """What `read` makes of a Parquet file and of the note of its seal (None: it has no seal); None, with a warning, where
        it is damaged. Raises FileNotFoundError."""

        def parse(data: bytes) -> T:
            note = note_of(data)
            if note is None:
                self.bare.add(path)
            with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
                texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
                if note is not None or file.metadata.num_rows <= 1:
                    return read(file, note)
            # As a dictionary a text that is repeated is one, and what it would take is known before it is written out.
            with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts, page_checksum_verification=True) as file:
                return read(file, note)

        return self.parsed(path, parse, UNREADABLE)

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
        self.on_damage(path, printable(why))

    def _warn(self, path: str, why: str) -> None:
        then = "" if why == LINK else "; it will be made again"
        warnings.warn(f"ignored {printable(path)} in the store {self.uri!r}: {why}{then}", DamagedFile, stacklevel=4)

    def _at(self, path: str) -> str:
        """Where the file system has a path of the store. Raises BadInput for one that leads out of the store."""
        if ".." in path.split("/") or "\0" in path:
            raise BadInput(f"got the path {printable(path)!r} in the store {self.uri!r}, expected one that stays in it")
        return f"{self.root}/{path}".rstrip("/")

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
        return refusal(printable(verb), self._opened, error)


def read_table(file: pq.ParquetFile, columns: list[str] | None = None, sound: bool = True) -> pa.Table:
    """All of a Parquet file, or some of its columns; in one thread where it is small, which is faster. One that is not known to
    be `sound` is looked at in every value. Raises ArrowInvalid where it takes too much memory, or is not sound."""
    about, rows = file.metadata, file.metadata.num_rows
    if sum(about.row_group(at).total_byte_size for at in range(about.num_row_groups)) > MOST + MOST_A_ROW * rows:
        raise pa.ArrowInvalid(f"takes too much memory for {rows} rows")
    table = file.read(columns, use_threads=False) if rows == 1 else _in_parts(file, columns)
    if not sound:
        table.validate(full=True)
    return table


def _in_parts(file: pq.ParquetFile, columns: list[str] | None) -> pa.Table:
    """What many rows take is known only when they are read."""
    batches, size, seen, rows = [], 0, 0, file.metadata.num_rows
    for batch in file.iter_batches(AT_A_TIME, columns=columns, use_threads=rows > 1000):
        size, seen = size + sum(map(_size, batch.columns)), seen + len(batch)
        if size > MOST + MOST_A_ROW * seen:
            raise pa.ArrowInvalid(f"takes {size >> 20} MiB of memory for {seen} of its {rows} rows")
        batches.append(_plain(batch))
    return pa.Table.from_batches(batches) if batches else file.read(columns)


def _size(column: pa.Array) -> int:
    """Bytes that it takes once its values are written out."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    if not _is_text(column.type.value_type):
        return len(column) * max(1, int(column.dictionary.nbytes))
    return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0) + column.indices.nbytes


def _is_text(of: pa.DataType) -> bool:
    return of in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """With the values of each column written out where it refers to a dictionary, for what they really take."""
    plain = [each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in batch.columns]
    return pa.RecordBatch.from_arrays(plain, batch.schema.names)


_KINDS = {stat.S_IFREG: fs.FileType.File, stat.S_IFDIR: fs.FileType.Directory}


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
