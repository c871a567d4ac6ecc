"""Files: bytes by path below a folder or a bucket. Whole or not at all: on a disk a file is written under a temporary name and
renamed; in a bucket one PUT is atomic."""

import contextlib
import os
import uuid
import warnings
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from bdray.spec import BadInput


class DamagedFile(UserWarning):
    """A file of the store was cut short or is not what its name says; it was ignored and will be made again."""


class Files:
    """Paths are relative to the URI. What the disk or the bucket refuses is a BadInput that names the store."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            if "://" in uri:
                self.system, root = fs.FileSystem.from_uri(uri)
            else:
                self.system, root = fs.LocalFileSystem(), os.path.abspath(uri)
        except (OSError, ValueError, ImportError, NotImplementedError) as error:
            raise self._refused("use", error) from None
        self.root = root.rstrip("/")

    def location(self) -> str:
        """The URI, or the absolute folder, that another process opens the same files by."""
        return self.uri if "://" in self.uri else self.root

    def info(self, path: str) -> fs.FileInfo:
        """Type, size and time of what is at a path, if anything."""
        try:
            return self.system.get_file_info(f"{self.root}/{path}")
        except OSError as error:
            raise self._refused(f"look for {path} in", error) from None

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        return bool(self.info(path).type == fs.FileType.File)

    def list(self, folder: str, recursive: bool = False) -> dict[str, fs.FileInfo]:
        """What is in a folder, by path; nothing where there is no folder."""
        selector = fs.FileSelector(f"{self.root}/{folder}", allow_not_found=True, recursive=recursive)
        try:
            infos = self.system.get_file_info(selector)
        except OSError as error:
            raise self._refused(f"list {folder} in", error) from None
        above = len(self.root.lstrip("/")) + 1
        return {str(info.path).lstrip("/")[above:]: info for info in sorted(infos, key=lambda info: info.path)}

    def get(self, path: str) -> bytes:
        """Raises FileNotFoundError where there is none."""
        try:
            with self.system.open_input_file(f"{self.root}/{path}") as file:
                return bytes(file.read())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._refused(f"read {path} in", error) from None

    def put(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write a file, in place of the one that is there."""
        final = f"{self.root}/{path}"
        try:
            if isinstance(self.system, fs.LocalFileSystem):
                _replace(final, data)
            else:
                with self.system.open_output_stream(final) as stream:
                    stream.write(data)
        except OSError as error:
            raise self._refused("write to", error) from None

    def delete(self, path: str) -> None:
        """Remove a file; it may be gone already."""
        try:
            self.system.delete_file(f"{self.root}/{path}")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._refused(f"delete {path} in", error) from None

    def delete_folder(self, path: str) -> None:
        """Remove a folder and all that is in it; it may be gone already."""
        try:
            self.system.delete_dir(f"{self.root}/{path}")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._refused(f"delete {path} in", error) from None

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
            with pq.ParquetFile(pa.BufferReader(self.get(path))) as file:
                return file.read(use_threads=file.metadata.num_rows > 1000)
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError) as error:
            return self.damaged(path, first_line(error))

    def damaged(self, path: str, why: str) -> Any:
        """Warn that a file is ignored; None, which stands for its content."""
        warnings.warn(f"ignored {path} in the store {self.uri!r}: {why}; it will be made again", DamagedFile, stacklevel=3)

    def _refused(self, verb: str, error: Exception) -> BadInput:
        why = getattr(error, "strerror", None) or first_line(error)
        return BadInput(f"cannot {verb} the store {self.uri!r}: {why}; name a writable folder or bucket with --store")


def first_line(error: Exception) -> str:
    """What a library says of an error, without the lines that follow."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _replace(final: str, data: bytes | pa.Buffer) -> None:
    folder, _, name = final.rpartition("/")
    os.makedirs(folder, exist_ok=True)
    part = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise
