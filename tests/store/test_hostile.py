"""Tests of a store that a disk or a person has changed: no flipped bit is read for a value, no link is followed, no forged file
stops a reader, takes the memory or steers the terminal; and no secret of an URI is said."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load, save

from bdray.__main__ import main
from bdray.launch.work import Work
from bdray.run import run
from bdray.spec import BadInput
from bdray.store import trials as trial_files
from bdray.store.claims import LEASE, Claims
from bdray.store.curve import CURVES
from bdray.store.keeping import check
from bdray.store.refusal import refusal, shown, without_secrets
from bdray.store.row import SCHEMA, to_table
from bdray.store.seal import MARK, ROWS, note_of
from bdray.store.store import DamagedFile, Store
from bdray.store.trials import Trial, put_trial
from bdray.wording import printable
from tests.store.test_store import files, keyed, make_row, named
from tests.tiny import tiny

ESC = "\x1b]0;pwned\x07\x1b[31m"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Damage is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedFile)
        yield


def one(store: Store, folder: str = "rows/s") -> str:
    """The path of the one file in a folder."""
    (path,) = (path for path in store.files.list(folder) if path.endswith(".parquet"))
    return path


def forged(store: Store, **values: Any) -> None:
    """A row without a seal beside a sound one, with these values in place of its own."""
    table = to_table([make_row("f")])
    for name, value in values.items():
        at = SCHEMA.get_field_index(name)
        table = table.set_column(at, name, value if isinstance(value, pa.Array) else pa.array([value], SCHEMA.field(name).type))
    store.put_row(make_row("g"))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.files.put(f"rows/s/{keyed('f')}.x.parquet", sink.getvalue())


class TestFlippedBits:
    @pytest.mark.parametrize("compacted", [False, True])
    def test_in_a_file_of_rows(self, store: Store, compacted: bool) -> None:
        for made in "ab" if compacted else "a":
            store.put_row(make_row(made, proxies=""))
        if compacted:
            store.compact("s")
        path = one(store, "rows") if compacted else one(store)
        good, table, draw = store.files.get(path), store.rows(), random.Random(0)
        assert note_of(good) == ROWS
        mark = range(good.rfind(MARK), good.rfind(MARK) + len(MARK))
        with quiet():
            for at in {*range(0, len(good), 41), *mark, *range(len(good) - 12, len(good))}:
                data = bytearray(good)
                data[at] ^= 1 << draw.randrange(8)
                store.files.put(path, bytes(data), durable=False)
                found = store.rows()
                # Without its mark a file is an older one, whose values are what they are.
                assert found.equals(table) if at in mark else not len(found), at

    @pytest.mark.parametrize(
        "values",
        [
            *({name: None} for name in ("key", "sweep", "state", "step", "steps", "objective", "setting", "cells")),
            {"state": "won"},
            {"step": -1},
            {"value": float("inf")},
            {"setting": "[1]"},
            {"setting": "[" * 100_000},
            {"cells": '"abc"'},
            {"cells": '{"abc": 1}'},
            {"cells": "[1]"},
            {"cells": "NaN"},
        ],
    )
    def test_a_forged_trial_is_none(self, store: Store, values: dict[str, Any]) -> None:
        good: dict[str, Any] = {"key": "a", "sweep": "s", "state": "finished", "steps": 1, "step": 1, "objective": "o"}
        put_trial(store, Trial(**{**good, "setting": {"lr": 0.1}, "cells": ["c"], "value": float("nan")}))
        table = store.files.table("searches/s/a.parquet")
        assert table is not None
        (record,) = table.to_pylist()
        store.files.put_table("searches/s/b.parquet", pa.Table.from_pylist([{**record, **values}], trial_files.SCHEMA))
        store.files.put_table("searches/s/c.parquet", pa.table({"key": ["c"]}))
        with pytest.warns(DamagedFile, match="is no trial"):
            (found,) = trial_files.trials(store, "s")
        assert (found.key, found.value) == ("a", None)

    def test_in_tables_and_trials(self, store: Store) -> None:
        store.put_table("masks", "k", pa.table({"mask": [0.25, 0.5]}))
        good = store.files.get("tables/masks/k.parquet")
        at = good.find(np.float64(0.5).tobytes()) if np.float64(0.5).tobytes() in good else len(good) // 4
        store.files.put("tables/masks/k.parquet", good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.warns(DamagedFile, match=r"masks/k\.parquet .*its SHA-256 is another one"):
            assert store.table("masks", "k") is None

    def test_pages_have_checksums_for_other_readers(self, store: Store) -> None:
        store.put_row(make_row("a"))
        path = one(store)
        data = bytearray(store.files.get(path))
        data[data.index(b"host \xc2\xb1")] ^= 1
        with pytest.raises(OSError, match="CRC"):
            pq.ParquetFile(pa.BufferReader(bytes(data)), page_checksum_verification=True).read()

    def test_written_again_by_another_program_it_has_no_seal(self, store: Store) -> None:
        store.put_row(make_row("a"))
        sink = pa.BufferOutputStream()
        pq.write_table(pq.read_table(pa.BufferReader(store.files.get(one(store)))), sink)
        assert note_of(bytes(sink.getvalue())) is None

    @pytest.mark.parametrize("part", ["model.safetensors", "victim.json"])
    def test_in_a_victim(self, store: Store, part: str) -> None:
        store.put_victim("v", {"model": {"x": torch.arange(20.0)}}, {"seconds": 1.25, "scores": {"asr": 0.125}})
        path = f"victims/v/{part}"
        good = store.files.get(path)
        about = store.victim_about("v")
        assert about is not None
        assert about["sha256"]["model"] == hashlib.sha256(store.files.get("victims/v/model.safetensors")).hexdigest()
        for at in range(good.find(b"0.125") if part == "victim.json" else len(good) - 80, len(good), 9):
            if good[at : at + 1].isspace():
                continue
            store.files.put(path, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], durable=False)
            with pytest.warns(DamagedFile):
                assert store.victim("v") is None
            assert check(store)[1]

    def test_in_a_checkpoint_and_a_part_by_itself(self, store: Store) -> None:
        store.checkpoint("v").save({"x": torch.ones(9)}, 3)
        store.put_victim_part("w", "proxy", {"x": torch.ones(9)})
        for path in ("checkpoints/v.safetensors", "victims/w/proxy.safetensors"):
            data = bytearray(store.files.get(path))
            data[-1] ^= 1
            store.files.put(path, bytes(data))
        with pytest.warns(DamagedFile, match="SHA-256"):
            assert store.checkpoint("v").load() is None
        with pytest.warns(DamagedFile, match="SHA-256"):
            assert store.victim_part("w", "proxy") is None
        assert "2 damaged" in check(store)[0]


class TestOlderStores:
    """Files without checksums are read as before, and `store check` says that they have none."""

    def test_they_are_read(self, store: Store) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(to_table([make_row("a"), make_row("b")]), sink, compression="zstd")
        store.files.put("rows/s.0.parquet", sink.getvalue())
        data = save({"x": torch.ones(3)})
        store.files.put("victims/v/model.safetensors", data)
        store.files.put("victims/v/victim.json", json.dumps({"seconds": 1.0, "bytes": {"model": len(data)}}).encode())
        assert sorted(named(store.rows())) == ["a", "b"]
        assert store.victim("v") is not None
        text, damaged = check(store)
        assert not damaged
        assert text.endswith("\n2 files have no checksum: an older bdray wrote them, and a flipped bit in them may pass unseen")
        store.put_row(make_row("c"))
        store.compact("s")
        assert note_of(store.files.get(one(store, "rows"))) == ROWS


LIES: dict[str, dict[str, Any]] = {
    "the key of another spec": {"key": "0123456789abcdef"},
    "a key that is a path": {"key": "../../x"},
    "no spec": {"spec": "{}"},
    "spec: a list": {"spec": "[]"},
    "spec: no JSON": {"spec": "x"},
    "spec: nested": {"spec": '{"a":' * 50_000 + "1" + "}" * 50_000},
    "spec: a number of 5000 digits": {"spec": '{"seed": ' + "9" * 5000 + "}"},
    "spec: of 2 MB": {"spec": json.dumps({"a": "x" * 2**21})},
    "another attack": {"attack": "blend"},
    "another seed": {"seed": 5},
    "a status": {"status": "weird"},
    "no status": {"status": ""},
    "a share of 5": {"asr_after": 5.0},
    "a share below 0": {"asr_after": -1.0},
    "a share that is no number": {"utility_after": float("nan")},
    "seconds without end": {"seconds": float("inf")},
    "a count below 0": {"poisoned": -1},
    "a sweep that is a path": {"sweep": "../../x"},
    "no sweep": {"sweep": pa.nulls(1, pa.string())},
    "a victim that is a path": {"victim": "../../../../etc"},
    "proxies: nested": {"proxies": "[" * 50_000},
    "proxies: a list": {"proxies": "[1]"},
    "proxies: NaN": {"proxies": '{"a": NaN}'},
    "a time in the far future": {"time": pa.array([2**62], pa.timestamp("us", tz="UTC"))},
    "bytes that are no text": {"attack": pa.array([b"\xff\xfe"]).view(pa.binary()).cast(pa.string(), safe=False)},
}


class TestRows:
    @pytest.mark.parametrize("lie", LIES)
    def test_what_no_bdray_writes_is_no_row(self, store: Store, lie: str) -> None:
        forged(store, **LIES[lie])
        with pytest.warns(DamagedFile, match=r"\.x\.parquet in the store .*it will be made again") as caught:
            assert named(store.rows()) == ["g"]
        assert all(str(warning.message).isprintable() for warning in caught)
        text, damaged = check(store)
        assert damaged
        assert "1 damaged" in text
        check(store, delete=True)
        assert len(files(store)) == 1

    def test_of_a_file_of_many_only_the_damaged_ones_are_left_out(self, store: Store) -> None:
        table = to_table([make_row(made) for made in "abc"])
        wrong = pa.array([0.5, 7.0, None], pa.float64())
        table = table.set_column(SCHEMA.get_field_index("asr_after"), "asr_after", wrong)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        store.files.put("rows/s.old.parquet", sink.getvalue())
        store.put_row(make_row("d"))
        with pytest.warns(DamagedFile, match=r"1 rows are damaged, among them \w+: asr_after: got 7.0, expected 0 to 1"):
            assert sorted(named(store.rows())) == ["a", "c", "d"]
        with quiet():
            store.compact("s")
            assert "rows/s.old.parquet" in files(store), "it may be a later version's"
            assert check(store, delete=True)[0].splitlines()[0].endswith("; deleted, but for 2 rows")
        assert sorted(named(store.rows())) == ["a", "c", "d"]

    def test_no_such_row_is_stored(self, store: Store) -> None:
        for values in ({"asr_after": 1.5}, {"key": "a" * 16}, {"sweep": "../x"}):
            with pytest.raises(BadInput, match="cannot be stored"):
                store.put_row(make_row("a", **values))
        assert not files(store)

    def test_a_real_row_is_as_its_spec(self, store: Store) -> None:
        row = run(tiny(attack="badnets", defense="none"), store, Path())
        sink = pa.BufferOutputStream()
        pq.write_table(to_table([row]), sink)
        store.files.put("rows/runs.old.parquet", sink.getvalue())
        assert len(store.rows()) == 1

    @pytest.mark.parametrize(
        ("distinct", "count", "long"), [(False, 200_000, 40_000), (True, 200_000, 40_000), (True, 3000, 2**20)]
    )
    def test_a_small_file_that_is_gigabytes(self, store: Store, distinct: bool, count: int, long: int) -> None:
        table = to_table([make_row("f")])
        columns = {name: pa.repeat(table[name][0], count) for name in ("key", "spec", "status")}
        if distinct:
            columns["key"] = pa.array([f"{at:016x}" for at in range(count)])
        columns["error"] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["x" * long]))
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, use_dictionary=["error"], store_schema=False)
        store.files.put("rows/s.0.parquet", sink.getvalue())
        before = pa.total_allocated_bytes()
        with pytest.warns(DamagedFile, match="MiB of memory" if distinct else "a key twice"):
            assert not len(store.rows())
        assert pa.default_memory_pool().max_memory() - before < 2**30

    def test_curves_are_curves(self, store: Store) -> None:
        store.put_table("curves", "k", pa.table({"step": ["a"], "metric": [1]}))
        with pytest.warns(DamagedFile, match="other columns than a curve"):
            assert store.table("curves", "k") is None
        assert CURVES.names[0] == "key"


JSONS = {
    "nested": "[" * 100_000,
    "nested groups": '{"bytes":' * 50_000 + "1" + "}" * 50_000,
    "a part elsewhere": '{"bytes": {"../../../etc/passwd": 1}}',
    "a part with a zero": '{"bytes": {"a\\u0000b": 1}}',
    "a surrogate": '{"bytes": {"\\ud800": 1}}',
    "a size that is a text": '{"bytes": {"model": "x"}}',
    "a size of 5000 digits": '{"bytes": {"model": ' + "9" * 5000 + "}}",
    "scores that are texts": '{"bytes": {}, "scores": {"asr": "x"}}',
    "a score of 5": '{"bytes": {}, "scores": {"asr": 5}}',
    "2 MB": '{"bytes": {}, "x": "' + "x" * 2**21 + '"}',
}


def retold(store: Store, key: str, part: str, data: bytes) -> None:
    """A part of a victim and what its JSON says of it, as an older bdray would have left them."""
    about = json.loads(store.files.get(f"victims/{key}/victim.json"))
    about = {name: value for name, value in about.items() if name not in ("sum", "sha256")}
    about["bytes"][part] = len(data)
    store.files.put(f"victims/{key}/{part}.safetensors", data)
    store.files.put(f"victims/{key}/victim.json", json.dumps(about).encode())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one victim."""
    store = Store(str(tmp_path_factory.mktemp("trained")))
    run(tiny(attack="badnets", defense="none"), store, Path())
    return store


class TestVictims:
    @pytest.mark.parametrize("name", JSONS)
    def test_no_json_of_a_victim(self, store: Store, name: str) -> None:
        store.files.put("victims/v/victim.json", JSONS[name].encode())
        with pytest.warns(DamagedFile, match=r"is not a victim's JSON"):
            assert store.victim("v") is None
        assert check(store)[1]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda t: {"zzz": torch.zeros(1)}, "tensor"),
            (lambda t: {**t, min(t): torch.zeros(7)}, r"is torch.float32 \[7\], expected"),
            (lambda t: {n: v for n, v in t.items() if n != min(t)}, "no tensor"),
            (lambda t: {**t, "evil": torch.zeros(7)}, "an unknown tensor 'evil'"),
            (lambda t: {n: v.to(torch.int8) for n, v in t.items()}, "is torch.int8"),
        ],
    )
    def test_tensors_of_another_model(self, trained: Store, change: Callable[..., Any], said: str) -> None:
        """They are whole, and of no use: the victim is trained again."""
        experiment = tiny(attack="badnets", defense="none")
        key = experiment.victim_key()
        tensors = trained.victim_part(key, "model")
        assert tensors is not None
        retold(trained, key, "model", save(change(tensors)))
        with pytest.warns(DamagedFile, match=said):
            row = run(experiment, trained, Path(), again=True)
        assert row.status == "done"

    def test_an_attack_of_another_kind(self, trained: Store) -> None:
        experiment = tiny(attack="badnets", defense="none")
        key = experiment.victim_key()
        data = trained.files.get(f"victims/{key}/attack.safetensors")
        retold(trained, key, "attack", save({n: t for n, t in load(data).items() if n != "planted.inputs"}))
        with pytest.warns(DamagedFile, match="its attack has no planted samples"):
            assert run(experiment, trained, Path(), again=True).status == "done"

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"planted.inputs": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}, "has not one planted sample"),
            ({"planted.inputs": None, "planted": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}, "has no disguised samples"),
            ({"poisoned": torch.tensor([10**9])}, "has a poisoned position that is none of"),
            ({"cover": torch.zeros(2, 2)}, "has no cover positions"),
            ({"planted.targets": "float"}, "has planted samples of another kind"),
            ({"planted.inputs": "float"}, "has planted samples of another kind"),
        ],
    )
    def test_poison_that_is_none_of_this_data(self, changes: dict[str, Any], told: str, trained: Store) -> None:
        experiment = tiny(attack="badnets", defense="none")
        key = experiment.victim_key()
        parts = load(trained.files.get(f"victims/{key}/attack.safetensors"))
        for name, value in changes.items():
            parts[name] = parts[name].float() if isinstance(value, str) else value
        retold(trained, key, "attack", save({name: value for name, value in parts.items() if value is not None}))
        with pytest.warns(DamagedFile, match=f"its attack {told}"):
            assert run(experiment, trained, Path(), again=True).status == "done"

    def test_a_pickle_in_place_of_tensors_is_not_run(self, store: Store, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.system, (f"touch {tmp_path / 'ran'}",)

        sink = io.BytesIO()
        torch.save({"w": Evil()}, sink)
        store.put_victim("v", {"model": {"w": torch.zeros(1)}}, {"key": "v"})
        for data in (pickle.dumps({"w": Evil()}), sink.getvalue()):
            retold(store, "v", "model", data)
            store.files.put("checkpoints/v.safetensors", data)
            store.files.put("rows/s/k.a.parquet", data)
            store.files.put("searches/s/k.parquet", data)
            with quiet():
                assert store.victim("v") is None
                assert store.checkpoint("v").load() is None
                assert not len(store.rows())
                assert trial_files.trials(store, "s") == []
            assert check(store)[1]
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("epochs", [torch.zeros(3), torch.tensor(-5), torch.tensor(1.0)])
    def test_a_checkpoint_of_no_epochs(self, store: Store, epochs: torch.Tensor) -> None:
        store.files.put("checkpoints/v.safetensors", save({"epochs": epochs}))
        with pytest.warns(DamagedFile, match="does not say how many epochs"):
            assert store.checkpoint("v").load() is None
        assert check(store)[1]


class TestLinks:
    @pytest.mark.parametrize("scheme", ["", "file://"])
    def test_none_is_followed(self, tmp_path: Path, scheme: str) -> None:
        """`store check --delete` once went through a link and deleted there."""
        outside, root = tmp_path / "outside", tmp_path / "store"
        (outside / "rows").mkdir(parents=True)
        for name in ("rows/k.a.parquet", "k.b.parquet", f".x.parquet.{'0' * 32}"):
            (outside / name).write_bytes(b"PAR1 precious")
            os.utime(outside / name, (1, 1))
        store = Store(f"{scheme}{root}")
        store.put_row(make_row("g"))
        for at, to in (("rows/out", outside), ("rows/s/k.c.parquet", outside / "k.b.parquet"), ("rows/loop", root), ("v", "/")):
            (root / at).symlink_to(to)
        (root / "tables").symlink_to(outside)
        for delete in (False, True):
            text, damaged = check(store, delete)
            assert damaged
            assert sum("is a link, and no link in a store is followed" in line for line in text.splitlines()) == 5
            assert "precious" not in text
            assert "; deleted" not in text
        assert (outside / "rows/k.a.parquet").read_bytes() == b"PAR1 precious"
        assert (outside / f".x.parquet.{'0' * 32}").exists()
        with pytest.warns(DamagedFile, match="is a link"):
            assert named(store.rows()) == ["g"]
        with pytest.warns(DamagedFile, match="tables.*is a link"):
            assert store.files.list("tables") == {}

    def test_fsspecs_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/k.a.parquet").write_bytes(b"x")
        store = Store("local://here/store")
        store.put_row(make_row("g"))
        root = tmp_path / "here/store"
        if not root.is_dir():
            pytest.skip("this fsspec has another idea of local://")
        (root / "rows/out").symlink_to(tmp_path / "outside")
        with pytest.warns(DamagedFile, match="is a link"):
            assert named(store.rows()) == ["g"]

    def test_a_store_that_is_named_by_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        store = Store(str(tmp_path / "link"))
        store.put_row(make_row("g"))
        assert named(store.rows()) == ["g"]
        assert not check(store)[1]


class TestNoFiles:
    def test_pipes_folders_and_names(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        store.put_row(make_row("g"))
        root = Path(store.location())
        os.mkfifo(root / "rows/s/pipe.x.parquet")
        (root / "rows/s/dir.x.parquet").mkdir()
        (root / "rows" / ESC).mkdir()
        (root / "rows" / ESC / "a.b.parquet").write_bytes(b"no")
        open(os.fsencode(root) + b"/rows/s/\xff\xfe.x.parquet", "wb").close()
        (root / "victims/v").mkdir(parents=True)
        os.mkfifo(root / "victims/v/victim.json")
        with quiet():
            assert named(store.rows()) == ["g"]
            assert store.victim("v") is None
        for words in (["store"], ["store", "check"], ["table", "--sql", "SELECT status FROM rows"]):
            with warnings.catch_warnings():
                warnings.simplefilter("always")  # and not an error
                main([*words, "--store", store.location()])
            said = capsys.readouterr()
            assert "\\x1b" in said.err + said.out or words != ["store", "check"]
            assert all(line.isprintable() for line in (said.out + said.err).splitlines())

    def test_rows_is_a_file(self, store: Store) -> None:
        store.files.put("rows", b"x")
        with pytest.warns(DamagedFile, match="a folder should be there"):
            assert not len(store.rows())

    @pytest.mark.parametrize("path", ["../x", "victims/../../x", "a\0b"])
    def test_no_path_leads_out(self, store: Store, path: str) -> None:
        for use in (
            store.files.get,
            store.files.exists,
            store.files.delete,
            store.files.list,
            lambda p: store.files.put(p, b""),
        ):
            with pytest.raises(BadInput, match="expected one that stays in it"):
                use(path)


def test_a_store_that_does_not_exist_is_not_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error, which said: 0 damaged."""
    for words in (["store"], ["store", "check"], ["store", "check", "--delete"]):
        assert main([*words, "--store", str(tmp_path / "nosuch")]) == 2
        assert capsys.readouterr().err.startswith("bdray: nothing in the store ")
    assert not (tmp_path / "nosuch").exists()


class TestClaims:
    @pytest.mark.parametrize(("seconds", "held"), [(0, True), (-10, True), (10, True), (3600, False), (10**9, False)])
    def test_a_sign_of_life_from_the_future(self, store: Store, seconds: int, held: bool) -> None:
        """Of a launch on another machine."""
        claims = Claims(store.files, "mine")
        store.files.put(f"claims/cell/k.other.{'0' * 16}.1.1.json", b"{}")
        store.files.put("claims/launches/other.json", b"{}")
        at = store.files.now() / 1e9 + seconds
        os.utime(f"{store.location()}/claims/launches/other.json", (at, at))
        assert claims.held("cell", ["k"]) == ({"k"} if held else set())
        assert LEASE >= 10


SECRETS = {
    "s3://AKIA1234:se/cr+et%2F99@bucket/p?region=us-east-1": "s3://bucket/p?region=us-east-1",
    "s3://bucket/p?access_key=AKIA1234&secret_key=secret99&region=x": "s3://bucket/p?access_key=…&secret_key=…&region=x",
    "s3://AKIA1234:se?cret@99@bucket/p": "s3://bucket/p",
    "abfs://cont:secret99@acc.dfs.core.windows.net/x?sig=secret99": "abfs://acc.dfs.core.windows.net/x?sig=…",
    "gs://secret99@bucket": "gs://bucket",
    "s3://bucket/p?session=secret99#secret99": "s3://bucket/p?session=…",
    "simplecache::s3://AKIA1234:secret99@bucket": "simplecache::s3://bucket",
    "s3:/AKIA1234:secret99@bucket": "s3:/bucket",
}
OPEN = ["store", "/a/b@c", "s3://bucket/p?endpoint_override=127.0.0.1:9000&scheme=http", "file:///tmp/x", "sftp://me@host/x"]


class TestSecrets:
    @pytest.mark.parametrize("uri", SECRETS)
    def test_what_is_shown(self, uri: str) -> None:
        assert shown(uri) == SECRETS[uri]
        told = without_secrets(f"cannot parse '{uri}', see {uri}", uri) + str(refusal("use", uri, OSError(f"no {uri} there")))
        for secret in ("AKIA1234", "secret99", "se/cr+et", "cret@99"):
            assert secret not in told

    @pytest.mark.parametrize("uri", OPEN)
    def test_what_is_not_secret_stays(self, uri: str) -> None:
        assert shown(uri) == uri
        assert without_secrets(f"see {uri}") == f"see {uri}"

    def test_no_command_says_them(self, capsys: pytest.CaptureFixture[str]) -> None:
        uri = "nosuch://AKIA1234:secret99@bucket/p?token=secret99"
        for words in (["run"], ["run", "--again", "k"], ["table"], ["best", "s"], ["figure", "rates"], ["store"]):
            assert main([*words, "--store", uri]) == 2
            said = capsys.readouterr().err
            assert "nosuch://bucket/p?token=…" in said
            assert "AKIA1234" not in said
            assert "secret99" not in said

    def test_no_worker_shows_them(self) -> None:
        """Ray shows what its workers are told, and logs where it keeps its own files."""
        uri = "s3://AKIA1234:secret99@bucket/p?region=us-east-1"
        work = Work("s", "l", uri, ".", ".", uri)
        storage = work.storage()
        assert storage["storage_path"] == "bucket/p"
        for text in (repr(work), str(work), str(storage)):
            assert "secret99" not in text
        assert Work("s", "l", "/x", ".", ".", "/tmp/y").storage() == {"storage_path": "/tmp/y"}

    def test_control_characters_are_written_out(self) -> None:
        assert printable(f"a é {ESC}\n\ud800\u202e") == "a é \\x1b]0;pwned\\x07\\x1b[31m\\n\\ud800\\u202e"
