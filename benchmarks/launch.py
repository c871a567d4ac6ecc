"""What a trial costs beyond its own work: a defense that does nothing, on a net of width 4, whose victim is in the store.

Ray is started before; `start` is from the call of `launch` to its first row (the workers import torch), `end` from its last
row to its return, both paid once. A trial's seconds are those between the rows after the first fifth, hence with every worker
warm; times the slots, they are what one worker spends on it. `run` is the same work in one process without Ray.

grid: a fixed list of cells. random, optuna: a search, whose settings are judged on a panel of two victims, a cell each.

    python benchmarks/launch.py [--trials 200] [--slots 2] [--repeats 1] [--quick]
"""

import argparse
import contextlib
import functools
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import ray
import torch
from _measure import machine, markdown, seconds
from ray import tune

from bdray import run as steps
from bdray.experiment import Experiment
from bdray.judge.held import Held
from bdray.launch import Sweep, launch, plan
from bdray.launch.work import Work, run_cell
from bdray.overrides import put
from bdray.report.board import Board
from bdray.run import run
from bdray.spec import Config
from bdray.store.claims import Claims
from bdray.store.rows import Rows
from bdray.store.store import Store
from bdray.victim import backdoor

VICTIM: Config = {
    "task": {
        "name": "image",
        "data": {"name": "miniature", "per_class": 40, "held": 0.2},
        "model": {"name": "resnet18", "width": 4},
    },
    "training": {"epochs": 1, "batch": 32},
}
PANEL = ["badnets", "blend"]


def cell(number: int) -> Config:
    """One that does nothing to its victim; another number is another experiment."""
    return {**VICTIM, "attack": PANEL[0], "defense": {"name": "none", "seed": number}}


def sweep_of(kind: str, trials: int, repeat: int) -> Sweep:
    """One of so many cells, none of which another repeat has."""
    name = f"{kind}{repeat}"
    if kind == "grid":
        seeds = list(range(repeat * trials, (repeat + 1) * trials))
        return Sweep(name=name, space=put(cell(0), "defense.seed", tune.grid_search(seeds)))
    defense = {"name": "none", "clean": tune.uniform(0.02, 0.2), "seed": repeat}
    space, panel = {**VICTIM, "defense": defense}, {"attack": PANEL}
    return Sweep(name=name, space=space, samples=trials // len(PANEL), search=kind, panel=panel, objective="oracle")


def launched(sweep: Sweep, store: Store, trials: int) -> dict[str, float]:
    """Seconds of one launch: its start, each trial, its end."""
    found = plan(sweep, store, Path(store.uri))
    assert not found.victims
    assert not found.elsewhere
    began = time.time()
    with contextlib.redirect_stderr(io.StringIO()):
        assert launch(found, store, Path(store.uri)) == 0
    ended = time.time()
    rows = sorted(stamp.timestamp() for stamp in store.rows(sweep.name, ["time"])["time"].to_pylist())
    assert len(rows) == trials
    warm = rows[len(rows) // 5 :]
    return {
        "start": rows[0] - began,
        "trial": (warm[-1] - warm[0]) / (len(warm) - 1),
        "end": ended - rows[-1],
        "all": ended - began,
    }


def alone(store: Store, trials: int) -> float:
    """Seconds of one such cell in this process, median."""
    experiments = [Experiment.of(cell(1_000_000 + number)) for number in range(trials)]
    found = [seconds(functools.partial(run, e, store, Path(store.uri), "alone")) for e in experiments]
    return statistics.median(found[len(found) // 5 :])


class Clock:
    """Adds up what calls take: seconds, and of those on a CPU."""

    def __init__(self) -> None:
        self.spent: dict[str, tuple[float, float]] = {}

    def of(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*values: Any, **named: Any) -> Any:
            started, before = self.spent.get(name, (0.0, 0.0)), (time.perf_counter(), time.process_time())
            try:
                return function(*values, **named)
            finally:
                took = time.perf_counter() - before[0], time.process_time() - before[1]
                self.spent[name] = started[0] + took[0], started[1] + took[1]

        return timed


PARTS: dict[str, tuple[Any, str]] = {
    "ask for the claim": (Claims, "take"),
    "give it back": (Claims, "release"),
    "look for the row": (Rows, "row"),
    "find the victim": (steps, "kept_victim"),
    "hand over the evidence": (steps, "collect"),
    "scores after": (steps, "evaluate"),
    "held utility after": (Held, "utility"),
    "write the row": (Rows, "put"),
    "write the board": (Board, "close"),
}
"""What a worker does for a cell, in this order; the parts do not contain each other."""


def worked(store: Store, trials: int) -> dict[str, tuple[float, float]]:
    """What a worker's own code takes for a cell, in this process: seconds, and of those on a CPU, of each part and in all."""
    work = Work("worked", "benchmark", store.location(), store.location(), os.getcwd(), "")
    clock, whole = Clock(), "in all"
    timed = clock.of(whole, run_cell)
    run_cell(cell(2_000_000), work)
    with contextlib.ExitStack() as stack:
        for name, (owner, function) in PARTS.items():
            stack.enter_context(mock.patch.object(owner, function, clock.of(name, getattr(owner, function))))
        for number in range(1, trials):
            timed(cell(2_000_000 + number), work)
    spent = {name: clock.spent.get(name, (0.0, 0.0)) for name in PARTS}
    wall, cpu = clock.spent[whole]
    spent["the rest"] = wall - sum(w for w, _ in spent.values()), cpu - sum(c for _, c in spent.values())
    spent[whole] = wall, cpu
    return {name: (w / (trials - 1), c / (trials - 1)) for name, (w, c) in spent.items()}


@contextlib.contextmanager
def warm(slots: int) -> Iterator[float]:
    """Ray with so many CPUs; the seconds of its start."""
    took = seconds(lambda: ray.init(num_cpus=slots, log_to_driver=False, logging_level="ERROR"))
    try:
        yield took
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="of each launch; the medians are shown")
    parser.add_argument("--kinds", nargs="+", default=["grid", "random", "optuna"])
    parser.add_argument("--quick", action="store_true", help="40 trials")
    options = parser.parse_args()
    trials = 40 if options.quick else options.trials
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for attack in PANEL:
            backdoor(Experiment.of({**VICTIM, "attack": attack}), store, Path(folder))
        single, parts = alone(store, trials), worked(store, trials)
        lines = []
        with warm(options.slots) as started:
            for kind in options.kinds:
                found = [launched(sweep_of(kind, trials, repeat), store, trials) for repeat in range(options.repeats)]
                middle = {name: statistics.median(one[name] for one in found) for name in found[0]}
                each = f"{middle['trial']:.3f}"
                spent = f"{middle['trial'] * options.slots:.3f}"
                shown = [each, spent, f"{middle['start']:.1f}", f"{middle['end']:.1f}", f"{middle['all'] / trials:.3f}"]
                lines.append([kind, f"{options.repeats} x {trials}", str(options.slots), *shown])
    heads = ["search", "n trials", "slots", "s a trial", "x slots", "start, s", "end, s", "whole launch / trials, s"]
    print(f"Ray started in {started:.1f} s; run without Ray, median of {trials}: {single:.3f} s a trial\n")
    print(markdown(heads, lines))
    print(f"\nOf a cell, in a worker's code alone (mean of {trials - 1}, in this process):\n")
    print(markdown(["part", "ms", "ms on a CPU"], [[n, f"{1000 * w:.2f}", f"{1000 * c:.2f}"] for n, (w, c) in parts.items()]))


if __name__ == "__main__":
    main()
