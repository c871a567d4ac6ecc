"""What the benchmarks share: taking turns, fresh processes, peak memory, and the line that says what was measured where."""

import contextlib
import ctypes
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def machine() -> str:
    """Device, threads, versions and load: what a number without is no claim."""
    import torch

    name = next((x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{name or platform.machine()}, CPU"
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    busy = "; BUSY: as many torch threads as cores wait for each other, so these ratios say little" if load > cores / 2 else ""
    return (
        f"{device}; {cores} cores, {torch.get_num_threads()} torch threads; torch {torch.__version__}, "
        f"Python {platform.python_version()}; load before {load:.1f}{busy}"
    )


def in_turns(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each variant returns, in rounds A B A B, so that a slow minute of the machine hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            found[name].append(measure())
    return found


def ratio(found: dict[str, list[float]], of: str, to: str) -> tuple[float, float, float]:
    """Median, least and largest of the rounds' quotients."""
    quotients = [a / b for a, b in zip(found[of], found[to], strict=True)]
    return statistics.median(quotients), min(quotients), max(quotients)


def alone(*words: str) -> str:
    """The last line that this script prints when it is run with these words in a fresh process."""
    run = subprocess.run([sys.executable, sys.argv[0], *words], stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.strip().splitlines()[-1]


class PeakMemory:
    """`with PeakMemory() as peak: work()`; `peak.mib` is what the work held at the most above the level before, in MiB.

    On a GPU it is what torch allocated there. On a CPU it is VmHWM of this process, reset before, and for each child (a
    DataLoader's workers), read every 20 ms, the most that it held for itself: Private_* of smaps_rollup, because its VmHWM
    would count the pages that it shares with this process once more.
    """

    def __enter__(self) -> "PeakMemory":
        import torch

        self.torch = torch
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self.before = _status("VmRSS")
        self.children: dict[int, int] = {}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.torch.cuda.is_available():
            self.mib = (self.torch.cuda.max_memory_allocated() - self.before) / 2**20
            return
        self.stop.set()
        self.thread.join()
        self.mib = (_status("VmHWM") - self.before + sum(self.children.values())) / 2**10

    def _watch(self) -> None:
        while not self.stop.wait(0.02):
            for process in multiprocessing.active_children():
                with contextlib.suppress(OSError):  # it ended meanwhile
                    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
                    own = sum(int(x.split()[1]) for x in lines if x.startswith("Private_"))
                    self.children[process.pid or 0] = max(self.children.get(process.pid or 0, 0), own)


def _status(name: str) -> int:
    """A line of this process's status, in KiB."""
    return next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))


def markdown(heads: list[str], lines: list[list[str]]) -> str:
    """A GitHub table."""
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def stages(curves: Any) -> dict[str, float]:
    """Seconds of each stage that a defense reported in its curves (a table, or None): of a training the last count, of what an
    iteration reports the sum."""
    found: dict[str, float] = {}
    for point in curves.to_pylist() if curves is not None else []:
        if point["of"] == "defense" and point["metric"].endswith("_seconds"):
            stage = point["metric"].removesuffix("_seconds").removeprefix("enhancement_")
            so_far = found.get(stage, 0.0) if point["metric"].startswith("enhancement_") else 0.0
            found[stage] = so_far + point["value"]
    return found


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call, on a GPU until it is really done."""
    started = time.perf_counter()
    work()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.synchronize()
    return time.perf_counter() - started


def images(count: int) -> tuple[Any, Any]:
    """CIFAR-shaped noise at rest and its classes: uint8 [N, 3, 32, 32] and int64 [N]. Speed does not depend on what is on
    the pictures."""
    import torch

    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return pixels, torch.randint(10, (count,), generator=rng)
