"""Watch: what a launch shows while it works; bars or lines in the terminal, gauges for Prometheus."""

import sys
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TextIO

from bdray.launch.watch import terminal
from bdray.launch.watch.gauges import METRICS, Gauges
from bdray.launch.watch.tally import Tally, said_time, shortened
from bdray.launch.watch.terminal import Terminal

__all__ = ["METRICS", "Watch"]


TIMES = 5
"""How often one reason of failed cells is told."""
REASONS = 1000
"""How many reasons are."""


class Watch:
    """Told by the driver what happens, from any thread; it never raises and never stops a launch. A launch trains its victims
    first and runs its cells then; an adaptive search tells its trials beside its cells."""

    def __init__(
        self,
        sweep: str,
        cells: int,
        done: int = 0,
        failed: int = 0,
        victims: int = 0,
        epochs: int = 0,
        objective: str = "",
        stream: TextIO | None = None,
        skipped: int = 0,
        mode: Literal["max", "min"] = "max",
    ) -> None:
        """`cells` are all of the sweep's (0: nobody knows how many), of which `done`, `failed` and `skipped` were so before
        this launch; `victims` and their `epochs` are those to train in it; `mode` says which objective is better."""
        self._tally = Tally(sweep, cells, done, failed, skipped, victims, epochs, objective, mode, idle=terminal.now())
        self._gauges = Gauges(sweep)
        self._terminal = Terminal(sweep, sys.stderr if stream is None else stream)
        self._lock = threading.RLock()
        self._phase = ""
        self._told: set[str] = set()
        self._reasons: Counter[str] = Counter()

    def victims(
        self,
        epochs: int,
        running: int,
        finished: int,
        failed: int,
        errors: Mapping[str, str] | None = None,
        lost: Collection[str] = (),
    ) -> None:
        """Totals so far of the victims of this launch: epochs done, in training, ended in either way, ended with an error;
        the errors by key, each shown once; and which of these keys were lost. Called every half second or so."""
        with self._lock:
            self._tally.take_victims(epochs, running, finished, failed - len(lost), terminal.now(), len(lost))
            for key in (errors or {}).keys() - self._told:
                self._told.add(key)
                how = "lost" if key in lost else "failed"
                self._terminal.say(f"{how} victim {key}: {shortened((errors or {})[key])}")
            self._show("victims")

    def running(self, cells: int) -> None:
        """How many cells are in work now."""
        with self._lock:
            self._tally.running = cells
            self._show("cells")

    def cell(self, row: Mapping[str, Any]) -> None:
        """One more cell ended: its row's key, status, attack, defense, seed, utility_after, asr_after and error, and its
        objective where the sweep has one."""
        with self._lock:
            self._tally.take_cell(row)
            if row["status"] in ("failed", "lost"):
                self._tell_failure(row)
            elif row["status"] == "done" and row.get("attack"):
                self._gauges.measure(row)
            self._show("cells")

    def trial(
        self,
        number: int,
        of: int,
        value: float | None,
        stopped: bool,
        setting: Mapping[str, Any],
        failed: bool | None = None,
    ) -> None:
        """One more trial of an adaptive search ended, `number` of them so far: its objective (None where there is none),
        whether a scheduler stopped it early, its setting, and whether it failed: unless told, where it has no objective."""
        if failed is None:
            failed = value is None and not stopped
        with self._lock:
            self._tally.take_trial(number, of, value, stopped, failed, setting)
            self._show("cells")

    def say(self, text: str) -> None:
        """A line of its own."""
        with self._lock:
            self._terminal.say(shortened(text))

    def close(self) -> None:
        """The launch ended, in whatever way."""
        with self._lock:
            self._tally.running = self._tally.victims_running = 0
            self._gauges.count(self._tally)
            self._end()
        self._gauges.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _tell_failure(self, row: Mapping[str, Any]) -> None:
        """Each reason a few times: a lost victim may be that of a thousand cells."""
        reason = shortened(row.get("error") or "no reason given")
        if reason not in self._reasons and len(self._reasons) >= REASONS:
            return
        self._reasons[reason] += 1
        if self._reasons[reason] <= TIMES:
            cell = f"{row.get('attack', '?')} x {row.get('defense', '?')} seed {row.get('seed', '?')} ({row.get('key', '?')})"
            more = "; more of them are only counted" if self._reasons[reason] == TIMES else ""
            self._terminal.say(f"{row['status']} {cell}: {reason}{more}")

    def _show(self, phase: str) -> None:
        if phase != self._phase:
            self._end()
            self._phase = phase
            self._tally.start(phase)
        left = f"{said_time(self._tally.left(phase, terminal.now()))} left"
        self._terminal.show(phase, self._tally.share(phase), self._tally.text(phase), left)
        self._gauges.count(self._tally)

    def _end(self) -> None:
        """The last word on a phase."""
        if self._phase:
            took = f"took {said_time(terminal.now() - self._tally.started[self._phase])}"
            self._terminal.show(self._phase, self._tally.share(self._phase), self._tally.text(self._phase), took, last=True)
            self._phase = ""
