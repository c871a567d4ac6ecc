"""Sweeps as commands of their own, with a Ray of their own, and who of their processes is who, so that one can be killed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bdray
import tests
from tests.chaos import events

KINDS = {
    "trial": ("ray::_trial", "ray::ImplicitFunc"),
    "worker": ("ray::RayTrainWorker",),
    "trainer": ("ray::TrainController",),
    "queue": ("ray::Queue",),
}
"""How Ray titles its processes."""


class Place:
    """A folder for one test: a copy of the code with the members of `members` in it, a store, a log, a Ray's own files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.code = folder, folder / "code"
        self.log, self.store = folder / "events.jsonl", folder / "store"
        # Its path stands in the command lines of all of its Ray's daemons; short, for the names of sockets are.
        self.ray = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(str(bdray.__file__)).parent, self.code / "bdray", ignore=leave)
        here = Path(__file__).parent
        shutil.copytree(here, self.code / "tests" / "chaos", ignore=leave)
        shutil.copy(str(tests.__file__), self.code / "tests")
        shutil.copy(here / "members" / "task.py", self.code / "bdray" / "tasks" / "logged.py")
        shutil.copy(here / "members" / "defense.py", self.code / "bdray" / "defenses" / "logged.py")

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What happened so far."""
        return [event for event in events.read(self.log) if not kinds or event["what"] in kinds]

    def write_sweep(self, name: str, space: dict[str, Any]) -> Path:
        """A sweep's file."""
        file = self.folder / f"{name}.py"
        file.write_text(f"from bdray.launch import Sweep\n\nsweep = Sweep(space={space!r})\n")
        return file

    def environment(self, pause: float, cpus: int = 2, **more: str) -> dict[str, str]:
        """Of a process that imports the copy; its Ray has so many CPUs and no GPU."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BDRAY_"))}
        return {
            **kept,
            "PYTHONPATH": str(self.code),
            "PYTHONDONTWRITEBYTECODE": "",
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(self.ray),
            "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": cpus, "GPU": 0}),
            # Others may be at work on this machine, and Ray would let them go first.
            "RAY_worker_niceness": "0",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
            events.LOG: str(self.log),
            events.PAUSE: str(pause),
            **more,
        }

    def sweep(self, file: Path, *words: str, pause: float = 0.08, store: Path | None = None, **more: Any) -> "Command":
        """Start `bdray sweep`."""
        words = ("-m", "bdray", "sweep", str(file), "--store", str(store or self.store), *words)
        return Command(self, list(words), self.environment(pause, **more))

    def close(self) -> None:
        """End whatever is left of every Ray of this place."""
        for _ in range(100):
            left = [pid for pid in processes() if self.owns(pid)]
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.1)
        shutil.rmtree(self.ray, ignore_errors=True)

    def owns(self, pid: int) -> bool:
        """Whether a process belongs to a Ray of this place: its daemons name the folder, and its workers are their children."""
        return any(str(self.ray) in text for text in (command(pid), command(parent(pid))))

    def daemons(self, name: str = "") -> list[int]:
        """The processes of this place's Rays whose command line has this in it; all of them unless told."""
        return [pid for pid in processes() if self.owns(pid) and name in command(pid)]

    def who(self) -> list[tuple[str, int]]:
        """The processes of this place's Rays that may be killed, as kind and number."""
        titles = {pid: command(pid) for pid in processes() if str(self.ray) in command(parent(pid))}
        return [
            (kind, pid) for pid, title in sorted(titles.items()) for kind, starts in KINDS.items() if title.startswith(starts)
        ]


class Command:
    """One `bdray sweep` at work."""

    def __init__(self, place: Place, words: list[str], environment: dict[str, str]) -> None:
        self.place = place
        self._out, self._err = (place.folder / f"{name}-{uuid.uuid4().hex[:8]}" for name in ("out", "err"))
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen([sys.executable, *words], cwd=place.folder, env=environment, stdout=out, stderr=err)

    def ended(self) -> bool:
        """Whether it has."""
        return self.process.poll() is not None

    def wait(self, seconds: float) -> int:
        """Its exit status. Raises AssertionError, with what it said, where it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it still ran after {seconds:g} s\n{self.said()}") from None

    def until(self, ready: Callable[[], Any], what: str, seconds: float) -> Any:
        """Wait for something that it does; what that is then. Raises AssertionError where it ends, or takes longer."""
        found = until(lambda: ready() or self.ended(), seconds, f"{what}\n{self.said()}")
        assert found is not True or not self.ended(), f"it ended before {what}\n{self.said()}"
        return found

    def kill(self) -> None:
        """At once, as with kill -9."""
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """Both of its streams."""
        return f"--- stdout\n{self.out()}\n--- stderr\n{self.err()}"

    def out(self) -> str:
        """What it printed."""
        return self._out.read_text()

    def err(self) -> str:
        """What it printed on stderr."""
        return self._err.read_text()


@contextlib.contextmanager
def place(folder: Path) -> Iterator[Place]:
    """A place, and nothing of it running at the end."""
    found = Place(folder)
    try:
        yield found
    finally:
        found.close()


def until(ready: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something; what it is then. Raises AssertionError."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)
    return found


def processes() -> list[int]:
    """Numbers of all that run."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command(pid: int) -> str:
    """The command line or the title of a process; empty where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def parent(pid: int) -> int:
    """The number of the process that started it, or that took it over; 0 where it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    return 0
