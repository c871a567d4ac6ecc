"""Samples: inputs at rest and their targets, in a stable order. Dense data are plain tensors; what is not dense (texts,
sentences, boxes) is `Rows`, on Arrow. Everything that handles samples handles both by the functions of this module."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bdray.seeds import rng

ARROW = ".arrow"
"""Ends the name of a packed column that is `Rows`."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Values of any Arrow type, one a sample. They stay on the CPU, and are indexed as a tensor is, by samples."""

    values: pa.Array

    @classmethod
    def of(cls, values: Sequence[Any], kind: pa.DataType | None = None) -> Self:
        """From Python values; long texts have the Arrow type of long texts, whose offsets do not overflow."""
        found = pa.array(values, kind)
        return cls(found.cast(pa.large_string()) if pa.types.is_string(found.type) else found)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor) -> Self:
        """Those at these positions, int64, or of a bool mask of length N."""
        return type(self)(self.values.take(pa.array(places(index).numpy())))

    def tolist(self) -> list[Any]:
        """As Python values."""
        found: list[Any] = self.values.to_pylist()
        return found

    def like(self, values: Sequence[Any]) -> Self:
        """Other Python values in the same Arrow type."""
        return type(self)(pa.array(values, self.values.type))

    def to(self, device: torch.device) -> Self:
        """Themselves: rows have no place on an accelerator."""
        return self

    def dump(self) -> bytes:
        """Type and values as an Arrow stream, the same for equal rows however they were cut."""
        sink = pa.BufferOutputStream()
        flat = self.values.take(pa.array(np.arange(len(self))))
        with pa.ipc.new_stream(sink, pa.schema([("values", flat.type)])) as stream:
            stream.write_batch(pa.record_batch([flat], names=["values"]))
        found: bytes = sink.getvalue().to_pybytes()
        return found

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The inverse of `dump`. Raises pyarrow's ArrowInvalid for what is no such stream."""
        table = pa.ipc.open_stream(pa.py_buffer(data)).read_all()
        table.validate(full=True)
        return cls(pa.concat_arrays(table["values"].chunks))


class Lines:
    """Dense values that stay on the disk, mapped into memory, and are read as they are used: a data set may be larger than
    memory. Some of them may be other values instead, which are in memory. They are read with `dense`."""

    __slots__ = ("at", "base", "device", "own")

    def __init__(self, base: Tensor, at: Tensor, own: Tensor | None = None, device: torch.device | None = None) -> None:
        """Value n is line `at[n]` of `base` [M, ...], or, from M on, of `own` [K, ...]."""
        self.base, self.at = base, at
        self.own = base.new_empty(0, *base.shape[1:]) if own is None else own
        self.device = torch.device("cpu") if device is None else device

    def __len__(self) -> int:
        return len(self.at)

    @property
    def shape(self) -> torch.Size:
        """As of a tensor."""
        return torch.Size((len(self.at), *self.base.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """As of a tensor."""
        return self.base.dtype

    def __getitem__(self, index: Tensor) -> Self:
        """Those at these positions, int64, or of a bool mask of length N; nothing is read."""
        return type(self)(self.base, self.at[places(index)], self.own, self.device)

    def put(self, index: Tensor, values: Tensor) -> Self:
        """With other values at these positions; they alone are copied."""
        at, first = self.at.clone(), len(self.base) + len(self.own)
        at[places(index)] = first + torch.arange(len(values))
        return type(self)(self.base, at, torch.cat([self.own, values.cpu()]), self.device)

    def to(self, device: torch.device) -> Self:
        """Those that `dense` gives on a device."""
        return type(self)(self.base, self.at, self.own, device)

    def dense(self) -> Tensor:
        """All of them in memory, a tensor [N, ...] on the device."""
        changed = self.at >= len(self.base)
        found = self.base[self.at.where(~changed, 0)] if len(self.base) else self.base.new_empty(self.shape)
        if changed.any():
            found[changed] = self.own[self.at[changed] - len(self.base)]
        return found.to(self.device)


Column = Tensor | Rows | Lines
"""Inputs, targets or predictions, one a sample."""


def dense(column: Column) -> Tensor | Rows:
    """The column in memory."""
    return column.dense() if isinstance(column, Lines) else column


class Hasher(Protocol):
    """One of hashlib's."""

    def update(self, data: Any) -> None: ...


def places(index: Tensor) -> Tensor:
    """Positions, int64 on the CPU, of a bool mask or of positions."""
    return (index.nonzero().flatten() if index.dtype == torch.bool else index).cpu()


def take(column: Column, index: Tensor) -> Column:
    """The values at these positions (int64, or a bool mask of length N), as a new column."""
    return column[index.to(column.device)] if isinstance(column, Tensor) else column[index]


def put(column: Column, index: Tensor, values: Column) -> Column:
    """A new column with other values at these positions."""
    if isinstance(column, Rows):
        assert isinstance(values, Rows)
        order = np.arange(len(column))
        order[places(index).numpy()] = len(column) + np.arange(len(values))
        return Rows(pa.concat_arrays([column.values, values.values.cast(column.values.type)]).take(pa.array(order)))
    assert isinstance(values, Tensor)
    if isinstance(column, Lines):
        return column.put(index, values)
    out = column.clone()
    out[index.to(out.device)] = values.to(out.device)
    return out


def alike(column: Column, other: Column) -> bool:
    """Whether values of one can stand in the other: the same Arrow type, or the same type and shape of a value."""
    if isinstance(column, Rows) or isinstance(other, Rows):
        return isinstance(column, Rows) and isinstance(other, Rows) and column.values.type == other.values.type
    return column.dtype == other.dtype and column.shape[1:] == other.shape[1:]


def joined(columns: Sequence[Column]) -> Tensor | Rows:
    """Columns of one kind, one after the other; at least one."""
    if isinstance(columns[0], Rows):
        return Rows(pa.concat_arrays([c.values for c in columns if isinstance(c, Rows)]))
    return torch.cat([c for c in map(dense, columns) if isinstance(c, Tensor)])


def equal(column: Column, other: Column) -> Tensor:
    """Which values are the same in both, bool [N] on the CPU."""
    column, other = dense(column), dense(other)
    if isinstance(column, Rows) or isinstance(other, Rows):
        return torch.tensor([a == b for a, b in zip(column.tolist(), other.tolist(), strict=True)], dtype=torch.bool)
    return (column == other.to(column.device)).flatten(1).all(1).cpu() if column.dim() > 1 else (column.cpu() == other.cpu())


def feed(column: Column, hasher: Hasher) -> None:
    """Let a hash see all that a column holds."""
    if isinstance(column, Rows):
        hasher.update(column.dump())
        return
    hasher.update(f"{column.dtype}{tuple(column.shape)}".encode())
    for part in (
        (column,) if isinstance(column, Tensor) else (column[at].dense() for at in torch.arange(len(column)).split(256))
    ):
        hasher.update(part.contiguous().numpy())


def pack(name: str, column: Column) -> dict[str, Tensor]:
    """A column as a named tensor, for safetensors."""
    if isinstance(column, Rows):
        return {name + ARROW: torch.frombuffer(bytearray(column.dump()), dtype=torch.uint8)}
    return {name: dense(column)}  # type: ignore[dict-item]


def unpack(name: str, tensors: dict[str, Tensor]) -> Column | None:
    """The inverse; None where there is no such column. Raises ValueError for one that cannot be read."""
    if name in tensors:
        return tensors[name]
    found = tensors.get(name + ARROW)
    if found is None:
        return None
    if found.dtype != torch.uint8 or found.dim() != 1:
        raise ValueError(f"has no readable {name}")
    try:
        return Rows.parse(found.numpy().tobytes())
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"has no readable {name} ({error})") from None


class Samples:
    """Inputs at rest, their targets, and where each stands in the published set. Images: uint8 [N, C, H, W] and class numbers
    int64 [N]."""

    __slots__ = ("at", "inputs", "targets")

    def __init__(self, inputs: Any, targets: Any, at: Tensor | None = None) -> None:
        """`at`, int64 [N] on the CPU, tells a sample from all others of its data set, test samples too: it seeds the sample's
        own draws. Without it the samples are numbered from 0."""
        self.inputs, self.targets = inputs, targets
        self.at = torch.arange(len(targets)) if at is None else at

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def labels(self) -> Tensor | None:
        """The class number of each sample, int64 [N]; None where targets are no classes."""
        return self.targets if isinstance(self.targets, Tensor) and self.targets.dim() == 1 else None

    def take(self, index: Tensor) -> Self:
        """The samples at these positions (int64, or a bool mask of length N), as new columns."""
        return type(self)(take(self.inputs, index), take(self.targets, index), self.at[index.to(self.at.device)])

    def put(self, index: Tensor, others: "Samples") -> Self:
        """New samples, with others at these positions: the places in the published set stay."""
        return type(self)(put(self.inputs, index, others.inputs), put(self.targets, index, others.targets), self.at)

    def to(self, device: torch.device) -> Self:
        """The samples on a device."""
        return type(self)(self.inputs.to(device), self.targets.to(device), self.at)

    def dense(self) -> Self:
        """The samples with their inputs in memory."""
        return type(self)(dense(self.inputs), self.targets, self.at)

    def having(self, *, inputs: Any = None, targets: Any = None) -> Self:
        """The same samples with other inputs or other targets."""
        mine = self.inputs if inputs is None else inputs
        return type(self)(mine, self.targets if targets is None else targets, self.at)


class Splits(NamedTuple):
    """What an experiment uses: the victim trains on `train`, `held` is clean data a defender may get, `test` is for scores."""

    train: Samples
    held: Samples
    test: Samples
    classes: Sequence[str]

    def digest(self) -> str:
        """64 hex digits of the SHA-256 of all samples, in order, and of the names of the classes."""
        found = hashlib.sha256("\x1f".join(self.classes).encode())
        for part in (self.train, self.held, self.test):
            for values in (part.inputs, part.targets):
                feed(values, found)
        return found.hexdigest()


class Outline(NamedTuple):
    """All that a fresh model needs to know of the data."""

    classes: tuple[str, ...]
    shape: tuple[int, ...] = ()
    """Of one dense input."""
    vocabulary: str = ""
    """Of the words that models of texts are built for, in the form that its task chooses."""
    kind: torch.dtype = torch.uint8
    """Of the numbers of a dense input at rest."""


Draw = Callable[[Callable[[torch.Generator], Tensor]], Tensor]
"""`draw(make)`: what `make` draws from a generator of its own for each sample, stacked, [N, ...]."""


def draws(seed: int, purpose: str, at: Tensor) -> Draw:
    """Draws keyed by the samples' places, so that samples one by one get what they get all at once."""

    def draw(make: Callable[[torch.Generator], Tensor]) -> Tensor:
        if not len(at):
            return make(rng(0))[None][:0]
        return torch.stack([make(rng(seed, purpose, place)) for place in at.tolist()])

    return draw
