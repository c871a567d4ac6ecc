"""Store: rows, curves and victims by key, in a folder or a bucket, behind one URI.

    rows/<sweep>/<key>.parquet      one experiment, written once, whole or not at all
    rows/<sweep>.parquet            the same rows of a finished sweep in one file
    curves/<key>.parquet            step, metric, value
    tables/<kind>/<key>.parquet     what a figure needs beyond curves
    victims/<key>/                  model.safetensors  attack.safetensors  victim.json (last: it makes the victim complete)
    checkpoints/<key>.safetensors   the last finished epoch of a victim in training

Nothing here is a pickle. On a disk a file is written under a temporary name and renamed; in a bucket one PUT is atomic.
What is half-written or foreign is passed over with a warning, never fatal.
"""

import json
import os
import uuid
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from bdray.results import SCHEMA, Row, to_table
from bdray.spec import BadInput

if TYPE_CHECKING:
    from torch import Tensor


class DamagedFile(UserWarning):
    """A file of the store was cut short or is not what its name says; it was ignored and will be made again."""


class Store:
    """`Store("store")` or `Store("s3://bucket/prefix")`. Making one checks that it can be written."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            if "://" in uri:
                self._fs, self._root = fs.FileSystem.from_uri(uri)
            else:
                self._fs, self._root = fs.LocalFileSystem(), os.path.abspath(uri)
            self._local = isinstance(self._fs, fs.LocalFileSystem)
        except (OSError, pa.ArrowInvalid) as error:
            raise BadInput(f"cannot use the store {uri!r}: {error}; give a folder or a bucket with --store") from None

    def check_writable(self) -> None:
        """Raise BadInput unless a file can be written and removed."""
        try:
            self._put(".writable", b"bdray")
            self._fs.delete_file(self._path(".writable"))
        except OSError as error:
            raise BadInput(
                f"cannot write to the store {self.uri!r}: {error.strerror or error}; give a writable folder or bucket "
                "with --store or BDRAY_STORE"
            ) from None

    def location(self) -> str:
        """The URI, or the absolute folder, that another process opens the same store by."""
        return self._root if self._local and "://" not in self.uri else self.uri

    # Rows

    def put_row(self, row: Row) -> None:
        """Write one row."""
        self._put_table(f"rows/{row.sweep}/{row.key}.parquet", to_table([row]))

    def rows(self, sweep: str | None = None) -> pa.Table:
        """Every row, or one sweep's, as a table with the columns of Row; one row a key (done before failed, then newest)."""
        tables = []
        for path in self._list("rows", sweep):
            table = self._read_rows(path)
            if table is not None:
                tables.append(table)
        table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        return _unique(table)

    def row(self, key: str) -> dict[str, Any] | None:
        """The row of one experiment, or None."""
        for info in self._fs.get_file_info(fs.FileSelector(self._path("rows"), allow_not_found=True)):
            if info.type == fs.FileType.Directory and self._exists(f"rows/{info.base_name}/{key}.parquet"):
                table = self._read_rows(f"rows/{info.base_name}/{key}.parquet")
                if table is not None:
                    return dict(table.to_pylist()[0])
            elif info.extension == "parquet":
                table = self._read_rows(f"rows/{info.base_name}")
                found = table.filter(pc.field("key") == key).to_pylist() if table is not None else []
                if found:
                    return dict(found[0])
        return None

    def compact(self, sweep: str) -> None:
        """Make one file of a sweep's rows. Safe at any moment: a row is deleted only once the one file holds it."""
        singles = [p for p in self._list("rows", sweep) if p != f"rows/{sweep}.parquet"]
        if len(singles) < 2:
            return
        table = self.rows(sweep)
        self._put_table(f"rows/{sweep}.parquet", table)
        kept = set(table["key"].to_pylist())
        for path in singles:
            if path.rpartition("/")[2].removesuffix(".parquet") in kept:
                self._fs.delete_file(self._path(path))

    def _read_rows(self, path: str) -> pa.Table | None:
        table = self._table(path)
        if table is None:
            return None
        if not {"key", "spec", "status"} <= set(table.column_names):
            self._damaged(path, "has no columns key, spec and status")
            return None
        if table.schema.equals(SCHEMA):
            return table
        have = set(table.column_names)
        try:  # a row of another version: columns it lacks are null, columns we do not know are left out
            columns = [table[f.name].cast(f.type) if f.name in have else pa.nulls(len(table), f.type) for f in SCHEMA]
        except pa.ArrowException as error:
            self._damaged(path, f"has columns of other types ({str(error).splitlines()[0]})")
            return None
        return pa.table(columns, schema=SCHEMA)

    # Curves and what figures need

    def put_table(self, kind: str, key: str, table: pa.Table) -> None:
        """Write a figure's table (or `kind="curves"`) under the key of the row or victim that it belongs to."""
        self._put_table(f"curves/{key}.parquet" if kind == "curves" else f"tables/{kind}/{key}.parquet", table)

    def table(self, kind: str, key: str) -> pa.Table | None:
        """Read such a table; None where there is none."""
        path = f"curves/{key}.parquet" if kind == "curves" else f"tables/{kind}/{key}.parquet"
        return self._table(path) if self._exists(path) else None

    # Victims

    def put_victim(self, key: str, parts: "dict[str, dict[str, Tensor]]", about: dict[str, Any]) -> None:
        """Write groups of tensors, one safetensors file each, then the JSON that makes them a victim."""
        from safetensors.torch import save

        sizes = {}
        for part, tensors in parts.items():
            data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
            self._put(f"victims/{key}/{part}.safetensors", data)
            sizes[part] = len(data)
        self._put(f"victims/{key}/victim.json", json.dumps({**about, "bytes": sizes}, indent=1).encode())

    def victim(self, key: str) -> "tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None":
        """The groups of tensors and the JSON of a complete victim, or None."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        about = self.victim_about(key)
        if about is None:
            return None
        parts = {}
        for part in about["bytes"]:
            path = f"victims/{key}/{part}.safetensors"
            try:
                parts[part] = load(self._get(path))
            except SafetensorError as error:
                self._damaged(path, str(error))
                return None
        return parts, about

    def victim_about(self, key: str) -> dict[str, Any] | None:
        """The JSON of a victim whose files are all there at their full size, or None."""
        path = f"victims/{key}/victim.json"
        if not self._exists(path):
            return None
        try:
            about = dict(json.loads(self._get(path)))
            sizes = dict(about["bytes"])
        except (ValueError, KeyError, TypeError) as error:
            self._damaged(path, f"is not a victim's JSON ({error})")
            return None
        for part, size in sizes.items():
            info = self._fs.get_file_info(self._path(f"victims/{key}/{part}.safetensors"))
            if info.size != size:
                self._damaged(f"victims/{key}/{part}.safetensors", f"has {info.size} bytes, not {size}")
                return None
        return about

    # Checkpoints

    def checkpoint(self, key: str) -> "StoreCheckpoint":
        """Where a victim in training keeps its last finished epoch."""
        return StoreCheckpoint(self, key)

    # Files

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _exists(self, path: str) -> bool:
        return self._fs.get_file_info(self._path(path)).type == fs.FileType.File

    def _get(self, path: str) -> bytes:
        with self._fs.open_input_stream(self._path(path)) as stream:
            return bytes(stream.read())

    def _put(self, path: str, data: bytes | pa.Buffer) -> None:
        final = self._path(path)
        if not self._local:
            with self._fs.open_output_stream(final) as stream:
                stream.write(data)
            return
        folder, _, name = final.rpartition("/")
        os.makedirs(folder, exist_ok=True)
        part = f"{folder}/.{name}.{uuid.uuid4().hex}"
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, final)
        finally:
            if os.path.exists(part):
                os.remove(part)

    def _put_table(self, path: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._put(path, sink.getvalue())

    def _table(self, path: str) -> pa.Table | None:
        try:
            with self._fs.open_input_file(self._path(path)) as file:
                return pq.read_table(file)
        except (pa.ArrowInvalid, OSError) as error:
            self._damaged(path, str(error).splitlines()[0])
            return None

    def _list(self, folder: str, name: str | None) -> Iterable[str]:
        """Parquet files of one subfolder (and its compacted file), or of all."""
        below = f"{folder}/{name}" if name else folder
        infos = self._fs.get_file_info(fs.FileSelector(self._path(below), allow_not_found=True, recursive=True))
        paths = [i.path[len(self._root) + 1 :] for i in infos if i.type == fs.FileType.File and i.extension == "parquet"]
        if name and self._exists(f"{below}.parquet"):
            paths.append(f"{below}.parquet")
        return sorted(p for p in paths if not p.rpartition("/")[2].startswith("."))

    def _damaged(self, path: str, why: str) -> None:
        warnings.warn(f"ignored {path} in the store {self.uri!r}: {why}; it will be made again", DamagedFile, stacklevel=3)


class StoreCheckpoint:
    """A training's last epoch in the store."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._path = store, f"checkpoints/{key}.safetensors"

    def load(self) -> "tuple[dict[str, Tensor], int] | None":
        """The tensors and the number of epochs done, or None."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not self._store._exists(self._path):
            return None
        try:
            tensors = load(self._store._get(self._path))
            return tensors, int(tensors.pop("epochs"))
        except (SafetensorError, KeyError) as error:
            self._store._damaged(self._path, str(error))
            return None

    def save(self, tensors: "dict[str, Tensor]", epochs: int) -> None:
        """Replace the last epoch by this one."""
        import torch
        from safetensors.torch import save

        bare = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        self._store._put(self._path, save({**bare, "epochs": torch.tensor(epochs)}))

    def delete(self) -> None:
        """The victim is complete."""
        if self._store._exists(self._path):
            self._store._fs.delete_file(self._store._path(self._path))


def _unique(table: pa.Table) -> pa.Table:
    """One row a key: a done one before any other, then the newest."""
    best: dict[str, tuple[tuple[bool, Any], int]] = {}
    columns = (table[name].to_pylist() for name in ("key", "status", "time"))
    for at, (key, status, time) in enumerate(zip(*columns, strict=True)):
        rank = (status == "done", time)
        if key not in best or rank > best[key][0]:
            best[key] = (rank, at)
    return table if len(best) == len(table) else table.take(sorted(at for _, at in best.values()))
