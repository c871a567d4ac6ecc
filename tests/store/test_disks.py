"""Tests of stores on disks that are full or may only be read: real ones, small and in memory, which only root can mount."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from bdray.spec import BadInput
from bdray.store.claims import Claims
from bdray.store.curve import CURVES
from bdray.store.store import Store
from tests.store.test_store import files, finals, keyed, make_row, named


class Disk:
    """A file system of 2 MiB and forty files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.store = Store(str(folder / "store"))

    def mount(self) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=40", "tmpfs", str(self.folder)]
        try:
            return subprocess.run(words, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False

    def fill(self) -> None:
        """Not a byte is left."""
        with open(self.folder / "filler", "wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def empty(self) -> None:
        (self.folder / "filler").unlink()

    def only_read(self, only: bool) -> None:
        subprocess.run(["mount", "-o", f"remount,{'ro' if only else 'rw'}", str(self.folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Skips where none can be mounted."""
    disk = Disk(tmp_path / "disk")
    if not disk.mount():
        pytest.skip("no file system can be mounted here; it takes root")
    yield disk
    disk.unmount()


def writes(store: Store) -> dict[str, Callable[[], object]]:
    """All that writes to a store."""
    tensors = {"x": torch.ones(30_000)}
    return {
        "check": store.check_writable,
        "row": lambda: store.put_row(make_row("large", "x" * 100_000)),
        "table": lambda: store.put_table("curves", "k", pa.table({"step": range(50_000)})),
        "victim": lambda: store.put_victim("v", {"model": tensors}, {}),
        "part": lambda: store.put_victim_part("w", "attack", tensors),
        "checkpoint": lambda: store.checkpoint("v").save(tensors, 2),
        "compact": lambda: store.compact("s"),
        "claim": lambda: Claims(store.files, uuid.uuid4().hex).take("cell", "k"),
    }


def refused(attempt: Callable[[], object], why: str) -> None:
    """It says so in one sentence."""
    with pytest.raises(BadInput, match=why) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def held(store: Store) -> None:
    """Something of every kind, and the same again after every refusal."""
    for i in range(3):
        store.put_row(make_row(str(i), os.urandom(2000).hex()))
    store.put_table(
        "curves", "k", pa.Table.from_pylist([{"key": "k", "of": "victim", "step": 1, "metric": "loss", "value": 1.0}], CURVES)
    )
    store.put_victim("v", {"model": {"x": torch.zeros(3)}}, {})
    store.checkpoint("v").save({"x": torch.zeros(3)}, 1)


def whole(store: Store) -> None:
    """What `held` left, all of it readable."""
    assert sorted(named(store.rows())) == ["0", "1", "2"]
    assert len(store.index("s")) == 3
    table, victim, checkpoint = store.table("curves", "k"), store.victim("v"), store.checkpoint("v").load()
    assert table is not None
    assert len(table) == 1
    assert victim is not None
    assert victim[0]["model"]["x"].tolist() == [0, 0, 0]
    assert checkpoint is not None
    assert checkpoint[1] == 1


class TestFull:
    @pytest.mark.parametrize("what", ["check", "row", "table", "victim", "part", "checkpoint", "compact", "claim"])
    def test_no_space(self, disk: Disk, what: str) -> None:
        held(disk.store)
        before = files(disk.store)
        disk.fill()
        sentence = "cannot write to the store '.*': No space left on device; free some space there, or name another .*--store"
        for _ in range(2):
            refused(writes(disk.store)[what], sentence)
            assert files(disk.store) == before, "something was left behind"
            whole(disk.store)
        disk.empty()
        writes(disk.store)[what]()

    def test_no_more_files(self, disk: Disk) -> None:
        held(disk.store)
        made = []
        for i in range(40):
            try:
                (disk.folder / str(i)).touch()
            except OSError:
                break
            made.append(disk.folder / str(i))
        before = files(disk.store)
        for attempt in writes(disk.store).values():
            refused(attempt, "No space left on device; free some space there")
        assert files(disk.store) == before
        whole(disk.store)
        for path in made:
            path.unlink()
        disk.store.check_writable()

    def test_room_for_some(self, disk: Disk) -> None:
        """A row fits, a victim does not."""
        held(disk.store)
        disk.fill()
        os.truncate(disk.folder / "filler", os.path.getsize(disk.folder / "filler") - 64 * 1024)
        disk.store.put_row(make_row("small"))
        refused(writes(disk.store)["victim"], "No space left")
        refused(writes(disk.store)["checkpoint"], "No space left")
        assert disk.store.row(keyed("small")) is not None
        found = disk.store.victim("v")
        assert found is not None
        assert found[0]["model"]["x"].tolist() == [0, 0, 0]

    def test_files_may_not_be_large(self, store: Store) -> None:
        """A limit of the process's; without root, too."""
        script = (
            "import resource, sys\n"
            "from bdray.spec import BadInput\n"
            "from bdray.store.store import Store\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
            "store = Store(sys.argv[1])\n"
            "store.files.put('a', b'x' * 10_000)\n"
            "try:\n"
            "    store.files.put('a', b'y' * 10_001)\n"
            "except BadInput as error:\n"
            "    print(error)\n"
        )
        answer = subprocess.run([sys.executable, "-c", script, store.uri], capture_output=True, text=True, check=True)
        assert f"cannot write to the store '{store.uri}': File too large; free some space there" in answer.stdout
        assert answer.stdout.count("\n") == 1
        assert finals(store) == ["a"]
        assert store.files.get("a") == b"x" * 10_000


class TestReadOnly:
    @pytest.fixture
    def sealed(self, disk: Disk) -> Iterator[Disk]:
        held(disk.store)
        disk.only_read(True)
        yield disk
        disk.only_read(False)

    def test_it_is_read(self, sealed: Disk) -> None:
        whole(sealed.store)
        again = Store(sealed.store.location())
        assert all(again.row(key) is not None for key in again.rows()["key"].to_pylist())

    def test_nothing_is_written(self, sealed: Disk) -> None:
        before = files(sealed.store)
        why = "Read-only file system; name a writable folder or bucket with --store"
        for attempt in writes(sealed.store).values():
            refused(attempt, f"cannot write to the store '.*': {why}")
        refused(lambda: sealed.store.files.delete("curves/k.parquet"), f"cannot delete curves/k.parquet in the store '.*{why}")
        refused(lambda: sealed.store.files.delete_folder("rows"), f"cannot delete rows in the store '.*{why}")
        whole(sealed.store)
        sealed.only_read(False)
        assert files(sealed.store) == before
        for attempt in writes(sealed.store).values():
            attempt()
        sealed.only_read(True)

    def test_a_store_that_is_not_there_yet(self, sealed: Disk) -> None:
        store = Store(str(sealed.folder / "another"))
        refused(store.check_writable, "Read-only file system")
        assert len(store.rows()) == 0
        assert not (sealed.folder / "another").exists()
