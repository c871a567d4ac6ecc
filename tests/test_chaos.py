"""Processes of sweeps are killed, disks fill up, two launches meet: nothing is lost, and nothing finished is done again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from bdray.launch.ends import LIVES
from bdray.store.store import Store
from tests.chaos.harness import Command, Place, place, until
from tests.chaos.killer import Killer
from tests.tiny import tiny_config

pytestmark = [pytest.mark.ray, pytest.mark.chaos]
SEED = int(os.environ.get("BDRAY_CHAOS_SEED", "0"))
KILLS = {
    "victims": {"worker": 4, "trainer": 3, "queue": 3, "driver": 3},
    "cells": {"trial": 13, "driver": 4},
}
"""How many of whom, while victims are trained and after that."""
BOUND = 1800
"""Seconds that the longest of these tests may take; a few minutes on two quiet cores."""
TASK = {**tiny_config()["task"], "name": "logged"}


def space(seeds: int, cells: int, epochs: int = 6, **training: Any) -> dict[str, Any]:
    """So many victims, with so many cells each."""
    return tiny_config(
        task=TASK,
        training={"epochs": epochs, "batch": 32, **training},
        seed=list(range(seeds)),
        defense={"name": "logged", "seed": list(range(cells))},
    )


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    """A place of this test's own."""
    with place(tmp_path) as found:
        yield found


def undisturbed(here: Place, file: Path) -> tuple[dict[str, dict[str, Any]], dict[int, str]]:
    """The rows of a run that nobody disturbed, by key, and the keys of the victims by their seeds."""
    other = here.folder / "undisturbed"
    environment = here.environment(0) | {"BDRAY_CHAOS_LOG": str(here.folder / "undisturbed.jsonl")}
    words = [sys.executable, "-m", "tests.chaos.reference", str(file), str(other)]
    subprocess.run(words, cwd=here.folder, env=environment, check=True, timeout=BOUND)
    rows = Store(str(other)).rows().to_pylist()
    return {row["key"]: row for row in rows}, {row["seed"]: row["victim"] for row in rows}


def raw_rows(folder: Path) -> list[dict[str, Any]]:
    """Every row of every file, whether a reader would show it or not."""
    files = [file for file in (folder / "rows").rglob("*.parquet") if not file.name.startswith(".")]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def check_cells(events: list[dict[str, Any]]) -> None:
    """No cell starts once its row is there, and none is in two processes at once."""
    rows, at = set(), dict[str, str]()
    for event in events:
        key = str(event.get("key"))
        if event["what"] == "start":
            assert key not in rows, f"the finished cell {key} ran again: {event}"
            at[key] = event["process"]
        elif event["what"] in ("end", "row") and event.get("status") != "failed":
            assert at[key] == event["process"], f"the cell {key} was in two processes at once: {event}"
            rows |= {key} if event["what"] == "row" else set()


def check_victims(events: list[dict[str, Any]], victims: dict[int, str]) -> None:
    """No epoch that was saved is learnt again, none of a finished victim, and no victim in two processes at once."""
    saved: Counter[str] = Counter()
    over, at = set(), dict[str, str]()
    left: set[tuple[str, str]] = set()
    for event in events:
        if event["what"] == "batch":
            key, process = victims[event["seed"]], event["process"]
            who = f"{key} {event['rank']}"
            assert key not in over, f"the finished victim {key} was trained again: {event}"
            assert event["epoch"] >= saved[key], f"the victim {key} had {saved[key]} epochs: {event}"
            assert (who, process) not in left, f"the victim {key} was in two processes at once: {event}"
            left |= {(who, at[who])} if at.get(who, process) != process else set()
            at[who] = process
        elif event["what"] == "saved":
            assert event["epochs"] == saved[event["key"]] + 1, f"an epoch was left out: {event}"
            saved[event["key"]] = event["epochs"]
        elif event["what"] == "victim":
            over.add(event["key"])


def check_files(folder: Path) -> None:
    """Whatever a reader would open is whole, and no victim is left half-done."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            if file.suffix == ".parquet":
                pq.read_table(file)
            elif file.suffix == ".safetensors":
                load_file(file)
            elif file.suffix == ".json":
                json.loads(file.read_text())
            else:
                assert file.parts[len(folder.parts)] == "tensorboard", file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Store(str(folder)).rows()


def check_values(folder: Path, wanted: dict[str, dict[str, Any]]) -> None:
    """Exactly one finished row of every cell, with the values of the undisturbed run, bit for bit."""
    rows = raw_rows(folder)
    assert Counter(row["key"] for row in rows) == Counter(wanted.keys())
    for row in rows:
        assert row["status"] == "done", row
        for name in ("utility_before", "asr_before", "utility_after", "asr_after", "recovery_after", "held_utility_after"):
            assert row[name] == wanted[row["key"]][name], (row["key"], name)


def test_thirty_kills(here: Place) -> None:
    file = here.write_sweep("chaos", space(seeds=3, cells=30))  # so many that the last kill finds one at work
    wanted, victims = undisturbed(here, file)
    killer = Killer(here, SEED, victims)
    killer.plan(KILLS["victims"])
    cells = False
    command = here.sweep(file, pause=0.15)
    try:
        end = time.monotonic() + BOUND
        while not (command.ended() and command.process.returncode >= 0):
            assert time.monotonic() < end, f"it is not done after {BOUND} s"
            if command.ended():
                command = here.sweep(file, pause=0.15)
            time.sleep(killer.draw.uniform(0.1, 2))
            if not cells and here.events("start"):
                cells = True
                killer.plan(KILLS["cells"])
            if not command.ended():
                killer.strike(command)
        assert command.process.returncode == 0
        events = here.events()
        check_cells(events)
        check_victims(events, victims)
        check_files(here.store)
        check_values(here.store, wanted)
        assert len(killer.killed) == 30, f"the sweep was done before {killer.left} could be killed"
        again = here.sweep(file)
        assert again.wait(BOUND) == 0
        assert "90 done, 0 skipped, 0 missing, 0 victims to train" in again.out()
        assert here.events() == events
    except BaseException:
        print(f"BDRAY_CHAOS_SEED={SEED}\n{killer.said()}\n{command.said()}")
        raise
    print(killer.said())


def test_two_launches_at_once(here: Place) -> None:
    """Each has a Ray of one CPU; together they do everything once, and a third one has nothing to do."""
    file = here.write_sweep("both", space(seeds=2, cells=12))
    wanted, victims = undisturbed(here, file)
    both = [here.sweep(file, pause=0.1, cpus=1) for _ in range(2)]
    for command in both:
        assert command.wait(BOUND) == 0, command.said()
    events = here.events()
    check_cells(events)
    check_victims(events, victims)
    check_files(here.store)
    check_values(here.store, wanted)
    assert Counter(event["key"] for event in events if event["what"] == "start") == dict.fromkeys(wanted, 1)
    assert set(Counter((event["seed"], event["epoch"]) for event in events if event["what"] == "batch").values()) == {4}
    third = here.sweep(file, cpus=1)
    assert third.wait(BOUND) == 0, third.said()
    assert "24 done, 0 skipped, 0 missing, 0 victims to train" in third.out()
    assert here.events() == events


@pytest.mark.parametrize("kind", ["worker", "trainer", "queue", "driver"])
def test_training_goes_on_at_the_last_epoch(here: Place, kind: str) -> None:
    file = here.write_sweep("goes_on", space(seeds=2, cells=1))
    wanted, victims = undisturbed(here, file)
    command = here.sweep(file, pause=0.25)
    command.until(lambda: all(_saved(here.events(), victim) >= 2 for victim in victims.values()), "two epochs", BOUND)
    before = here.events()
    if kind == "driver":
        command.kill()
        command = here.sweep(file, pause=0.25)
    else:
        os.kill(next(pid for other, pid in here.who() if other == kind), signal.SIGKILL)
    assert command.wait(BOUND) == 0, command.said()
    check_went_on(here.events(), len(before), victims)
    check_values(here.store, wanted)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_team_goes_on_at_the_last_epoch(here: Place, rank: int) -> None:
    """Of two workers that train one victim together, one is killed."""
    file = here.write_sweep("team", space(seeds=1, cells=1, workers=2))
    command = here.sweep(file, pause=0.25)
    command.until(lambda: here.events("saved")[1:], "two epochs", BOUND)
    before = here.events()
    (victim,) = {event["key"] for event in before if event["what"] == "saved"}
    os.kill(next(event["pid"] for event in before if event["what"] == "batch" and event["rank"] == rank), signal.SIGKILL)
    assert command.wait(BOUND) == 0, command.said()
    check_went_on(here.events(), len(before), {0: victim})
    (row,) = raw_rows(here.store)
    assert row["status"] == "done"


def check_went_on(events: list[dict[str, Any]], before: int, victims: dict[int, str]) -> None:
    """After the first `before` events somebody died; another process then went on with each victim where it was."""
    check_victims(events, victims)
    for seed, victim in victims.items():
        learnt = [event for event in events if event["what"] == "batch" and event["seed"] == seed]
        old = {event["process"] for event in events[:before] if event["what"] == "batch"}
        new = [event for event in learnt if event["process"] not in old]
        assert new or victim in [event["key"] for event in events if event["what"] == "victim"]
        assert all(event["epoch"] >= 2 for event in new)
        assert _saved(events, victim) == 6


def _saved(events: list[dict[str, Any]], victim: str) -> int:
    return max((event["epochs"] for event in events if event["what"] == "saved" and event["key"] == victim), default=0)


def test_deaths_in_quick_succession(here: Place) -> None:
    """Trainers and workers are killed as fast as they come, while victims are trained: nothing fails, and what the launch lost
    the same command does."""
    file = here.write_sweep("quick", space(seeds=3, cells=4))
    wanted, victims = undisturbed(here, file)
    command = here.sweep(file, pause=0.2)
    for kind in ("trainer", "worker", "trainer", "worker", "trainer"):
        found = command.until(lambda kind=kind: [pid for other, pid in here.who() if other == kind], kind, BOUND)
        for pid in found[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    status = command.wait(BOUND)
    assert {row["status"] for row in raw_rows(here.store)} <= {"done", "lost"}
    if status:
        assert " lost; " in command.err(), command.said()
        command = here.sweep(file, pause=0.02)
        assert command.wait(BOUND) == 0, command.said()
    check_victims(here.events(), victims)
    check_values(here.store, wanted)


def test_a_cell_whose_workers_die_is_lost_and_tried_again(here: Place) -> None:
    """Killed each time that it starts; the others run on."""
    file = here.write_sweep("lost", space(seeds=1, cells=4, epochs=1))
    command = here.sweep(file, pause=0.5)
    command.until(lambda: here.events("start"), "a cell", BOUND)
    key = here.events("start")[0]["key"]
    for life in range(LIVES):
        found = command.until(lambda life=life: _starts(here, key)[life:], f"life {life}", BOUND)
        os.kill(found[0]["pid"], signal.SIGKILL)
    assert command.wait(BOUND) == 1, command.said()
    assert "bdray: 1 cells lost; why: " in command.err()
    rows = {row["key"]: row for row in Store(str(here.store)).rows().to_pylist()}
    assert rows.pop(key)["status"] == "lost"
    assert {row["status"] for row in rows.values()} == {"done"}
    command = here.sweep(file, pause=0.02)
    assert command.wait(BOUND) == 0, command.said()
    assert "1 missing (1 lost)" in command.out()
    assert {row["status"] for row in Store(str(here.store)).rows().to_pylist()} == {"done"}


def _starts(here: Place, key: str) -> list[dict[str, Any]]:
    return [event for event in here.events("start") if event["key"] == key]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("whom", ["driver", "everybody"])
def test_signals_end_a_sweep_as_ctrl_c_does(here: Place, number: signal.Signals, whom: str) -> None:
    """Slurm and a closed terminal send them to every process, Kubernetes to the first alone."""
    file = here.write_sweep("ended", space(seeds=1, cells=8, epochs=1))
    command = here.sweep(file, pause=0.3)
    command.until(lambda: here.events("row"), "a row", BOUND)
    for pid in [command.process.pid, *(here.daemons() if whom == "everybody" else [])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    check_ended(here, command, 128 + number, "stopped; nothing is lost: the same command goes on")
    command = here.sweep(file, pause=0.02)
    assert command.wait(BOUND) == 0, command.said()


@pytest.mark.parametrize("who", ["raylet/raylet ", "gcs/gcs_server "])
def test_a_ray_that_dies_ends_the_sweep_with_a_sentence(here: Place, who: str) -> None:
    file = here.write_sweep("rayless", space(seeds=1, cells=60, epochs=1))
    command = here.sweep(file, pause=0.3)
    command.until(lambda: here.events("row"), "a row", BOUND)
    for pid in here.daemons(who):
        os.kill(pid, signal.SIGKILL)
    check_ended(here, command, 2, "nothing is lost: the same command goes on")
    command = here.sweep(file, pause=0.02)
    assert command.wait(BOUND) == 0, command.said()


def check_ended(here: Place, command: Command, status: int, sentence: str) -> None:
    """Soon, with this status and one sentence, and with no process of its Ray left."""
    assert command.wait(90) == status, command.said()
    assert [sentence in line for line in command.err().splitlines() if line.startswith("bdray: ")] == [True], command.said()
    assert "Traceback" not in command.said()
    assert "***" not in command.said()
    until(lambda: not here.daemons(), 30, "the end of Ray's processes")
    assert {row["status"] for row in raw_rows(here.store)} <= {"done"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]).returncode:
        pytest.skip("mounts a small disk, which only root may do, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("phase", ["victims", "cells"])
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_store_that_takes_no_more(here: Place, disk: Path, trouble: str, phase: str) -> None:
    """In the middle of a sweep: one sentence, nothing damaged, and the same command goes on once it takes more."""
    file = here.write_sweep("disk", space(seeds=2, cells=10))
    wanted, victims = undisturbed(here, file)
    here.store = disk / "store"
    command = here.sweep(file, pause=0.15)
    ready = "saved" if phase == "victims" else "row"
    command.until(lambda: here.events(ready)[3:], ready, BOUND)
    if trouble == "full":
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
    else:  # refused while somebody writes
        until(lambda: not subprocess.run(["mount", "-o", "remount,ro", disk], stderr=subprocess.DEVNULL).returncode, 60, "ro")
    status = command.wait(BOUND)
    said = command.said()
    assert status == 2, said
    assert "Traceback" not in said
    (sentence,) = [line for line in command.err().splitlines() if line.startswith("bdray: ")]
    assert {"full": "No space left", "read-only": "Read-only file system"}[trouble] in sentence
    check_files(here.store)
    if trouble == "full":
        (disk / "filler").unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    command = here.sweep(file, pause=0.02)
    assert command.wait(BOUND) == 0, command.said()
    events = here.events()
    check_cells(events)
    check_victims(events, victims)
    check_values(here.store, wanted)
