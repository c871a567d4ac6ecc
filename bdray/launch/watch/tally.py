"""Tally: what a launch has done so far, how long the rest will take, and the sentences that say so."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bdray.judge.validity import USUAL

WIDTH = 100
"""Characters of a failure's reason or of a setting that stand in a line."""


@dataclass
class Tally:
    """Counts of one launch. Times are seconds of one monotonic clock, passed in."""

    sweep: str
    cells: int
    """Of the whole sweep, those of earlier launches included; 0 where nobody knows."""
    done: int
    failed: int
    skipped: int
    victims: int
    epochs: int
    objective: str
    mode: str
    running: int = 0
    lost: int = 0
    victims_done: int = 0
    victims_failed: int = 0
    victims_lost: int = 0
    victims_running: int = 0
    epochs_done: int = 0
    trials: int = 0
    trials_of: int = 0
    trials_stopped: int = 0
    trials_failed: int = 0
    best: float | None = None
    """Of the objective; without one, the lowest ASR."""
    best_of: str = ""
    worked: dict[str, float] = field(default_factory=dict)
    """What was finished in this launch, by phase: the time left follows from it alone."""
    started: dict[str, float] = field(default_factory=dict)
    idle: float = 0.0
    """When the launch was made, or last told of its victims: what is heard of next has begun then."""

    def take_victims(self, epochs: int, running: int, finished: int, failed: int, now: float, lost: int = 0) -> None:
        """Totals so far. A victim that goes on where an earlier launch left it reports its old epochs at once: of what comes
        between two looks, no more than an epoch a worker was done in this launch."""
        self._work("victims", max(0, min(epochs - self.epochs_done, max(1, running))))
        self.idle = now
        self.epochs_done, self.victims_running = epochs, running
        self.victims_done, self.victims_failed, self.victims_lost = finished - failed - lost, failed, lost

    def take_cell(self, row: Mapping[str, Any]) -> None:
        """One more cell ended."""
        status = row["status"]
        # A cell that failed may have failed because of its victim, in no time: it says nothing about the time left.
        self._work("cells", status == "done")
        self.done += status == "done"
        self.failed += status == "failed"
        self.lost += status == "lost"
        self.skipped += status == "skipped"
        if status == "done" and not self.trials:
            self._judge(row)

    def take_trial(
        self, number: int, of: int, value: float | None, stopped: bool, failed: bool, setting: Mapping[str, Any]
    ) -> None:
        """One more trial ended; where there are trials, the best is the best of them."""
        self._work("trials", 1)
        if not self.trials:
            self.best = None
        self.trials, self.trials_of = max(self.trials, number), of
        self.trials_stopped += stopped
        self.trials_failed += failed
        if is_number(value):
            self._better(float(value or 0), said_setting(setting))

    def start(self, phase: str) -> None:
        """A phase has begun, if it had not yet."""
        self.started.setdefault(phase, self.idle)

    def _work(self, phase: str, amount: float) -> None:
        self.start(phase)
        self.worked[phase] = self.worked.get(phase, 0) + amount

    def _judge(self, row: Mapping[str, Any]) -> None:
        value = row.get("objective") if self.objective else row.get("asr_after")
        # A model that lost the target class has the lowest ASR of all, and so has a victim that never had a backdoor.
        if is_number(value) and (self.objective or not USUAL.flags(row)):
            where = f"{row.get('attack', '?')}, {row.get('defense', '?')}, seed {row.get('seed', '?')}"
            if not self.objective:
                where = f"utility {_percent(row.get('utility_after'))}, {where}"
            self._better(float(value), where)  # type: ignore[arg-type]

    def _better(self, value: float, where: str) -> None:
        lowest = not self.objective or self.mode == "min"
        if self.best is None or (value < self.best if lowest else value > self.best):
            self.best, self.best_of = value, where

    def left(self, phase: str, now: float) -> float | None:
        """Seconds until a phase is done, were it to go on as in this launch so far; None where that cannot be told."""
        total, at = self._extent(phase)
        worked = self.worked.get("trials" if phase == "cells" and self.trials_of else phase, 0)
        if not worked or not total:
            return None
        return (now - self.started[phase]) / worked * max(0, total - at)

    def share(self, phase: str) -> float:
        """Of a phase, that is done: 0 to 1."""
        total, at = self._extent(phase)
        return min(1.0, at / total) if total else 0.0

    def _extent(self, phase: str) -> tuple[int, int]:
        """What there is to do and what of it is done, in the unit that tells best how far a phase is."""
        if phase == "victims":
            return self.epochs, self.epochs_done
        if self.trials_of:
            return self.trials_of, self.trials
        return self.cells, self.done + self.failed + self.skipped + self.lost

    def text(self, phase: str) -> str:
        """The counts of a phase, for a person."""
        if phase == "victims":
            lost = f"{self.victims_lost} lost, " if self.victims_lost else ""
            return (
                f"victims {self.victims_done}/{self.victims} done, {self.victims_running} running, "
                f"{self.victims_failed} failed, {lost}{self.epochs_done}/{self.epochs} epochs"
            )
        of = f"/{self.cells}" if self.cells else ""
        words = [f"cells {self.done}{of} done", f"{self.running} running", f"{self.failed} failed"]
        if self.lost:
            words.append(f"{self.lost} lost")
        if self.skipped:
            words.append(f"{self.skipped} skipped")
        if self.trials:
            words.insert(0, f"trials {self.trials}/{self.trials_of} ended ({self.trials_stopped} stopped early)")
        if self.best is not None and self.objective:
            words.append(f"best {self.objective} {self.best:.3g} ({self.best_of})")
        elif self.best is not None:
            words.append(f"lowest ASR {_percent(self.best)} ({self.best_of})")
        return ", ".join(words)


def is_number(value: Any) -> bool:
    """Neither None nor NaN: rows say "not measured" in both ways."""
    return isinstance(value, int | float) and math.isfinite(value)


def shortened(text: Any) -> str:
    """As one line that fits beside others."""
    line = " ".join(str(text).split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def said_setting(setting: Mapping[str, Any]) -> str:
    """A defense's dict as a person would type it."""
    words = [str(setting["name"])] if "name" in setting else []
    words += [f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in setting.items() if k != "name"]
    return shortened(" ".join(words))


def said_time(seconds: float | None) -> str:
    """Seconds, minutes, hours or days; a question mark where nobody knows."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if is_number(value) else "?"
