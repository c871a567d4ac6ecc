"""What a sweep costs before it works: the whole command `bdray sweep`, and the group of workers that trains its victims.

The command, on one victim of width 4 and four cells that do nothing, seconds from the start of its process: --dry-run; a new
sweep, until its first victim's first epoch, its first cell, its first row and its end; the same where the victim is in the
store; and once more when it is complete, and nothing is to be done.

The group, with Ray started before: 1, 4 and 8 such victims, seconds until somebody who watches sees an epoch (looked for every
half second), and in all. Its start is paid once, however many they are.

    python benchmarks/start.py [--repeats 3] [--victims 1 4 8] [--quick]
"""

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import ray
from _measure import machine, markdown, seconds

from bdray.experiment import Experiment
from bdray.launch.connect import connected
from bdray.launch.victims import train_victims
from bdray.launch.watch.watch import Watch
from bdray.launch.work import Work
from bdray.needs import Needs
from bdray.spec import Config
from bdray.store.store import Store

VICTIM: Config = {
    "task": {
        "name": "image",
        "data": {"name": "miniature", "per_class": 40, "held": 0.2},
        "model": {"name": "resnet18", "width": 4},
    },
    "attack": "badnets",
    "training": {"epochs": 2, "batch": 32},
}
FILE = """from ray import tune
from bdray.launch import Sweep
sweep = Sweep(space={space!r} | {{"defense": {{"name": "none", "seed": tune.grid_search([0, 1, 2, 3])}}}})
"""
SIGNS = {"epoch": "checkpoints/*.safetensors", "cell": "claims/cell/*.json", "row": "rows/**/*.parquet"}
"""Files of a store, and what was begun or done once there is one."""


def command(file: Path, store: Path, *words: str) -> dict[str, float]:
    """Seconds until each of the signs, as far as there is one, and until the end."""
    call = [sys.executable, "-m", "bdray", "sweep", str(file), "--store", str(store), "--data", str(store), *words]
    found: dict[str, float] = {}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as told, subprocess.Popen(call, stdout=told, stderr=told) as process:
        while process.poll() is None:
            for name, pattern in SIGNS.items():
                if name not in found and next(store.glob(pattern), None):
                    found[name] = time.perf_counter() - started
            time.sleep(0.01)
        told.seek(0)
        assert process.returncode == 0, told.read().decode()
    return {**found, "end": time.perf_counter() - started}


def commands(repeats: int) -> list[list[str]]:
    """A line for each state of the store."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.py"
        file.write_text(FILE.format(space=VICTIM))
        for number in range(repeats):
            store = Path(folder) / str(number)
            found.setdefault("--dry-run", []).append(command(file, store, "--dry-run"))
            found.setdefault("new", []).append(command(file, store))
            shutil.rmtree(store / "rows")
            found.setdefault("victim in the store", []).append(command(file, store))
            complete = command(file, store)
            found.setdefault("complete", []).append({"end": complete["end"]})
    return [
        [
            f"bdray sweep, {case}",
            str(repeats),
            *(_spread([run[name] for run in runs if name in run]) for name in (*SIGNS, "end")),
        ]
        for case, runs in found.items()
    ]


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})" if values else ""


class Stopwatch(Watch):
    """Keeps the moment at which it was first told of an epoch."""

    first = 0.0

    def victims(self, epochs: int, running: int, finished: int, failed: int, errors: Mapping[str, str] | None = None) -> None:
        if epochs and not self.first:
            self.first = time.perf_counter()


def group(count: int, folder: str) -> tuple[float, float]:
    """Seconds until an epoch is seen and until all of so many victims are in a store."""
    store, work_folder = Store(f"{folder}/{count}"), tempfile.mkdtemp(dir=folder)
    victims = {e.victim_key(): e for e in (Experiment.of({**VICTIM, "seed": seed}) for seed in range(count))}
    work = Work("victims", "benchmark", store.location(), store.location(), os.getcwd(), work_folder)
    watch = Stopwatch("victims", 0, stream=io.StringIO())
    with connected(None, store, Path(store.uri)) as resources:
        began = time.perf_counter()
        assert not train_victims(victims, work, store, lambda _: Needs(1), resources, watch)
    took = time.perf_counter() - began
    assert all(store.victim_about(key) for key in victims)
    return watch.first - began, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of the commands")
    parser.add_argument("--victims", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--quick", action="store_true", help="one repeat, 1 and 4 victims")
    options = parser.parse_args()
    print(machine())
    lines = commands(1 if options.quick else options.repeats)
    heads = ["command; seconds, median (least to most)", "n", "first epoch", "first cell", "first row", "end"]
    print(markdown(heads, lines))
    with tempfile.TemporaryDirectory() as folder:
        started = seconds(lambda: ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR"))
        found = {count: group(count, folder) for count in ([1, 4] if options.quick else options.victims)}
        ray.shutdown()
    print(f"\nRay of 2 CPUs started in {started:.1f} s\n")
    lines = [[str(count), "1", f"{first:.1f}", f"{whole:.1f}"] for count, (first, whole) in found.items()]
    print(markdown(["victims in one group", "n", "first epoch seen, s", "all in the store, s"], lines))


if __name__ == "__main__":
    main()
