"""Tests of the store: rows, curves, victims and checkpoints, on a disk and in a bucket, damaged, killed and shared."""

import dataclasses
import json
import multiprocessing
import os
import pickletools
import re
import signal
import string
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs

from bdray.spec import BadInput, key_of
from bdray.store.curve import CURVES
from bdray.store.row import SCHEMA, Row, of_record, to_table
from bdray.store.store import DamagedFile, Store

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def make_row(made: str = "a" * 16, padding: str = "", **values: Any) -> Row:
    """A finished row with a value of its own in every column that is not given, and the key of a spec that says its name."""
    chosen: dict[str, Any] = {"sweep": "s", "status": "done", "time": NOON, "proxies": '{"p": 0.5}'}
    chosen |= {"setting": "setting", "victim": "victim", **values}
    for number, field in enumerate(dataclasses.fields(Row)):
        kinds = {str: f"{field.name} ±\n|", int: 2**40 + number, float: 0.1 + number / 1000}
        if field.name not in chosen:
            chosen[field.name] = kinds[field.type]
    names = {name: {"name": chosen[name]} for name in ("attack", "defense", "data", "model", "task")}
    task = {**names["task"], "data": names["data"], "model": names["model"]}
    spec = {"attack": names["attack"], "defense": names["defense"], "seed": chosen["seed"], "task": task, "training": {}}
    spec |= {"made": made, "padding": padding}
    chosen |= {"spec": json.dumps(spec, sort_keys=True), "key": key_of(spec)}
    return Row(**{**chosen, **values})


def keyed(made: str, **values: Any) -> str:
    """The key of the row that `make_row` makes of it."""
    return make_row(made, **values).key


def named(table: pa.Table, *made: str) -> list[str]:
    """By what names `make_row` made the rows of a table; without their specs these, and those of one character, are known."""
    if "spec" in table.column_names:
        return [json.loads(spec)["made"] for spec in table["spec"].to_pylist()]
    names = {keyed(name): name for name in (*string.ascii_letters, *string.digits, *made)}
    return [names[key] for key in table["key"].to_pylist()]


def put_bytes(store: Store, path: str, data: bytes) -> None:
    """A file as someone else would leave it."""
    store.files.put(path, data)


def files(store: Store) -> list[str]:
    """Every file below the store."""
    return [path for path, info in store.files.list("", recursive=True).items() if info.type == fs.FileType.File]


def finals(store: Store) -> list[str]:
    """Every file below the store, with ID for the ids in the names of files of rows."""
    return sorted(re.sub(r"^(rows/.*)\.[0-9a-f]{12}\.parquet$", r"\1.ID.parquet", path) for path in files(store))


def one_file(store: Store) -> bytes:
    """The bytes of the one compacted file of the sweep s."""
    (path,) = (path for path in store.files.list("rows") if path.startswith("rows/s."))
    return store.files.get(path)


def row_bytes(row: Row, change: Callable[[pa.Table], pa.Table] = lambda table: table) -> bytes:
    """The Parquet file of a row, changed."""
    sink = pa.BufferOutputStream()
    pq.write_table(change(to_table([row])), sink)
    return bytes(sink.getvalue())


class TestRows:
    def test_every_column_survives(self, anywhere: Store) -> None:
        row = make_row()
        anywhere.put_row(row)
        assert anywhere.rows().schema == SCHEMA
        assert [of_record(r) for r in anywhere.rows().to_pylist()] == [row]
        found = anywhere.row(row.key)
        assert found is not None
        assert of_record(found) == row

    def test_nan_is_null_in_the_file_and_nan_in_the_row(self, store: Store) -> None:
        scores = [f.name for f in dataclasses.fields(Row) if f.type is float]
        store.put_row(make_row(**dict.fromkeys(scores, float("nan"))))
        assert all(store.rows()[name].null_count == 1 for name in scores)
        row = of_record(store.rows().to_pylist()[0])
        assert all(getattr(row, name) != getattr(row, name) for name in scores)

    def test_an_empty_store_has_the_columns_and_no_rows(self, anywhere: Store) -> None:
        assert anywhere.rows().schema == SCHEMA
        assert len(anywhere.rows("s")) == 0
        assert anywhere.row(keyed("a" * 16)) is None

    def test_a_sweep_sees_its_own_rows_only(self, anywhere: Store) -> None:
        for sweep, key in (("s", "a"), ("s2", "b"), ("t", "c")):
            anywhere.put_row(make_row(key, sweep=sweep))
        assert named(anywhere.rows("s")) == ["a"]
        assert sorted(named(anywhere.rows())) == ["a", "b", "c"]
        anywhere.put_row(make_row("d", sweep="s"))
        anywhere.compact("s")
        assert sorted(named(anywhere.rows("s"))) == ["a", "d"]
        assert named(anywhere.rows("s2")) == ["b"]

    @pytest.mark.parametrize("other", ["failed", "skipped"])
    @pytest.mark.parametrize("first", [True, False])
    def test_done_beats_any_other_however_new(self, anywhere: Store, other: str, first: bool) -> None:
        later = NOON + timedelta(days=1)
        anywhere.put_row(make_row(sweep="a" if first else "b", status="done", seconds=1.0))
        anywhere.put_row(make_row(sweep="b" if first else "a", status=other, time=later))
        assert anywhere.rows()["status"].to_pylist() == ["done"]
        found = anywhere.row(keyed("a" * 16))
        assert found is not None
        assert found["status"] == "done"

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
    def test_of_equals_the_newest_wins(self, anywhere: Store, order: tuple[int, ...]) -> None:
        for sweep, age in zip("abc", order, strict=True):
            anywhere.put_row(make_row(sweep=sweep, seconds=float(age), time=NOON - timedelta(minutes=age)))
        assert anywhere.rows()["seconds"].to_pylist() == [0.0]
        found = anywhere.row(keyed("a" * 16))
        assert found is not None
        assert found["seconds"] == 0.0

    def test_a_row_made_again_replaces_the_stored_one(self, anywhere: Store) -> None:
        anywhere.put_row(make_row(status="failed"))
        anywhere.put_row(make_row(status="done"))
        assert anywhere.rows()["status"].to_pylist() == ["done"]


class TestCompact:
    def test_one_file_holds_all(self, anywhere: Store) -> None:
        rows = [make_row(f"{i:016x}") for i in range(5)]
        for row in rows:
            anywhere.put_row(row)
        anywhere.compact("s")
        assert finals(anywhere) == ["rows/s.ID.parquet"]
        assert [of_record(r) for r in anywhere.rows().sort_by("key").to_pylist()] == sorted(rows, key=lambda row: row.key)
        for row in rows:
            found = anywhere.row(row.key)
            assert found is not None
            assert of_record(found) == row
        assert anywhere.row(keyed("nobody")) is None

    def test_again_changes_nothing(self, anywhere: Store) -> None:
        anywhere.compact("s")
        assert finals(anywhere) == []
        for i in range(3):
            anywhere.put_row(make_row(str(i)))
        anywhere.compact("s")
        before = one_file(anywhere)
        anywhere.compact("s")
        assert one_file(anywhere) == before

    def test_rows_that_arrive_afterwards_are_folded_in(self, anywhere: Store) -> None:
        for i in range(3):
            anywhere.put_row(make_row(str(i), status="failed"))
        anywhere.compact("s")
        anywhere.put_row(make_row("1", time=NOON + timedelta(1)))
        anywhere.put_row(make_row("3"))
        for _ in range(2):
            statuses = dict(zip(named(anywhere.rows()), anywhere.rows()["status"].to_pylist(), strict=True))
            assert statuses == {"0": "failed", "1": "done", "2": "failed", "3": "done"}
            found = anywhere.row(keyed("1"))
            assert found is not None
            assert found["status"] == "done"
            anywhere.compact("s")
        assert finals(anywhere) == ["rows/s.ID.parquet"]

    @pytest.mark.parametrize("deleted", [0, 1, 3])
    def test_killed_between_writing_and_deleting(self, anywhere: Store, monkeypatch: pytest.MonkeyPatch, deleted: int) -> None:
        for i in range(4):
            anywhere.put_row(make_row(str(i)))
        real, done = anywhere.files.delete, []

        def killed(path: str) -> None:
            if len(done) == deleted:
                raise KeyboardInterrupt
            done.append(path)
            real(path)

        monkeypatch.setattr(anywhere.files, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            anywhere.compact("s")
        monkeypatch.undo()
        assert sorted(named(anywhere.rows())) == ["0", "1", "2", "3"]
        anywhere.compact("s")
        assert finals(anywhere) == ["rows/s.ID.parquet"]
        assert sorted(named(anywhere.rows())) == ["0", "1", "2", "3"]

    def test_killed_while_writing_loses_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for i in range(3):
            store.put_row(make_row(str(i)))

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.compact("s")
        monkeypatch.undo()
        assert sorted(named(store.rows())) == ["0", "1", "2"]

    def test_a_row_written_again_meanwhile_stays(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for i in range(3):
            store.put_row(make_row(str(i), status="failed"))
        real = store.files.put_table

        def and_then_another(path: str, table: pa.Table, note: bytes) -> None:
            real(path, table, note)
            if path.startswith("rows/s."):
                monkeypatch.undo()
                store.put_row(make_row("1", seconds=5.0))

        monkeypatch.setattr(store.files, "put_table", and_then_another)
        store.compact("s")
        for _ in range(2):
            found = store.row(keyed("1"))
            assert found is not None
            assert (found["status"], found["seconds"]) == ("done", 5.0)
            store.compact("s")

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("when", range(4))
    @pytest.mark.parametrize("how", ["rows", "index", "row"])
    def test_a_reader_meanwhile_misses_nothing(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, how: str, when: int, first: bool
    ) -> None:
        """Another process compacts new rows and old ones, just before or just after one of the listings."""
        other = Store(store.uri)
        for key in "abc":
            store.put_row(make_row(key))
        other.compact("s")
        store.put_row(make_row("d"))
        real, listings = store.files.list, 0

        def meanwhile(folder: str, recursive: bool = False) -> dict[str, fs.FileInfo]:
            nonlocal listings
            listings += 1
            if first and listings == when + 1:
                other.compact("s")
            found = real(folder, recursive)
            if not first and listings == when + 1:
                other.compact("s")
            return found

        monkeypatch.setattr(store.files, "list", meanwhile)
        if how == "row":
            assert [store.row(keyed(made)) is not None for made in "abcd"] == [True] * 4
        else:
            assert sorted(named({"rows": store.rows, "index": store.index}[how]())) == list("abcd")

    def test_what_cannot_be_read_is_neither_replaced_nor_deleted(self, anywhere: Store) -> None:
        anywhere.put_row(make_row("1"))
        put_bytes(anywhere, "rows/s/2.parquet", b"PAR1 cut")
        with pytest.warns(DamagedFile, match=r"rows/s/2\.parquet"):
            anywhere.compact("s")
        assert finals(anywhere) == ["rows/s.ID.parquet", "rows/s/2.parquet"]
        put_bytes(anywhere, "rows/s.later.parquet", b"written by a later version")
        anywhere.put_row(make_row("3"))
        with pytest.warns(DamagedFile):
            anywhere.compact("s")
        assert finals(anywhere) == ["rows/s.ID.parquet", "rows/s.later.parquet", "rows/s/2.parquet"]
        assert anywhere.files.get("rows/s.later.parquet") == b"written by a later version"
        assert anywhere.files.get("rows/s/2.parquet") == b"PAR1 cut"
        for key in ("1", "3"):
            with pytest.warns(DamagedFile, match="later"):
                assert anywhere.row(keyed(key)) is not None

    def test_two_launches_compacting_at_once_lose_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """One has read row 0; then row 1 arrives and the other compacts both; then the first writes."""
        store.put_row(make_row("0"))
        real, other = store.files.put_table, Store(store.uri)

        def late(path: str, table: pa.Table, note: bytes) -> None:
            other.put_row(make_row("1"))
            other.compact("s")
            real(path, table, note)

        monkeypatch.setattr(store.files, "put_table", late)
        store.compact("s")
        monkeypatch.undo()
        assert sorted(named(store.rows())) == ["0", "1"]
        store.compact("s")
        assert finals(store) == ["rows/s.ID.parquet"]
        assert sorted(named(store.rows("s"))) == ["0", "1"]

    def test_thousands_of_rows(self, store: Store) -> None:
        rows = [make_row(f"{i:016x}") for i in range(3000)]
        store.files.put_table("rows/s.0.parquet", to_table(rows[:2000]))
        store.files.put_table("rows/t.0.parquet", to_table(rows[1000:]))
        assert sorted(store.rows()["key"].to_pylist()) == sorted(row.key for row in rows)


class TestIndex:
    def test_what_rows_says(self, anywhere: Store) -> None:
        for i in range(4):
            anywhere.put_row(make_row(str(i), status="failed", time=NOON))
        anywhere.compact("s")
        anywhere.put_row(make_row("1", time=NOON - timedelta(1)))
        anywhere.put_row(make_row("2", status="failed", time=NOON + timedelta(1), seconds=7.0))
        anywhere.put_row(make_row("2", sweep="t", status="skipped", time=NOON + timedelta(2)))
        for sweep in (None, "s", "t", "nobody"):
            rows = anywhere.rows(sweep).sort_by("key")
            index = anywhere.index(sweep).sort_by("key")
            assert index.column_names[:4] == ["key", "sweep", "status", "time"]
            assert index.equals(rows.select(index.column_names))
            some = anywhere.rows(sweep, ["seconds", "key"]).sort_by("key")
            assert some.equals(rows.select(["seconds", "key"]))

    def test_it_reads_no_more_of_a_compacted_file(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for i in range(3):
            store.put_row(make_row(str(i)))
        store.compact("s")
        asked: list[str] = []
        real = pq.ParquetFile.iter_batches

        def read(file: pq.ParquetFile, size: int, columns: list[str] | None = None, **rest: Any) -> Any:
            asked.extend(columns or ["everything"])
            return real(file, size, columns=columns, **rest)

        monkeypatch.setattr(pq.ParquetFile, "iter_batches", read)
        names = store.index().column_names
        assert sorted(asked) == sorted(names)

    def test_rows_of_other_versions(self, store: Store) -> None:
        lost = [name for name in ("asr_after", "proxies", "time") if name in SCHEMA.names]
        put_bytes(store, "rows/s/old.parquet", row_bytes(make_row("old"), lambda t: t.drop_columns(lost)))
        put_bytes(store, "rows/s/new.parquet", row_bytes(make_row("new"), lambda t: t.append_column("news", pa.array([1]))))
        index = {row["key"]: row for row in store.index("s").to_pylist()}
        assert index[keyed("old")]["time"] is None
        assert index[keyed("new")]["time"] == NOON


def renamed(table: pa.Table) -> pa.Table:
    return table.rename_columns([f"{name}_" for name in table.column_names])


def with_column(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, values)

    return change


def twice(table: pa.Table) -> pa.Table:
    return table.append_column("key", table["key"])


FOREIGN = {
    "other columns": renamed,
    "no columns": lambda table: pa.table({}),
    "key is a number": with_column("key", pa.array([7])),
    "spec is bytes": with_column("spec", pa.array([b"\xff"])),
    "status is a list": with_column("status", pa.array([["done"]])),
    "a score is a text": with_column("asr_after", pa.array(["0.5"])),
    "a count is a fraction": with_column("poisoned", pa.array([0.5])),
    "a score is a flag": with_column("asr_after", pa.array([True])),
    "the time is a number": with_column("time", pa.array([5])),
    "the key is null": with_column("key", pa.array([None], pa.string())),
    "the spec is null throughout": with_column("spec", pa.nulls(1)),
    "a column twice": twice,
}


def ignored(store: Store, made: str, data: bytes) -> None:
    """A file with this content is passed over, by name, by every way of reading, and a new row stands beside it."""
    key = keyed(made)
    for path in (f"rows/s/{key}.parquet", "rows/other.parquet"):
        put_bytes(store, path, data)
        for read in (store.rows, store.index):
            with pytest.warns(DamagedFile, match=rf"ignored {path.replace('.', '[.]')} in the store .*it will be made again"):
                assert named(read(), "good") == ["good"]
        with pytest.warns(DamagedFile):
            assert store.row(key) is None
        store.files.delete(path)
    put_bytes(store, f"rows/s/{key}.parquet", data)
    store.put_row(make_row(made))
    with pytest.warns(DamagedFile):
        assert sorted(named(store.rows(), "good", made)) == sorted(["good", made])
    store.files.delete(f"rows/s/{key}.parquet")
    (path,) = (path for path in store.files.list("rows/s") if path.startswith(f"rows/s/{key}."))
    store.files.delete(path)


class TestDamagedRows:
    @pytest.fixture(autouse=True)
    def _one_good_row(self, anywhere: Store) -> None:
        anywhere.put_row(make_row("good"))

    def test_cut_short_at_any_length(self, anywhere: Store) -> None:
        whole = row_bytes(make_row("cut"))
        lengths = {0, 8, len(whole) // 2, len(whole) - 1}
        if "://" not in anywhere.uri:
            lengths |= {1, 3, 4, 12, *range(len(whole) - 24, len(whole), 3)}
        for length in lengths:
            ignored(anywhere, "cut", whole[:length])

    def test_text_and_noise(self, anywhere: Store) -> None:
        whole = row_bytes(make_row("cut"))
        noise = bytes(i * 37 % 256 for i in range(2000))
        for data in (
            b"key,status\na,done\n",
            b"\n",
            noise,
            b"PAR1" + noise + b"PAR1",
            bytes(len(whole)),
            whole[:-200] + bytes(200),
        ):
            ignored(anywhere, "foreign", data)

    def test_other_files_and_empty_folders_are_no_concern(self, anywhere: Store) -> None:
        half = row_bytes(make_row("half"))[:100]
        name = f"rows/s/.half.parquet.{uuid.uuid4().hex}"
        for path in (
            name,
            "rows/s/.half.parquet",
            "rows/notes.txt",
            "rows/s/notes.md",
            "readme.parquet.bak",
            "rows/.s.parquet",
        ):
            put_bytes(anywhere, path, half)
        anywhere.files.system.create_dir(f"{anywhere.files.root}/rows/empty", recursive=True)
        anywhere.files.system.create_dir(f"{anywhere.files.root}/rows/folder.parquet/below", recursive=True)
        for _ in range(2):
            assert named(anywhere.rows(), "good") == ["good"]
            assert named(anywhere.rows("empty")) == []
            assert anywhere.row(keyed("half")) is None
            anywhere.compact("empty")
            anywhere.compact("s")
        assert name in finals(anywhere), "the store deletes what it did not write"


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_table(store: Store, what: str) -> None:
    store.put_row(make_row("good"))
    ignored(store, "foreign", row_bytes(make_row("foreign"), FOREIGN[what]))


class TestRowsOfOtherVersions:
    def test_an_older_row_lacks_a_column(self, anywhere: Store) -> None:
        lost = ["asr_after", "commit", "poisoned", "time"]
        key = keyed("old")
        put_bytes(anywhere, f"rows/s/{key}.parquet", row_bytes(make_row("old", seconds=3.0), lambda t: t.drop_columns(lost)))
        anywhere.put_row(make_row("new"))
        assert anywhere.rows().schema == SCHEMA
        old = {r["key"]: r for r in anywhere.rows().to_pylist()}[key]
        assert (old["seconds"], *(old[name] for name in lost)) == (3.0, None, None, None, None)
        row = of_record(old)
        assert (row.commit, row.poisoned, row.seconds) == ("", 0, 3.0)
        assert row.asr_after != row.asr_after
        anywhere.put_row(row)
        assert anywhere.row(key) == {**old, "commit": "", "poisoned": 0}

    def test_one_without_a_time_is_the_oldest(self, anywhere: Store) -> None:
        for sweep in ("a", "c"):
            old = row_bytes(make_row("k", seconds=3.0), lambda t: t.drop_columns(["time"]))
            put_bytes(anywhere, f"rows/{sweep}/k.parquet", old)
        anywhere.put_row(make_row("k", sweep="b", seconds=1.0))
        assert anywhere.rows()["seconds"].to_pylist() == [1.0]

    def test_a_newer_row_has_a_column_more(self, anywhere: Store) -> None:
        newer = row_bytes(make_row("k"), lambda t: t.append_column("news", pa.array([1])))
        put_bytes(anywhere, f"rows/s/{keyed('k')}.parquet", newer)
        found = anywhere.row(keyed("k"))
        assert found is not None
        assert of_record(found) == make_row("k")

    def test_the_same_values_in_another_layout(self, anywhere: Store) -> None:
        def other(table: pa.Table) -> pa.Table:
            table = table.select(sorted(table.column_names))
            for name, kind in (("key", pa.large_string()), ("seed", pa.int32()), ("asr_after", pa.float32())):
                table = with_column(name, table[name].cast(kind))(table)
            return with_column("defense", table["defense"].dictionary_encode())(table)

        row = make_row("k", seed=3, asr_after=0.5)
        put_bytes(anywhere, "rows/s/k.parquet", row_bytes(row, other))
        assert [of_record(r) for r in anywhere.rows().to_pylist()] == [row]


class TestTables:
    @pytest.mark.parametrize("kind", ["curves", "masks"])
    def test_round_trip(self, anywhere: Store, kind: str) -> None:
        table = pa.Table.from_pylist([{"key": "k", "of": "victim", "step": 1, "metric": "loss", "value": 0.1}], CURVES)
        assert anywhere.table(kind, "k") is None
        anywhere.put_table(kind, "k", table)
        found = anywhere.table(kind, "k")
        assert found is not None
        assert found.equals(table)

    def test_cut_short(self, anywhere: Store) -> None:
        anywhere.put_table("masks", "k", pa.table({"mask": [1.0]}))
        put_bytes(anywhere, "tables/masks/k.parquet", anywhere.files.get("tables/masks/k.parquet")[:-9])
        with pytest.warns(DamagedFile, match=r"tables/masks/k\.parquet"):
            assert anywhere.table("masks", "k") is None


def awkward_tensors() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 4, 5, generator=rng)
    tied = torch.randn(3, 3, generator=rng)
    return {
        "uint8": torch.arange(256).to(torch.uint8),
        "int64": torch.tensor([2**62, -(2**62), 0]),
        "float32": torch.tensor([1e-45, -0.0, 3.4e38, float("inf")]),
        "bfloat16": image.bfloat16(),
        "bool": torch.tensor([[True, False]]),
        "scalar": torch.tensor(7),
        "none": torch.empty(0, dtype=torch.int64),
        "no rows": torch.empty(0, 3, 32, 32, dtype=torch.uint8),
        "transposed": image.transpose(1, 3),
        "strided": image[:, ::2],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "channels_last": image.contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(tied),
        "tied": tied,
        "tied view": tied[1:],
    }


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[n].dtype == t.dtype and found[n].shape == t.shape and torch.equal(found[n], t) for n, t in wanted.items()
    )


class TestVictims:
    def test_tensors_survive(self, anywhere: Store) -> None:
        assert anywhere.victim("v") is None
        parts = {"model": awkward_tensors(), "attack": {"poisoned": torch.arange(3)}, "empty": {}}
        about = {"seconds": 0.1, "scores": {"asr": float("nan")}, "spec": {"name": "±"}}
        anywhere.put_victim("v", parts, about)
        found = anywhere.victim("v")
        assert found is not None
        assert found[0].keys() == parts.keys()
        assert all(same(found[0][part], parts[part]) for part in parts)
        assert {k: str(v) for k, v in found[1].items() if k in about} == {k: str(v) for k, v in about.items()}
        assert anywhere.victim_about("v") is not None

    def test_a_channels_last_model_loads_as_it_was(self, store: Store) -> None:
        model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        store.put_victim("v", {"model": model.state_dict()}, {})
        found = store.victim("v")
        assert found is not None
        fresh = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fresh.load_state_dict(found[0]["model"])
        assert torch.equal(fresh.weight, model.weight)
        assert fresh.weight.is_contiguous(memory_format=torch.channels_last)

    def test_without_its_json_it_does_not_exist(self, anywhere: Store) -> None:
        """A training that was killed while it stored its victim."""
        anywhere.put_victim("v", {"model": awkward_tensors()}, {})
        anywhere.files.delete("victims/v/victim.json")
        assert anywhere.victim("v") is None
        assert anywhere.victim_about("v") is None

    def test_a_part_cut_short(self, anywhere: Store) -> None:
        anywhere.put_victim("v", {"model": awkward_tensors(), "attack": {"x": torch.ones(9)}}, {})
        path = "victims/v/attack.safetensors"
        whole = anywhere.files.get(path)
        for length in (0, 7, 8, len(whole) // 2, len(whole) - 1):
            put_bytes(anywhere, path, whole[:length])
            for read in (anywhere.victim, anywhere.victim_about):
                with pytest.warns(DamagedFile, match=rf"{path}.*{length} bytes, not {len(whole)}"):
                    assert read("v") is None

    def test_a_part_of_full_size_that_is_no_safetensors(self, anywhere: Store) -> None:
        anywhere.put_victim("v", {"model": {"x": torch.ones(9)}}, {})
        path = "victims/v/model.safetensors"
        put_bytes(anywhere, path, bytes([255]) * len(anywhere.files.get(path)))
        with pytest.warns(DamagedFile, match=path):
            assert anywhere.victim("v") is None

    def test_a_part_that_is_not_there(self, anywhere: Store) -> None:
        anywhere.put_victim("v", {"model": {"x": torch.ones(9)}}, {})
        anywhere.files.delete("victims/v/model.safetensors")
        with pytest.warns(DamagedFile, match="model.safetensors .*is not there"):
            assert anywhere.victim("v") is None

    @pytest.mark.parametrize("text", ["", "{", "null", "[1, 2]", "{}", '{"bytes": 3}', '{"bytes": null}', "\x00\xff", "<html>"])
    def test_no_json_of_a_victim(self, anywhere: Store, text: str) -> None:
        anywhere.put_victim("v", {"model": {"x": torch.ones(9)}}, {})
        put_bytes(anywhere, "victims/v/victim.json", text.encode("latin-1"))
        for read in (anywhere.victim, anywhere.victim_about):
            with pytest.warns(DamagedFile, match=r"victims/v/victim\.json"):
                assert read("v") is None

    def test_json_cut_short(self, anywhere: Store) -> None:
        anywhere.put_victim("v", {"model": {"x": torch.ones(9)}}, {"seconds": 1.0})
        whole = anywhere.files.get("victims/v/victim.json")
        for length in range(0, len(whole), 7):
            put_bytes(anywhere, "victims/v/victim.json", whole[:length])
            with pytest.warns(DamagedFile):
                assert anywhere.victim("v") is None

    def test_made_again_it_is_whole(self, anywhere: Store) -> None:
        anywhere.put_victim("v", {"model": {"x": torch.ones(9)}}, {})
        put_bytes(anywhere, "victims/v/model.safetensors", b"cut")
        anywhere.put_victim("v", {"model": {"x": torch.zeros(4)}}, {})
        found = anywhere.victim("v")
        assert found is not None
        assert same(found[0]["model"], {"x": torch.zeros(4)})


class TestCheckpoints:
    def test_round_trip(self, anywhere: Store) -> None:
        checkpoint = anywhere.checkpoint("v")
        assert checkpoint.load() is None
        for epochs in (1, 2):
            checkpoint.save(awkward_tensors(), epochs)
        found = anywhere.checkpoint("v").load()
        assert found is not None
        assert found[1] == 2
        assert same(found[0], awkward_tensors())

    def test_deleted(self, anywhere: Store) -> None:
        checkpoint = anywhere.checkpoint("v")
        checkpoint.delete()
        checkpoint.save({"x": torch.ones(3)}, 1)
        checkpoint.delete()
        assert checkpoint.load() is None
        assert finals(anywhere) == []

    def test_cut_short_or_foreign(self, anywhere: Store) -> None:
        from safetensors.torch import save

        checkpoint, path = anywhere.checkpoint("v"), "checkpoints/v.safetensors"
        checkpoint.save({"x": torch.ones(9)}, 1)
        whole = anywhere.files.get(path)
        for data in (b"", whole[:7], whole[:40], whole[:-1], whole + b"\0", bytes(50), save({"x": torch.ones(2)})):
            put_bytes(anywhere, path, data)
            with pytest.warns(DamagedFile, match=path):
                assert checkpoint.load() is None
        checkpoint.save({"x": torch.ones(9)}, 3)
        found = checkpoint.load()
        assert found is not None
        assert found[1] == 3


def test_what_is_replaced_while_it_is_read_is_not_damaged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow asks a bucket for an object's size, and then for so many bytes, which may be another object's by then."""
    store.put_row(make_row("k"))
    store.put_table("masks", "k", pa.table({"mask": [1.0]}))
    store.put_victim("v", {"model": {"x": torch.ones(3)}}, {})
    store.checkpoint("v").save({"x": torch.ones(3)}, 1)
    real, reads = store.files.get, dict[str, int]()

    def garbled(path: str) -> bytes:
        reads[path] = reads.get(path, 0) + 1
        return real(path) + b"\0" if reads[path] == 1 else real(path)

    monkeypatch.setattr(store.files, "get", garbled)
    assert store.row(keyed("k")) is not None
    assert store.table("masks", "k") is not None
    assert store.victim("v") is not None
    assert store.checkpoint("v").load() is not None
    assert set(reads.values()) == {2}


def test_nothing_written_is_a_pickle(anywhere: Store) -> None:
    anywhere.put_row(make_row())
    anywhere.put_table("masks", "k", pa.table({"mask": [1.0]}))
    anywhere.put_victim("v", {"model": awkward_tensors()}, {"seconds": 1})
    anywhere.checkpoint("v").save(awkward_tensors(), 1)
    kinds = {}
    for path, name in zip(sorted(files(anywhere)), finals(anywhere), strict=True):
        data = anywhere.files.get(path)
        kinds[name] = "parquet" if data[:4] == data[-4:] == b"PAR1" else "zip" if data[:2] == b"PK" else "other"
        if path.endswith(".safetensors"):
            json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        if kinds[name] == "other":
            with pytest.raises(ValueError):  # noqa: PT011  pickletools raises it bare
                list(pickletools.genops(data))
    assert sorted(kinds) == [
        "checkpoints/v.safetensors",
        f"rows/s/{make_row().key}.ID.parquet",
        "tables/masks/k.parquet",
        "victims/v/model.safetensors",
        "victims/v/victim.json",
    ]
    assert "zip" not in kinds.values(), "torch.save writes a zip of pickles"


AGAIN = """
import dataclasses, json, pathlib, sys
from bdray.store.row import of_record
from bdray.spec import key_of
from bdray.store.store import Store

def again(row, made):
    spec = {**json.loads(row.spec), "made": made}
    return dataclasses.replace(row, key=key_of(spec), spec=json.dumps(spec, sort_keys=True))
"""


class TestWriters:
    def test_killed_in_the_middle(self, store: Store) -> None:
        """kill -9 while rows and victims are written, at four moments: what has a final name is whole."""
        store.put_row(make_row("seed", "x" * 100_000))
        script = (
            f"{AGAIN}\nimport itertools\n"
            "store = Store(sys.argv[1])\n"
            "row = of_record(store.rows().to_pylist()[0])\n"
            "print('ready', flush=True)\n"
            "for i in itertools.count(int(sys.argv[2])):\n"
            "    store.put_row(again(row, f'{i:016x}'))\n"
            "    store.files.put(f'victims/{i}/model.safetensors', b'whole' * 100_000)\n"
        )
        for attempt in range(4):
            words = [sys.executable, "-c", script, store.uri, str(attempt * 10**6)]
            with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"ready\n"
                time.sleep(0.15 + 0.013 * attempt)
                os.kill(writer.pid, signal.SIGKILL)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rows = store.rows()
        assert len(rows) >= 5
        assert {json.loads(spec)["padding"] for spec in rows["spec"].to_pylist()} == {"x" * 100_000}
        names = [p for p in finals(store) if p.startswith("victims/") and p.endswith(".safetensors")]
        assert {store.files.get(p) for p in names} == {b"whole" * 100_000}
        store.compact("s")
        assert len(store.rows()) == len(rows)

    def test_two_at_once_leave_whole_files(self, store: Store) -> None:
        context = multiprocessing.get_context("fork")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads; the children only write
            writers = [context.Process(target=_write_often, args=(store.uri, n)) for n in range(2)]
            for writer in writers:
                writer.start()
        seen: set[tuple[float, str]] = set()
        while any(writer.is_alive() for writer in writers):
            seen |= {(r["seconds"], r["error"]) for r in store.rows().to_pylist()}  # a DamagedFile would be an error
        for writer in writers:
            writer.join()
        assert [writer.exitcode for writer in writers] == [0, 0]
        seen |= {(r["seconds"], r["error"]) for r in store.rows().to_pylist()}
        assert seen <= {(0.0, "0" * 50_000), (1.0, "1" * 50_000)}
        assert set(finals(store)) == {f"rows/s/{keyed('a' * 16)}.ID.parquet"}
        store.compact("s")
        assert finals(store) == ["rows/s.ID.parquet"]

    def test_listing_a_folder_that_comes_and_goes(self, tmp_path: Path) -> None:
        """The first row of a sweep makes the folder that somebody else may be just looking for."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # as above
            maker = multiprocessing.get_context("fork").Process(target=_make_often, args=(tmp_path / "rows",))
            maker.start()
        listed = []
        while maker.is_alive():
            listed.append(Store(str(tmp_path)).files.list("rows", recursive=True))
        maker.join()
        assert maker.exitcode == 0
        assert listed
        assert not any(listed)


def _make_often(folder: Path) -> None:
    for _ in range(20_000):
        folder.mkdir()
        folder.rmdir()


def _write_often(uri: str, number: int) -> None:
    store = Store(uri)
    for _ in range(40):
        store.put_row(make_row(seconds=float(number), error=str(number) * 50_000))


WRITER = f"""{AGAIN}
store, proof, start, count = Store(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
row = of_record(store.rows().to_pylist()[0])
for i in range(start, start + count):
    for status in ("failed", "done"):
        new = dataclasses.replace(again(row, str(i)), status=status)
        store.put_row(new)
        (proof / f"{{new.key}}.{{status}}").touch()
"""
COMPACTOR = """
import pathlib, sys
from bdray.store.store import Store
store, proof = Store(sys.argv[1]), pathlib.Path(sys.argv[2])
print("ready", flush=True)
while not (proof / "stop").exists():
    store.compact("s")
"""


class TestManyAtOnce:
    """Processes that write rows, and some of them a second time, compact and read, all at once."""

    def run(self, store: Store, proof: Path, count: int, compactors: int) -> int:
        """Every read while they work is complete; how many reads there were."""
        proof.mkdir()
        store.put_row(make_row("seed"))
        words = [sys.executable, "-c"]
        others = [subprocess.Popen([*words, COMPACTOR, store.location(), proof]) for _ in range(compactors)]
        writers = [subprocess.Popen([*words, WRITER, store.location(), proof, str(start), str(count)]) for start in (0, count)]
        reads = 0
        try:
            while any(writer.poll() is None for writer in writers):
                written = [path.name.split(".") for path in proof.iterdir()]
                for table in (store.index("s"), store.rows("s", ["key", "status"]), store.rows()):
                    found = dict(zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True))
                    assert len(found) == len(table), "a row twice"
                    assert {key for key, _ in written} <= found.keys(), "a row that is not seen"
                    assert {found[key] for key, status in written if status == "done"} <= {"done"}, "an older row"
                    reads += 1
                for key, status in written[-2:]:
                    row = store.row(key, "s")
                    assert row is not None
                    assert row["status"] in ("done", status)
        finally:
            (proof / "stop").touch()
            codes = [process.wait() for process in (*writers, *others)]
        assert codes == [0] * len(codes)
        return reads

    def check(self, store: Store, count: int) -> None:
        store.compact("s")
        assert finals(store) == ["rows/s.ID.parquet"]
        rows = store.rows("s").to_pylist()
        assert {json.loads(row["spec"])["made"] for row in rows} == {"seed", *map(str, range(2 * count))}
        assert {row["status"] for row in rows} == {"done"}

    def test_on_a_disk(self, store: Store, tmp_path: Path) -> None:
        assert self.run(store, tmp_path / "proof", 60, compactors=2) > 3
        self.check(store, 60)

    def test_in_a_bucket(self, bucket: Store, tmp_path: Path) -> None:
        assert self.run(bucket, tmp_path / "proof", 15, compactors=1) > 3
        self.check(bucket, 15)

    def test_compactors_are_killed(self, store: Store, tmp_path: Path) -> None:
        proof = tmp_path / "proof"
        proof.mkdir()
        store.put_row(make_row("seed"))
        words = [sys.executable, "-c"]
        with subprocess.Popen([*words, WRITER, store.uri, proof, "0", "100"]) as writer:
            attempt = 0
            while writer.poll() is None or attempt < 6:
                with subprocess.Popen([*words, COMPACTOR, store.uri, proof], stdout=subprocess.PIPE) as compactor:
                    assert compactor.stdout is not None
                    assert compactor.stdout.readline() == b"ready\n"
                    time.sleep(0.004 + 0.007 * (attempt % 9))
                    compactor.kill()
                attempt += 1
                written = {path.name.split(".")[0] for path in proof.iterdir()}
                assert written <= set(store.index("s")["key"].to_pylist())
        assert writer.returncode == 0
        for path in files(store):
            if "/." in path:  # what a killed one was just writing; no reader looks at it
                store.files.delete(path)
        self.check(store, 50)


class TestWritable:
    def test_checking_leaves_nothing(self, anywhere: Store) -> None:
        anywhere.check_writable()
        assert finals(anywhere) == []

    @pytest.mark.parametrize("place", ["below a file", "/proc/bdray"])
    def test_a_place_that_cannot_be_written(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "file").write_text("x")
        uri = str(tmp_path / "file" / "store") if place == "below a file" else place
        store = Store(uri)
        with pytest.raises(BadInput, match=rf"cannot write to the store '{uri}': .*--store") as caught:
            store.check_writable()
        assert "\n" not in str(caught.value)
        with pytest.raises(BadInput, match="cannot write"):
            store.put_row(make_row())
        assert len(store.rows()) == 0
        assert store.row(keyed("k")) is None

    def test_a_folder_without_permission(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", "/x")

        monkeypatch.setattr(os, "makedirs", refused)
        with pytest.raises(BadInput, match=f"cannot write to the store '{store.uri}': Permission denied; "):
            store.check_writable()

    def test_a_full_disk_leaves_no_half_file(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(BadInput, match="No space left"):
            store.put_row(make_row())
        assert finals(store) == []

    def test_a_file_that_may_not_be_read_is_said_not_forgotten(self, anywhere: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """A network that is down is no damage: the cells must not be run again for it."""
        anywhere.put_row(make_row("k"))

        class Down:
            def __getattr__(self, name: str) -> Any:
                raise OSError("When reading: curlCode 28, Timeout was reached\nmore")

        monkeypatch.setattr(anywhere.files, "system", Down())
        reads: list[Callable[[], object]] = [anywhere.rows, lambda: anywhere.row(keyed("k"))]
        for read in (*reads, lambda: anywhere.victim("v"), lambda: anywhere.compact("s")):
            with pytest.raises(BadInput, match=r"cannot .* the store .*Timeout was reached; "):
                read()

    @pytest.mark.parametrize("uri", ["foo://x", "http://host/x", "://", "s3:///", "nosuchscheme://a/b"])
    def test_no_such_kind_of_store(self, uri: str) -> None:
        with pytest.raises(BadInput, match=f"cannot use the store '{uri}'") as caught:
            Store(uri)
        assert "\n" not in str(caught.value)

    def test_the_location_opens_the_same_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for uri in ("here", f"file://{tmp_path}/there/", str(tmp_path / "x" / ".." / "y")):
            store = Store(uri)
            store.put_row(make_row())
            location = store.location()
            monkeypatch.chdir("/")
            assert len(Store(location).rows()) == 1
            monkeypatch.chdir(tmp_path)


def test_reading_rows_imports_no_torch() -> None:
    modules = "bdray.store.store, bdray.store.row, bdray.report.table, bdray.report.picture"
    words = f"import sys, {modules}\nprint({{'torch', 'ray'}} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
