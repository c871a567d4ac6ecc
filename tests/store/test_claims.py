"""Tests of claims: real processes that race, die and fork, on a disk and in a bucket; other machines are made-up names."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs

from bdray.spec import BadInput
from bdray.store import claims
from bdray.store.claims import Claims, Process
from bdray.store.files import Files
from bdray.store.store import Store

ELSEWHERE = Process("f" * 16, 4242, 17)
"""A process of another machine."""

# Takes the key; then says so and waits, or goes on as it is told.
HOLDER = """
import sys
from bdray.store.claims import Claims
from bdray.store.files import Files
claims = Claims(Files(sys.argv[1]), sys.argv[2])
print(claims.take("cell", sys.argv[3]), flush=True)
sys.stdin.readline()
claims.release("cell", sys.argv[3])
print("released", flush=True)
sys.stdin.readline()
"""

# Takes every key in turn until all are done, each done once. Its own proof that nobody else has a key is a file that the
# kernel makes for one process only.
RACER = """
import os, random, sys, time
from bdray.store.claims import Claims
from bdray.store.files import Files
uri, proof, count, launch = sys.argv[1:]
claims = Claims(Files(uri), launch)
left = [f"{i:03}" for i in range(int(count))]
random.seed(os.getpid())
print("ready", flush=True)
sys.stdin.readline()
refused = 0
while left:
    key = left[random.randrange(min(4, len(left)))]  # all want the same few
    if os.path.exists(f"{proof}/{key}.done"):
        left.remove(key)
        continue
    asked = time.monotonic()
    if not claims.take("cell", key):
        refused += 1
        time.sleep(random.random() * 3 * (time.monotonic() - asked))
        continue
    os.close(os.open(f"{proof}/{key}.held", os.O_CREAT | os.O_EXCL))
    if not os.path.exists(f"{proof}/{key}.done"):
        time.sleep(random.random() * 0.002)
        os.close(os.open(f"{proof}/{key}.done", os.O_CREAT | os.O_EXCL))
    os.remove(f"{proof}/{key}.held")
    claims.release("cell", key)
print(refused)
"""


def started(script: str, *words: str) -> "subprocess.Popen[str]":
    """A process of its own, that has said its first line."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script, *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@contextmanager
def holder(files: Files, key: str, launch: str = "theirs") -> "Iterator[subprocess.Popen[str]]":
    """Another process that has the key."""
    process = started(HOLDER, files.location(), launch, key)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def told(process: "subprocess.Popen[str]") -> str:
    """What it answers when it may go on."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def left(files: Files) -> list[str]:
    """Every file below claims/."""
    return [path for path, info in files.list("claims", recursive=True).items() if info.type == fs.FileType.File]


def take_as(process: Process, claim: Claims, key: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """What another process's claim comes to."""
    with monkeypatch.context() as patch:
        patch.setattr(claims, "this_process", lambda: process)
        return claim.take("cell", key)


class TestOneProcess:
    def test_take_and_release(self, anywhere: Store) -> None:
        mine = Claims(anywhere.files, "mine")
        assert mine.take("cell", "a")
        assert mine.take("cell", "a"), "its own claim is no other's"
        assert mine.take("victim", "a")
        (path, _) = left(anywhere.files)
        assert path.startswith("claims/cell/a.mine.")
        assert json.loads(anywhere.files.get(path))["pid"] == os.getpid()
        assert mine.held("cell", ["a"]) == set()
        mine.release("cell", "a")
        mine.release("cell", "a")
        mine.release("victim", "a")
        assert left(anywhere.files) == []

    def test_made_anew_it_is_the_same_process(self, store: Store) -> None:
        assert Claims(store.files, "mine").take("cell", "a")
        assert Claims(Files(store.uri), "mine").take("cell", "a")
        assert Claims(Files(store.uri), "another").take("cell", "a")

    @pytest.mark.parametrize("launch", ["", "a.b", "a/b", "a b"])
    def test_a_launch_that_would_be_read_as_something_else(self, store: Store, launch: str) -> None:
        with pytest.raises(ValueError, match="expected letters"):
            Claims(store.files, launch)

    def test_a_listing_that_fails_leaves_no_claim(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def down(*_: object, **__: object) -> None:
            raise BadInput("down")

        monkeypatch.setattr(store.files, "list", down)
        with pytest.raises(BadInput):
            Claims(store.files, "mine").take("cell", "a")
        monkeypatch.undo()
        assert left(store.files) == []

    def test_a_claim_that_another_removed_meanwhile_is_none(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        real = store.files.list

        def without(folder: str, recursive: bool = False) -> dict[str, fs.FileInfo]:
            return {path: info for path, info in real(folder, recursive).items() if "mine" not in path}

        mine = Claims(store.files, "mine")
        monkeypatch.setattr(store.files, "list", without)
        assert not mine.take("cell", "a")
        monkeypatch.undo()
        assert mine.take("cell", "a")
        for path in left(store.files):
            store.files.delete(path)
        with holder(store.files, "a"):
            assert not mine.take("cell", "a"), "what it had once it has no more"
            assert [path for path in left(store.files) if ".mine." in path] == []
        assert mine.take("cell", "a")


class TestOtherProcesses:
    def test_a_living_one_keeps_its_key(self, anywhere: Store) -> None:
        mine = Claims(anywhere.files, "mine")
        with holder(anywhere.files, "a") as other:
            assert not mine.take("cell", "a")
            assert mine.take("cell", "b")
            assert mine.take("victim", "a")
            assert mine.held("cell", ["a", "b", "c"]) == {"a"}
            assert mine.held("cell", ["b"]) == set()
            assert told(other) == "released\n"
            assert mine.held("cell", ["a", "b", "c"]) == set()
            assert mine.take("cell", "a")

    def test_one_of_the_same_launch_is_another_all_the_same(self, store: Store) -> None:
        with holder(store.files, "a", launch="mine"):
            assert not Claims(store.files, "mine").take("cell", "a")

    def test_who_asks_in_vain_takes_nothing_away(self, store: Store) -> None:
        """The other is just asking for what this one has: its claim is there, for a moment."""
        mine = Claims(store.files, "mine")
        with holder(store.files, "other") as other:
            assert mine.take("cell", "a")
            (theirs,) = (path for path in left(store.files) if ".theirs." in path)
            store.files.put(theirs.replace("/other.", "/a."), store.files.get(theirs))
            assert mine.take("cell", "a")
            assert other.poll() is None
        assert any(path.startswith("claims/cell/a.mine.") for path in left(store.files))

    def test_killed_it_frees_its_key_at_once(self, anywhere: Store) -> None:
        mine = Claims(anywhere.files, "mine")
        with holder(anywhere.files, "a") as other:
            assert not mine.take("cell", "a")
            other.send_signal(signal.SIGKILL)
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, not buried: a zombie
            assert mine.held("cell", ["a"]) == set()
            assert mine.take("cell", "a")
        assert [path for path in left(anywhere.files) if ".theirs." in path] == []

    def test_another_process_of_the_same_number_is_another(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """The kernel gave the number of a dead process to a new one."""
        mine = Claims(store.files, "mine")
        with holder(store.files, "other") as other:
            before = claims.this_process()._replace(pid=other.pid, start=1)
            assert take_as(before, Claims(store.files, "theirs"), "a", monkeypatch)
            assert mine.take("cell", "a")

    def test_a_worker_that_outlives_its_driver_keeps_its_key(self, store: Store) -> None:
        """On the same machine its own life counts, not its launch's."""
        with holder(store.files, "a"):
            assert not store.files.exists("claims/launches/theirs.json")
            assert not Claims(store.files, "mine").take("cell", "a")

    def test_a_fork_has_nothing(self, store: Store) -> None:
        mine = Claims(store.files, "mine")
        assert mine.take("cell", "a")
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            child = context.Process(target=lambda: answers.put((mine.take("cell", "a"), mine.take("cell", "b"))))
            child.start()
        assert answers.get() == (False, True)
        child.join()
        assert mine.take("cell", "a")
        assert mine.take("cell", "b")

    def test_a_race_for_two_hundred_keys(self, anywhere: Store, tmp_path: Path) -> None:
        proof = tmp_path / "proof"
        proof.mkdir()
        racers = [started(RACER, anywhere.location(), str(proof), "200", uuid.uuid4().hex) for _ in range(3)]
        try:
            assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["ready\n"] * 3
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("\n")
                racer.stdin.flush()
            answers = [racer.communicate() for racer in racers]
        finally:
            for racer in racers:
                racer.kill()
                racer.communicate()
        assert [errors for _, errors in answers] == [""] * 3
        refused = sum(int(out) for out, _ in answers)
        assert sorted(path.name for path in proof.iterdir()) == [f"{i:03}.done" for i in range(200)]
        assert refused > 0, "nobody wanted what another had: no race"
        assert left(anywhere.files) == []


class TestOtherMachines:
    def test_respected_as_long_as_its_launch_lives(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        theirs, mine = Claims(store.files, "theirs"), Claims(store.files, "mine")
        theirs.beat()
        assert take_as(ELSEWHERE, theirs, "a", monkeypatch)
        assert not mine.take("cell", "a")
        assert mine.held("cell", ["a", "b"]) == {"a"}
        sign = f"{store.files.root}/claims/launches/theirs.json"
        stamp = os.stat(sign).st_mtime
        os.utime(sign, (stamp, stamp - claims.LEASE + 5))
        assert not mine.take("cell", "a")
        os.utime(sign, (stamp, stamp - claims.LEASE - 5))
        assert mine.held("cell", ["a", "b"]) == set()
        assert mine.take("cell", "a")

    def test_in_a_bucket(self, bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whose clock has whole seconds."""
        monkeypatch.setattr(claims, "LEASE", 2.5)
        theirs, mine = Claims(bucket.files, "theirs"), Claims(bucket.files, "mine")
        theirs.beat()
        assert take_as(ELSEWHERE, theirs, "a", monkeypatch)
        assert not mine.take("cell", "a")
        assert mine.held("cell", ["a"]) == {"a"}
        deadline = time.monotonic() + 30
        while mine.held("cell", ["a"]) and time.monotonic() < deadline:
            time.sleep(0.2)
        mine.beat()
        assert mine.take("cell", "a")
        assert not take_as(ELSEWHERE, theirs, "a", monkeypatch)

    def test_this_machines_clock_does_not_matter(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        theirs, mine = Claims(store.files, "theirs"), Claims(store.files, "mine")
        theirs.beat()
        assert take_as(ELSEWHERE, theirs, "a", monkeypatch)
        for name in ("time", "time_ns", "monotonic"):
            now = getattr(time, name)()
            monkeypatch.setattr(time, name, lambda now=now: now * 2)
        assert not mine.take("cell", "a")
        assert mine.held("cell", ["a"]) == {"a"}

    def test_a_launch_that_ended_has_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        mine = Claims(store.files, "mine")
        assert take_as(ELSEWHERE, Claims(store.files, "theirs"), "a", monkeypatch)
        assert mine.take("cell", "a")

    def test_a_time_of_a_minute_ago_is_looked_at_again(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """As NFS shows one until the file is opened."""
        theirs, mine = Claims(store.files, "theirs"), Claims(store.files, "mine")
        theirs.beat()
        assert take_as(ELSEWHERE, theirs, "a", monkeypatch)
        sign = f"{store.files.root}/claims/launches/theirs.json"
        stamp = os.stat(sign).st_mtime
        os.utime(sign, (stamp, stamp - claims.LEASE - 5))
        real = store.files.get

        def opened(path: str) -> bytes:
            os.utime(sign, (stamp, stamp))
            return real(path)

        monkeypatch.setattr(store.files, "get", opened)
        assert not mine.take("cell", "a")

    def test_a_claim_is_found_by_one_listing(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        theirs, mine = Claims(store.files, "theirs"), Claims(store.files, "mine")
        theirs.beat()
        keys = [f"{i:04}" for i in range(300)]
        for key in keys:
            assert take_as(ELSEWHERE, theirs, key, monkeypatch)
        asked = []
        for name in ("list", "get", "info"):
            real = getattr(store.files, name)
            monkeypatch.setattr(store.files, name, lambda *words, real=real, name=name: asked.append(name) or real(*words))
        assert mine.held("cell", keys) == set(keys)
        assert asked.count("list") == 1
        assert len(asked) < 5


class TestBeating:
    def test_signs_of_life_until_the_end(self, anywhere: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(claims, "BEAT", 0.05)
        mine, beats = Claims(anywhere.files, "mine"), []
        real = mine.beat
        monkeypatch.setattr(mine, "beat", lambda: beats.append(1) or real())
        with mine.beating():
            assert anywhere.files.exists("claims/launches/mine.json")
            assert mine.take("cell", "a")
            _until(lambda: len(beats) > 3)
        assert left(anywhere.files) == []
        count = len(beats)
        time.sleep(0.2)
        assert len(beats) == count

    def test_a_store_that_is_away_for_a_moment(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(claims, "BEAT", 0.02)
        mine, calls = Claims(store.files, "mine"), []
        real = mine.beat

        def beat() -> None:
            calls.append(1)
            if 1 < len(calls) < 5:
                raise BadInput("away")
            real()

        monkeypatch.setattr(mine, "beat", beat)
        with mine.beating():
            store.files.delete("claims/launches/mine.json")
            _until(lambda: store.files.exists("claims/launches/mine.json"))

    def test_the_end_after_an_error(self, store: Store) -> None:
        mine = Claims(store.files, "mine")

        def stopped() -> None:
            with mine.beating():
                assert mine.take("cell", "a")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped()
        assert left(store.files) == []

    def test_the_end_takes_from_nobody_who_lives(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a worker of the same launch is still at work on stays its own; what one on another machine had, and what another
        launch has, is not this one's to judge."""
        mine, theirs = Claims(store.files, "mine"), Claims(store.files, "theirs")
        theirs.beat()
        with holder(store.files, "a", launch="mine"), mine.beating():
            assert take_as(ELSEWHERE, mine, "b", monkeypatch)
            assert take_as(ELSEWHERE, theirs, "c", monkeypatch)
            assert mine.take("cell", "d")
        names = [path.split("/")[2].split(".")[:2] for path in left(store.files)]
        assert names == [["a", "mine"], ["c", "theirs"], ["theirs", "json"]]


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
