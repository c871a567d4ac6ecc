"""Store: rows, curves and victims by key, in a folder or a bucket, behind one URI.

    rows/<sweep>/                   one file for each row, whole or not at all (see rows.py)
    rows/<sweep>.<id>.parquet       the same rows of a sweep in one file
    curves/<key>.parquet            step, metric, value
    tables/<kind>/<key>.parquet     what a figure needs beyond curves
    victims/<key>/                  model.safetensors  attack.safetensors  victim.json (last: it makes the victim complete)
    checkpoints/<key>.safetensors   the last finished epoch of a victim in training, and <victim>.<key> of what settings of a
                                    defense have in common (kept; it may be deleted)

Nothing here is a pickle; every file but the claims and TensorBoard's has a checksum of its content in it, and a victim's JSON
those of its parts. What is half-written, damaged or foreign is passed over with a warning, never fatal.
"""

import hashlib
import json
import math
import re
import uuid
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bdray.spec import BadInput
from bdray.store.curve import CURVES
from bdray.store.files import DamagedFile, Files, first_line
from bdray.store.row import Row
from bdray.store.rows import INDEX, Rows, sweep_of
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
        """As it may be printed, without a key or a token; `location` is what opens the store."""
        self._rows = Rows(self.files)

    def check_writable(self) -> None:
        """Raise BadInput unless a file can be written and removed."""
        name = f".writable.{uuid.uuid4().hex}"  # of its own: two launches may check at once
        self.files.put(name, b"bdray")
        self.files.delete(name)

    def location(self, below: str = "") -> str:
        """The URI, or the absolute folder, that another process opens the same store by, or a folder below it. It may hold a
        key or a token: never to be printed, logged or stored."""
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
        table = self.files.table(path)
        if kind == "curves" and table is not None and not table.schema.equals(CURVES):
            return self.files.damaged(path, "has other columns than a curve")
        return table

    # Victims

    def put_victim(self, key: str, parts: "dict[str, dict[str, Tensor]]", about: dict[str, Any]) -> None:
        """Write groups of tensors, one safetensors file each, then the JSON that makes them a victim."""
        sizes, sums = {}, {}
        for part, tensors in parts.items():
            data = _packed(tensors)
            self.files.put(f"victims/{key}/{part}.safetensors", data)
            sizes[part], sums[part] = len(data), hashlib.sha256(data).hexdigest()
        about = {**about, "bytes": sizes, "sha256": sums}
        self.files.put(f"victims/{key}/victim.json", json.dumps({**about, SELF: _sum(about)}, indent=1).encode())

    def put_victim_part(self, key: str, part: str, tensors: "dict[str, Tensor]") -> None:
        """Write one group of tensors ahead of the others."""
        self.files.put(f"victims/{key}/{part}.safetensors", _packed(tensors))

    def victim_part(self, key: str, part: str, sha256: str = "") -> "dict[str, Tensor] | None":
        """One group of tensors of a victim that need not be complete, or None; where it is known, with this checksum."""
        path = f"victims/{key}/{part}.safetensors"
        try:
            return self.files.parsed(path, lambda data: tensors_of(data, sha256), (ValueError,))
        except FileNotFoundError:
            return None

    def victim(self, key: str) -> "tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None":
        """The groups of tensors and the JSON of a complete victim, or None."""
        about = self.victim_about(key)
        if about is None:
            return None
        parts = {}
        for part in about["bytes"]:
            tensors = self.victim_part(key, part, about["sha256"].get(part, ""))
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

    def foreign_victim(self, key: str, why: str) -> None:
        """Say that a victim whose files are whole is of no use, and why: it is trained again."""
        self.files.damaged(f"victims/{key}/victim.json", why)

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
        try:
            return self._files.parsed(self._path, parse_checkpoint, (ValueError,))
        except FileNotFoundError:
            return None

    def save(self, tensors: "dict[str, Tensor]", epochs: int) -> None:
        """Replace the last epoch by this one."""
        import torch

        self._files.put(self._path, _packed({**tensors, "epochs": torch.tensor(epochs)}))

    def delete(self) -> None:
        """The victim is complete."""
        self._files.delete(self._path)


SELF = "sum"
"""What the JSON of a victim calls the checksum of the rest of it."""
LARGEST = 2**20
"""Bytes of a victim's JSON, and of the head of a file of tensors."""
_BLANK = "0" * 64
"""What stands where a file of tensors has its checksum, while that is made."""


def parse_about(data: bytes) -> dict[str, Any]:
    """The JSON of a victim; `bytes` says how large each part is and `sha256` has their checksums, as far as it knows. Raises
    ValueError."""
    try:
        if len(data) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        about = dict(json.loads(data))
        if about.get(SELF, _sum(about)) != _sum(about):
            raise ValueError("it is not what was written: its checksum is another one")
        sizes, sums, scores = dict(about["bytes"]), dict(about.get("sha256", {})), dict(about.get("scores", {}))
        for part, size in sizes.items():
            if not re.fullmatch(r"\w[\w.-]*", part, re.ASCII) or type(size) is not int or size < 0:
                raise ValueError(f"a part {part[:40]!r} of {str(size)[:40]} bytes")
        if not all(isinstance(text, str) and text for text in sums.values()):
            raise ValueError("a checksum that is no text")
        for name, score in scores.items():
            if type(score) not in (int, float) or not (math.isnan(score) or 0 <= score <= 1):
                raise ValueError(f"{name[:40]} is {str(score)[:40]}")
        return {**about, "bytes": sizes, "sha256": sums}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"is not a victim's JSON ({first_line(error)})") from None


def parse_checkpoint(data: bytes) -> "tuple[dict[str, Tensor], int]":
    """The tensors of a checkpoint and how many epochs it is after. Raises ValueError."""
    tensors = tensors_of(data)
    epochs = tensors.pop("epochs", None)
    if epochs is None or epochs.numel() != 1 or epochs.is_floating_point() or int(epochs) < 0:
        raise ValueError("does not say how many epochs are done")
    return tensors, int(epochs)


def tensors_of(data: bytes, sha256: str = "") -> "dict[str, Tensor]":
    """The tensors in a safetensors file with this checksum, or with the one that it holds itself. Raises ValueError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    check_tensors(data, sha256)
    try:
        return load(data)
    except (SafetensorError, RuntimeError, OverflowError) as error:
        raise ValueError(first_line(error)) from None


def check_tensors(data: bytes, sha256: str = "") -> bool:
    """Whether there is a checksum to compare a safetensors file with. Raises ValueError where it is another one."""
    own = "" if sha256 else _own_sum(data)
    if sha256:
        own, found = sha256, hashlib.sha256(data).hexdigest()
    elif own:
        end = 8 + int.from_bytes(data[:8], "little")
        of_all = hashlib.sha256(data[:end].replace(own.encode(), _BLANK.encode(), 1))
        of_all.update(memoryview(data)[end:])
        found = of_all.hexdigest()
    else:
        return False
    if found != own:
        raise ValueError("is not what was written: its SHA-256 is another one")
    return True


def _own_sum(data: bytes) -> str:
    """The checksum in the head of a safetensors file, or nothing."""
    size = int.from_bytes(data[:8], "little")
    try:
        text = json.loads(data[8 : 8 + size])["__metadata__"]["sha256"] if size <= min(LARGEST, len(data)) else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return text if isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) else ""


def _sum(about: dict[str, Any]) -> str:
    """The checksum of a victim's JSON without the checksum itself, whatever its layout."""
    text = json.dumps({name: value for name, value in about.items() if name != SELF}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
    data = bytes(save(bare, {"sha256": _BLANK}))
    return data.replace(_BLANK.encode(), hashlib.sha256(data).hexdigest().encode(), 1)
