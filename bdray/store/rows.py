"""Rows: how a store keeps them, so that any number of processes may write, read and compact at once, and none is ever missed.

    rows/<sweep>/<key>.<id>.parquet     one row; a row made again is another file
    rows/<sweep>.<id>.parquet           the rows of many such files

No file of either kind is ever written twice, so what was read may be deleted once another file holds it.
"""

import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from bdray.spec import BadInput
from bdray.store.files import AT_A_TIME, AT_ONCE, Files, first_line, read_table
from bdray.store.row import SCHEMA, Row, faults, to_table
from bdray.store.seal import ROWS
from bdray.wording import printable

INDEX = [name for name in ("key", "sweep", "status", "time", "proxies", "data_digest") if name in SCHEMA.names]
"""What tells which rows there are."""
_NEEDED = ("key", "spec", "status")
"""Without them it is no row."""
_RANKED = ("key", "status", "time")
"""What decides which one of two rows of a key counts."""


class Rows:
    """The rows in these files. One row a key is shown: a done one before any other, then the newest."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._keys: dict[tuple[Any, ...], frozenset[str]] = {}
        """Of the compacted files that `row` has looked into."""

    def put(self, row: Row) -> None:
        """Write one row. Raises BadInput for one with a value that no reader would take."""
        table = to_table([row])
        check(table)
        self._files.put_table(f"rows/{row.sweep}/{row.key}.{uuid.uuid4().hex[:12]}.parquet", table, ROWS)

    def read(self, sweep: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """Those of one sweep or of all, with the columns of Row or some of them."""
        wanted = SCHEMA.names if columns is None else columns
        names = [name for name in SCHEMA.names if name in wanted or name in _RANKED]
        # Single files first: one that is compacted meanwhile is gone here, and stands in a file that is listed after.
        singles = self._read(self.singles(sweep), names)
        return _unique([*singles.values(), *self._read_ones(sweep, names)], names).select(wanted)

    def row(self, key: str, sweep: str | None = None) -> dict[str, Any] | None:
        """The row of one experiment, of one sweep or of all."""
        # Single files first, as above.
        singles = self._read([p for p in self.singles(sweep) if p.rpartition("/")[2].startswith(f"{key}.")], SCHEMA.names)
        tables = [*singles.values(), *self._read_ones(sweep, SCHEMA.names, key)]
        found = _unique([table.filter(pc.field("key") == key) for table in tables], SCHEMA.names).to_pylist()
        return dict(found[0]) if found else None

    def compact(self, sweep: str) -> None:
        """Make one file of a sweep's rows. Safe at any moment, also killed at any moment: a file is deleted only once another
        holds its rows, and one that cannot be read is left alone."""
        singles = self._read(self.singles(sweep), SCHEMA.names, whole=True)
        ones = self._read(self.ones(sweep), SCHEMA.names, whole=True)
        if singles or len(ones) > 1:
            self._put(sweep, _unique([*singles.values(), *ones.values()], SCHEMA.names))
            self._files.delete_all([*ones, *singles])

    def rescue(self, path: str) -> int:
        """Write the sound rows of a damaged file into another one; how many."""
        table = self.table(path)
        if table is not None:
            self._put(sweep_of(path), table)
        return 0 if table is None else len(table)

    def _put(self, sweep: str, table: pa.Table) -> None:
        """One file of rows that were looked at when they were read."""
        self._files.put_table(f"rows/{sweep}.{uuid.uuid4().hex[:12]}.parquet", table, ROWS)

    def singles(self, sweep: str | None = None) -> dict[str, fs.FileInfo]:
        """The files of one row each, by path."""
        found = self._files.list(f"rows/{sweep}" if sweep else "rows", recursive=True)
        return {path: info for path, info in found.items() if _is_table(info) and path.count("/") > 1}

    def ones(self, sweep: str | None = None) -> dict[str, fs.FileInfo]:
        """The compacted files, by path."""
        found = {path: info for path, info in self._files.list("rows").items() if _is_table(info)}
        return {path: info for path, info in found.items() if sweep is None or sweep_of(path) == sweep}

    def table(self, path: str, names: list[str] = SCHEMA.names, whole: bool = False) -> pa.Table | None:
        """The rows in one file, without those that are damaged; None where it is gone or no row is left, and, where it shall
        be `whole`, where one is damaged. With a warning."""
        try:
            found = self._files.parquet(path, lambda file, note: _columns(file, names, note))
        except FileNotFoundError:
            return None
        if found is None:
            return None
        table, bad = found
        if bad:
            rest = f"; its other {len(table)} rows are read" if len(table) else ""
            key, why = next(iter(bad.items()))
            self._files.damaged(path, f"{len(bad)} rows are damaged, among them {key[:40]}: {why}{rest}" if rest else why)
        return None if bad and (whole or not len(table)) else table

    def _read(self, paths: Iterable[str], names: list[str], whole: bool = False) -> dict[str, pa.Table]:
        """The rows in each of these files; without those that are damaged or gone."""
        paths = list(paths)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            tables = pool.map(lambda path: self.table(path, names, whole), paths)
            return {path: table for path, table in zip(paths, tables, strict=True) if table is not None}

    def _read_ones(self, sweep: str | None, names: list[str], key: str | None = None) -> list[pa.Table]:
        """The rows in the compacted files, or in those that have one of this key; again where one was replaced meanwhile."""
        while True:
            ones = self.ones(sweep)
            with_key = [path for path, info in ones.items() if key is None or key in self._keys_in(path, info)]
            tables = self._read(with_key, names)
            if self.ones(sweep).keys() == ones.keys():
                return list(tables.values())

    def _keys_in(self, path: str, info: fs.FileInfo) -> frozenset[str]:
        """The keys in a compacted file: a worker asks before each cell."""
        stamp = (path, info.mtime_ns, info.size)
        if stamp not in self._keys:
            table = self.table(path, ["key"])
            if table is None:
                return frozenset()
            self._keys = {known: keys for known, keys in self._keys.items() if sweep_of(known[0]) != sweep_of(path)}
            self._keys[stamp] = frozenset(table["key"].to_pylist())
        return self._keys[stamp]


def sweep_of(path: str) -> str:
    """The sweep that a file of rows belongs to."""
    _, name, *single = path.split("/")
    if single:
        return name
    stem = name.removesuffix(".parquet")
    return stem.rpartition(".")[0] or stem


def check(table: pa.Table) -> None:
    """Raise BadInput for rows that no reader would take."""
    for at, why in faults(table).items():
        raise BadInput(f"the row {printable(str(table['key'][at]))} cannot be stored: {printable(why)}")


def _columns(file: pq.ParquetFile, names: list[str], note: bytes | None) -> tuple[pa.Table, dict[str, str]]:
    """These columns of the rows in a file of any version: what it lacks is null, what we do not know is left out; without the
    damaged ones, of which it says why by their keys. Rows that a store has looked at and sealed are read, no more. Raises
    ArrowInvalid where the file holds no rows."""
    if note == ROWS and file.schema_arrow.equals(SCHEMA):
        return read_table(file, names).select(names), {}
    _check_types(file.schema_arrow)
    _check_keys(file)
    mine = [name for name in SCHEMA.names if name in file.schema_arrow.names]
    table = _converted(read_table(file, mine, sound=note is not None))
    if any(table[name].null_count for name in _NEEDED):
        raise pa.ArrowInvalid("has a row without key, spec or status")
    bad = {} if note == ROWS else faults(table)
    whys = {str(table["key"][at]): why for at, why in bad.items()}
    if bad:
        table = table.take([at for at in range(len(table)) if at not in bad])
    return table.select(names), whys


def _check_types(schema: pa.Schema) -> None:
    """Raise ArrowInvalid where they are not those of rows, of whatever version."""
    names = schema.names
    if len(set(names)) < len(names) or not set(_NEEDED) <= set(names):
        raise pa.ArrowInvalid("has no columns key, spec and status")
    for field in SCHEMA:
        if field.name in names and _kind(schema.field(field.name).type) not in (_kind(field.type), "null"):
            kind = schema.field(field.name).type
            raise pa.ArrowInvalid(f"has {kind} in its column {field.name}, not {field.type}")


def _check_keys(file: pq.ParquetFile) -> None:
    """Raise ArrowInvalid where one comes twice, as in no file that bdray writes: a small one may repeat a row without end."""
    seen, count = set(), 0
    for batch in file.iter_batches(AT_A_TIME, columns=["key"]):
        seen.update(pc.unique(batch.column(0)).to_pylist())
        count += len(batch)
        if len(seen) < count:
            raise pa.ArrowInvalid("has a key twice")


def _converted(table: pa.Table) -> pa.Table:
    """Rows of another version."""
    columns = []
    for field in SCHEMA:
        column = table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            why = f"has {column.type} in its column {field.name}, not {field.type} ({first_line(error)})"
            raise pa.ArrowInvalid(why) from None
    return pa.table(columns, schema=SCHEMA)


def _kind(of: pa.DataType) -> str:
    """Types of one kind stand for each other; a number is never read as a text, nor a text as a number."""
    if pa.types.is_dictionary(of):
        return _kind(of.value_type)
    if pa.types.is_integer(of) or pa.types.is_floating(of):
        return "number"
    return str(of).removeprefix("large_").removesuffix("_view").partition("[")[0]


def _unique(tables: list[pa.Table], names: list[str]) -> pa.Table:
    """The rows of all tables, one a key: a done one before any other, then the newest."""
    empty = pa.schema([SCHEMA.field(name) for name in names]).empty_table()
    table = pa.concat_tables([empty, *tables]).combine_chunks()
    if pc.count_distinct(table["key"]).as_py() == len(table):
        return table
    best: dict[str, tuple[tuple[bool, int], int]] = {}
    keys, statuses, times = table["key"], table["status"], table["time"].cast(pa.int64())
    for at, (key, status, time) in enumerate(zip(keys.to_pylist(), statuses.to_pylist(), times.to_pylist(), strict=True)):
        rank = (status == "done", time or 0)
        if key not in best or rank > best[key][0]:
            best[key] = (rank, at)
    return table.take(sorted(at for _, at in best.values()))


def _is_table(info: fs.FileInfo) -> bool:
    """Whether it is a Parquet file under its final name."""
    return bool(info.type == fs.FileType.File and info.extension == "parquet" and not info.base_name.startswith("."))
