"""Gauges of a launch for Prometheus, exported by Ray with the prefix `ray_`: counts and means, never keys or trials."""

import functools
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.metrics import Gauge

from bdray.launch.watch.tally import Tally, is_number

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "bdray_cells": ("cells of a sweep, by state: done, failed, lost, skipped, running, missing", ("sweep", "state")),
    "bdray_victims": ("victims that a launch trains, by state: done, failed, lost, running, missing", ("sweep", "state")),
    "bdray_victim_epochs": ("epochs of those victims, by state: done, missing", ("sweep", "state")),
    "bdray_trials": ("trials of an adaptive search, by state: done, stopped, failed, missing", ("sweep", "state")),
    "bdray_best_objective": ("best objective so far, of the trials or else the cells of a launch", ("sweep", "objective")),
    "bdray_asr_after": ("mean ASR after the defense, 0 to 1, of the cells that a launch did", ("sweep", "attack", "defense")),
    "bdray_utility_after": ("mean utility after the defense, 0 to 1, of those cells", ("sweep", "attack", "defense")),
    "bdray_measured_cells": ("how many cells those means are of", ("sweep", "attack", "defense")),
}
"""Every gauge: what it says, and its tags. On /metrics each has the prefix `ray_`."""
METRICS = tuple(f"ray_{name}" for name in GAUGES)
"""Their names as Prometheus sees them."""

PAIRS = 200
"""Attack x defense pairs with series of their own; what comes after them is folded into `other`."""


AGAIN = 1.0
"""Seconds after which every value is recorded again: Ray drops a gauge that was not, after two of its export intervals."""


class Gauges:
    """The gauges of one launch: what is told is kept, and a thread records it while Ray is connected, until the end."""

    def __init__(self, sweep: str) -> None:
        self._sweep = sweep
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._pairs: dict[tuple[str, str], dict[str, list[float]]] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def count(self, tally: Tally) -> None:
        """Cells, victims and trials by state, and the best objective."""
        cells = {name: getattr(tally, name) for name in ("done", "failed", "lost", "skipped", "running")}
        self._states("bdray_cells", {**cells, "missing": max(0, tally.cells - sum(cells.values()))})
        if tally.victims:
            victims = {name: getattr(tally, f"victims_{name}") for name in ("done", "failed", "lost", "running")}
            self._states("bdray_victims", {**victims, "missing": max(0, tally.victims - sum(victims.values()))})
            missing = max(0, tally.epochs - tally.epochs_done)
            self._states("bdray_victim_epochs", {"done": tally.epochs_done, "missing": missing})
        if tally.trials_of:
            spoilt = {"stopped": tally.trials_stopped, "failed": tally.trials_failed}
            done, missing = tally.trials - sum(spoilt.values()), tally.trials_of - tally.trials
            self._states("bdray_trials", {"done": max(0, done), **spoilt, "missing": max(0, missing)})
        if tally.objective and tally.best is not None:
            self._set("bdray_best_objective", tally.best, objective=tally.objective)
        self._start()

    def measure(self, row: Mapping[str, Any]) -> None:
        """One more finished cell's ASR and utility."""
        pair = (str(row.get("attack")), str(row.get("defense")))
        if pair not in self._pairs and len(self._pairs) >= PAIRS:
            pair = ("other", "other")
        means = self._pairs.setdefault(pair, {"asr_after": [0.0, 0.0], "utility_after": [0.0, 0.0], "cells": [0.0, 0.0]})
        for column, value in (("asr_after", row.get("asr_after")), ("utility_after", row.get("utility_after"))):
            if is_number(value):
                mean = means[column]
                mean[1] += 1
                mean[0] += (float(value or 0) - mean[0]) / mean[1]
                self._set(f"bdray_{column}", mean[0], attack=pair[0], defense=pair[1])
        means["cells"][1] += 1
        self._set("bdray_measured_cells", means["cells"][1], attack=pair[0], defense=pair[1])

    def close(self) -> None:
        """Record for the last time."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._record()

    def _states(self, name: str, counts: dict[str, int]) -> None:
        for state, number in counts.items():
            self._set(name, number, state=state)

    def _set(self, name: str, value: float, **tags: str) -> None:
        self._values[name, tuple(tags.items())] = value

    def _start(self) -> None:
        if self._thread is None and ray.is_initialized():
            self._thread = threading.Thread(target=self._work, name="bdray gauges", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while not self._ended.wait(AGAIN):
            self._record()

    def _record(self) -> None:
        for (name, tags), value in list(self._values.items()):
            if ray.is_initialized():
                _gauge(name).set(value, {"sweep": self._sweep, **dict(tags)})


@functools.cache
def _gauge(name: str) -> Gauge:
    """One a process: launches that follow each other set the same one."""
    description, tags = GAUGES[name]
    return Gauge(name, description, tags)
