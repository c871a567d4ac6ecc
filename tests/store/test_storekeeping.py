"""Tests of `bdray store`: what it counts, what it finds damaged or left over, and that it deletes nothing else."""

import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from bdray.__main__ import main
from bdray.spec import BadInput
from bdray.store.curve import CURVES
from bdray.store.keeping import check, compact, show
from bdray.store.store import Store
from bdray.store.trials import Trial, put_trial
from tests.store.test_store import files, finals, make_row


def filled(store: Store) -> Store:
    """One file of every kind, all of them sound; the victim `used` has two rows, `idle` none, and `begun` is in training."""
    for i, status in enumerate(("done", "done", "failed", "skipped")):
        store.put_row(make_row(f"k{i}", status=status, victim="used" if i < 3 else "none"))
    store.put_row(make_row("k0", sweep="t", victim="used"))
    store.put_row(make_row("k9", sweep="t", victim="gone"))
    store.compact("t")
    for key in ("k0", "used"):
        store.put_table("curves", key, CURVES.empty_table())
    store.put_table("masks", "k0", pa.table({"mask": [1.0]}))
    store.put_table("features", "k0", pa.table({"x": [1.0]}))
    for key in ("used", "idle"):
        store.put_victim(key, {"model": {"x": torch.ones(500)}, "attack": {"y": torch.ones(2)}}, {"seconds": 1.0})
    store.put_victim_part("begun", "attack", {"y": torch.ones(2)})
    store.checkpoint("begun").save({"x": torch.ones(3)}, 2)
    store.files.put("tensorboard/s/k0/events.out.tfevents.1", b"x" * 5000)
    trial = Trial(key="k0", sweep="s", state="finished", steps=1, objective="defender", setting={"lr": 0.1}, cells=["a"])
    put_trial(store, trial)
    store.files.put("ray/x/state.pkl", b"x")
    store.files.put("claims/launches/a.json", b"{}")
    store.files.put("notes.txt", b"x")
    return store


def columns(text: str, first: str) -> dict[str, list[str]]:
    """The lines of the table whose first column has this name."""
    (block,) = (block for block in text.split("\n\n") if block.startswith(first))
    return {words[0]: words[1:] for words in (line.split() for line in block.splitlines()[2:])}


class TestShow:
    def test_what_it_holds_and_costs(self, anywhere: Store) -> None:
        text = show(filled(anywhere))
        kinds = columns(text, "kind")
        assert {kind: int(words[0]) for kind, words in kinds.items()} == {
            "checkpoints": 1,
            "claims": 1,
            "curves": 2,
            "other": 1,
            "ray": 1,
            "rows": 5,
            "searches": 1,
            "tables/features": 1,
            "tables/masks": 1,
            "tensorboard": 1,
            "victims": 7,
        }
        assert kinds["tensorboard"] == ["1", "4.9", "KiB"]
        assert kinds["claims"] == ["1", "2", "B"]
        assert text.startswith(f"{len(files(anywhere))} files, ")
        sweeps = {sweep: words[:4] for sweep, words in columns(text, "sweep").items()}
        assert sweeps == {"s": ["2", "1", "1", "4"], "t": ["2", "0", "0", "1"]}
        victims = {key: words[:-2] for key, words in columns(text, "victim").items()}
        assert victims == {"begun": ["incomplete", "0", "1"], "idle": ["0", "3"], "used": ["3", "3"]}
        assert re.search(r"no row uses 2 of 3 victims, \d\.\d KiB", text)

    def test_many_victims(self, store: Store) -> None:
        for i in range(23):
            store.put_victim_part(f"v{i:02}", "attack", {"y": torch.ones(2)})
        store.put_row(make_row("k", victim="v00"))
        text = show(store)
        assert len(columns(text, "victim")) == 20
        assert "v00" not in columns(text, "victim"), "the least used come first"
        assert "and 3 victims with no fewer rows" in text
        assert "no row uses 22 of 23 victims" in text

    def test_every_victim_used(self, store: Store) -> None:
        store.put_victim("v", {"model": {"x": torch.ones(3)}}, {})
        store.put_row(make_row("k", victim="v"))
        assert "no row uses" not in show(store)

    def test_nothing_there(self, store: Store) -> None:
        with pytest.raises(BadInput, match=r"nothing in the store .*; make something with `bdray run`"):
            show(store)

    @pytest.mark.parametrize("looks", [show, check])
    def test_a_folder_of_something_else(self, tmp_path: Path, looks: Callable[[Store], object]) -> None:
        """A whole disk, it may be: nothing below its top is looked at, where a link would be warned of."""
        (tmp_path / "rowsandcolumns").mkdir()
        (tmp_path / "rowsandcolumns" / "link").symlink_to(tmp_path)
        with pytest.raises(BadInput, match=r"no store in .*: it holds other things, and none of checkpoints, claims, curves"):
            looks(Store(str(tmp_path)))


class TestCompact:
    def test_one_file(self, anywhere: Store) -> None:
        for i in range(3):
            anywhere.put_row(make_row(str(i)))
        assert compact(anywhere, "s") == "s: 3 rows, 3 files before, 1 now"
        assert finals(anywhere) == ["rows/s.ID.parquet"]
        assert compact(anywhere, "s") == "s: 3 rows, 1 files before, 1 now"

    def test_the_nearest_name(self, store: Store) -> None:
        store.put_row(make_row("k", sweep="demo"))
        with pytest.raises(BadInput, match="no sweep named 'demoo'; did you mean 'demo'"):
            compact(store, "demoo")
        with pytest.raises(BadInput, match=r"no sweep named 'demo'; choose from \(nothing\)"):
            compact(Store(f"{store.uri}/other"), "demo")


DAMAGE = {
    "rows/s/k9.parquet": (b"PAR1 cut", "its cells are run again"),
    "rows/s.later.parquet": (b"", "its cells are run again"),
    "curves/k0.parquet": (b"cut", "no figure shows it until it is made again"),
    "tables/masks/k0.parquet": (b"cut", "no figure shows it until it is made again"),
    "searches/s/k0.parquet": (b"cut", "no search learns from it"),
    "victims/begun/attack.safetensors": (bytes(9), "the victim is trained again when a cell needs it"),
    "victims/idle/victim.json": (b"{", "the victim is trained again when a cell needs it"),
    "checkpoints/begun.safetensors": (bytes(9), "that training starts anew"),
}


class TestCheck:
    def test_a_sound_store(self, anywhere: Store) -> None:
        filled(anywhere)
        before = files(anywhere)
        for delete in (False, True):
            assert check(anywhere, delete) == (f"{len(before)} files, 0 damaged, 0 left over", False)
            assert files(anywhere) == before

    @pytest.mark.parametrize("path", DAMAGE)
    def test_one_damaged_file(self, store: Store, path: str) -> None:
        data, then = DAMAGE[path]
        filled(store).files.put(path, data)
        before = files(store)
        text, damaged = check(store)
        (line, total) = text.splitlines()
        assert line.startswith(f"{path}: ")
        assert line.endswith(f"; {then}")
        assert damaged
        assert total == f"{len(before)} files, 1 damaged, 0 left over"
        assert files(store) == before
        text, damaged = check(store, delete=True)
        assert text.splitlines()[0].endswith("; deleted")
        assert not damaged
        assert files(store) == [other for other in before if other != path]
        assert check(store)[0].endswith(", 0 damaged, 0 left over")

    def test_all_at_once_in_a_bucket(self, bucket: Store) -> None:
        filled(bucket)
        for path, (data, _) in DAMAGE.items():
            bucket.files.put(path, data)
        before = set(files(bucket))
        text, damaged = check(bucket, delete=True)
        assert not damaged
        assert sorted(line.split(": ")[0] for line in text.splitlines()[:-1]) == sorted(DAMAGE)
        assert set(files(bucket)) == before - DAMAGE.keys()
        assert bucket.victim("used") is not None

    def test_a_damaged_part_of_a_victim(self, store: Store) -> None:
        """Its JSON vouches for a file that is not what it says; what can be read stays, and is used again."""
        path = "victims/idle/model.safetensors"
        filled(store).files.put(path, store.files.get(path)[:-9])
        before = files(store)
        lines = check(store, delete=True)[0].splitlines()
        assert lines[0].startswith(f"{path}: ")
        assert lines[1].startswith("victims/idle/victim.json: its model.safetensors is damaged; the victim is trained again")
        assert set(before) - set(files(store)) == {path, "victims/idle/victim.json"}
        assert store.victim_part("idle", "attack") is not None

    def test_a_part_of_another_size(self, store: Store) -> None:
        """Made again by one that was killed before it wrote the JSON: the part can be read, and stays."""
        filled(store).put_victim_part("idle", "model", {"x": torch.ones(3)})
        lines = check(store, delete=True)[0].splitlines()
        assert re.match(r"victims/idle/victim.json: its model.safetensors has \d+ bytes, not \d+; ", lines[0])
        assert len(lines) == 2
        assert store.victim_part("idle", "model") is not None

    def test_a_part_that_is_not_there(self, store: Store) -> None:
        filled(store).files.delete("victims/idle/model.safetensors")
        assert check(store)[0].startswith("victims/idle/victim.json: its model.safetensors is not there; ")

    def test_a_checkpoint_without_its_epochs(self, store: Store) -> None:
        store.put_victim_part("v", "model", {"x": torch.ones(3)})
        store.files.put("checkpoints/v.safetensors", store.files.get("victims/v/model.safetensors"))
        assert check(store)[0].startswith("checkpoints/v.safetensors: does not say how many epochs are done; ")

    def test_what_a_killed_writer_left(self, store: Store) -> None:
        filled(store)
        old, young = (f"rows/s/.k.parquet.{uuid.uuid4().hex}" for _ in range(2))
        others = ["rows/s/.hidden", ".git"]
        for path in (old, young, *others):
            store.files.put(path, b"half")
        stamp = time.time() - 3600
        for path in (old, *others):
            os.utime(f"{store.files.root}/{path}", (stamp, stamp))
        text, damaged = check(store)
        assert text.splitlines()[0] == f"{old}: temporary, 60 minutes old; nothing reads it"
        assert text.endswith(" 0 damaged, 1 left over")
        assert not damaged
        text, damaged = check(store, delete=True)
        assert text.splitlines()[0].endswith("; nothing reads it; deleted")
        assert not damaged
        assert {young, *others} <= set(files(store))
        assert old not in files(store)

    def test_one_that_is_written_again_meanwhile_stays(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        store.files.put("curves/k.parquet", b"cut")
        real = store.files.info

        def info(path: str) -> object:
            store.put_table("curves", "k", CURVES.empty_table())
            return real(path)

        monkeypatch.setattr(store.files, "info", info)
        text, damaged = check(store, delete=True)
        assert "deleted" not in text
        assert damaged
        monkeypatch.undo()
        assert store.table("curves", "k") is not None


class TestCommand:
    def test_by_its_words(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        store = filled(Store(str(tmp_path / "store")))
        assert main(["store", "--store", store.uri]) == 0
        assert capsys.readouterr().out == show(store) + "\n"
        assert main(["store", "compact", "--store", store.uri, "s"]) == 0
        assert capsys.readouterr().out == "s: 4 rows, 4 files before, 1 now\n"
        assert main(["store", "check", "--store", store.uri]) == 0
        assert capsys.readouterr().out.endswith(" files, 0 damaged, 0 left over\n")
        store.files.put("curves/k0.parquet", b"cut")
        assert main(["store", "check", "--store", store.uri]) == 1
        assert capsys.readouterr().out.startswith("curves/k0.parquet: ")
        assert main(["store", "--store", store.uri, "check", "--delete"]) == 0
        assert not store.files.exists("curves/k0.parquet")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["chek"], "no store command named 'chek'; did you mean 'check'?"),
            (["compact"], "store compact: got no name, expected one of a sweep"),
            (["compact", "a", "b"], "store compact: got 2 names, expected one of a sweep"),
            (["check", "s"], "store check: got 1 names, expected none"),
            (["compact", "s", "--delete"], "got --delete with store compact"),
            (["compact", "sweep"], "no sweep named 'sweep'; choose from s (in the store "),
            (["show", "s"], "store show: got 1 names, expected none"),
        ],
    )
    def test_bad_words(self, store: Store, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
        store.put_row(make_row("k"))
        assert main(["store", *words, "--store", store.uri]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"bdray: {said}")
        assert error.count("\n") == 1


def test_lost_rows_are_counted(store: Store) -> None:
    """Where there are any."""
    store.put_row(make_row("k0"))
    assert "lost" not in show(store)
    store.put_row(make_row("k1", status="lost"))
    assert "(1 lost)" in show(store)
