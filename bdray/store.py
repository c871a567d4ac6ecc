"""Store: rows, curves and victims by key, in a folder or a bucket, behind one URI.

    rows/<sweep>/                   one file for each row, whole or not at all (see rows.py)
    rows/<sweep>.<id>.parquet       the same rows of a sweep in one file
    curves/<key>.parquet            step, metric, value
    tables/<kind>/<key>.parquet     what a figure needs beyond curves
    victims/<key>/                  model.safetensors  attack.safetensors  victim.json (last: it makes the victim complete)
    checkpoints/<key>.safetensors   the last finished epoch of a victim in training, and <victim>.<key> of what settings of a
                                    defense have in common (kept; it may be deleted)

Nothing here is a pickle. What is half-written or foreign is passed over with a warning, never fatal.
"""

import json
import uuid
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bdray.files import DamagedFile, Files, first_line
from bdray.results import Row
from bdray.rows import INDEX, Rows, sweep_of
from bdray.spec import BadInput
from bdray.wording import quoted

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DamagedFile", "Store", "StoreCheckpoint", "parse_about"]


class Store:
    """`Store("store")` or `Store("s3://bucket/prefix")`. What the disk or the bucket refuses is a BadInput that names the
    store."""

    def __init__(self, uri: str) -> None:
        self.files = Files(uri)
        self.uri = self.files.uri
        self._rows = Rows(self.files)

    def check_writable(self) -> None:
        """Raise BadInput unless a file can be written and removed."""
        name = f".writable.{uuid.uuid4().hex}"  # of its own: two launches may check at once
        self.files.put(name, b"bdray")
        self.files.delete(name)

    def location(self, below: str = "") -> str:
        """The URI, or the absolute folder, that another process opens the same store by, or a folder below it."""
        return self.files.location(below)

    # Rows

    def put_row(self, row: Row) -> None:
        """Write one row."""
        self._rows.put(row)

    def rows(self, sweep: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """Every row, or one sweep's, as a table with the columns of Row or only these; one row a key (done before failed, then
        newest). Raises BadInput for a name that no sweep has, such as the path of a folder elsewhere."""
        if sweep is not None and (not sweep.isprintable() or "/" in sweep or sweep in (".", "..") or len(sweep) > 200):
            raise BadInput(f"no sweep named {quoted(sweep)} in the store {self.uri!r}; a name has letters, digits, _ and -")
        return self._rows.read(sweep, columns)

    def index(self, sweep: str | None = None) -> pa.Table:
        """Key, sweep, status, time, proxies and the data's digest of the same rows, without reading the rest."""
        return self._rows.read(sweep, INDEX)

    def row(self, key: str, sweep: str | None = None) -> dict[str, Any] | None:
        """The row of one experiment, or None; where there are several, the one that `rows` shows. Of one sweep, or of all."""
        return self._rows.row(key, sweep)

    def sweeps(self) -> list[str]:
        """The names of those that have rows."""
        return sorted({sweep_of(path) for path in (*self._rows.singles(), *self._rows.ones())})

    def compact(self, sweep: str) -> None:
        """Make one file of a sweep's rows. Safe at any moment, whoever reads, writes or compacts meanwhile."""
        self._rows.compact(sweep)

    # Curves and what figures need

    def put_table(self, kind: str, key: str, table: pa.Table) -> None:
        """Write a figure's table (or `kind="curves"`) under the key of the row or victim that it belongs to."""
        self.files.put_table(f"curves/{key}.parquet" if kind == "curves" else f"tables/{kind}/{key}.parquet", table)

    def table(self, kind: str, key: str) -> pa.Table | None:
        """Read such a table; None where there is none."""
        path = f"curves/{key}.parquet" if kind == "curves" else f"tables/{kind}/{key}.parquet"
        return self.files.table(path)

    # Victims

    def put_victim(self, key: str, parts: "dict[str, dict[str, Tensor]]", about: dict[str, Any]) -> None:
        """Write groups of tensors, one safetensors file each, then the JSON that makes them a victim."""
        sizes = {}
        for part, tensors in parts.items():
            data = _packed(tensors)
            self.files.put(f"victims/{key}/{part}.safetensors", data)
            sizes[part] = len(data)
        self.files.put(f"victims/{key}/victim.json", json.dumps({**about, "bytes": sizes}, indent=1).encode())

    def put_victim_part(self, key: str, part: str, tensors: "dict[str, Tensor]") -> None:
        """Write one group of tensors ahead of the others."""
        self.files.put(f"victims/{key}/{part}.safetensors", _packed(tensors))

    def victim_part(self, key: str, part: str) -> "dict[str, Tensor] | None":
        """One group of tensors of a victim that need not be complete, or None."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = f"victims/{key}/{part}.safetensors"
        try:
            return self.files.parsed(path, load, (SafetensorError,))
        except FileNotFoundError:
            return None

    def victim(self, key: str) -> "tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None":
        """The groups of tensors and the JSON of a complete victim, or None."""
        about = self.victim_about(key)
        if about is None:
            return None
        parts = {}
        for part in about["bytes"]:
            tensors = self.victim_part(key, part)
            if tensors is None:
                return None
            parts[part] = tensors
        return parts, about

    def victim_about(self, key: str) -> dict[str, Any] | None:
        """The JSON of a victim whose files are all there at their full size, or None."""
        path = f"victims/{key}/victim.json"
        try:
            about = self.files.parsed(path, parse_about, (ValueError,))
        except FileNotFoundError:
            return None
        for part, size in about["bytes"].items() if about else ():
            path = f"victims/{key}/{part}.safetensors"
            info = self.files.info(path)
            if info.size != size:
                return self.files.damaged(path, "is not there" if info.size is None else f"has {info.size} bytes, not {size}")
        return about

    # Checkpoints

    def checkpoint(self, key: str) -> "StoreCheckpoint":
        """Where a victim in training keeps its last finished epoch."""
        return StoreCheckpoint(self.files, key)


class StoreCheckpoint:
    """A training's last epoch in the store."""

    def __init__(self, files: Files, key: str) -> None:
        self._files, self._path = files, f"checkpoints/{key}.safetensors"

    def load(self) -> "tuple[dict[str, Tensor], int] | None":
        """The tensors and the number of epochs done, or None."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        def parse(data: bytes) -> "tuple[dict[str, Tensor], int]":
            tensors = load(data)
            return tensors, int(tensors.pop("epochs"))

        try:
            return self._files.parsed(self._path, parse, (SafetensorError, KeyError))
        except FileNotFoundError:
            return None

    def save(self, tensors: "dict[str, Tensor]", epochs: int) -> None:
        """Replace the last epoch by this one."""
        import torch

        self._files.put(self._path, _packed({**tensors, "epochs": torch.tensor(epochs)}))

    def delete(self) -> None:
        """The victim is complete."""
        self._files.delete(self._path)


def parse_about(data: bytes) -> dict[str, Any]:
    """The JSON of a victim; `bytes` says how large each part is. Raises ValueError."""
    try:
        about = dict(json.loads(data))
        return {**about, "bytes": dict(about["bytes"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is not a victim's JSON ({first_line(error)})") from None


def _packed(tensors: "dict[str, Tensor]") -> bytes:
    """Tensors as safetensors, which refuses two names for one memory (tied weights): the second becomes a copy."""
    from safetensors.torch import save

    bare: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        bare[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return bytes(save(bare))
