"""Who is killed, and when: seeded, and never so often that the sweep would rightly give a cell or a victim up."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from typing import Any

from bdray.launch.ends import LIVES
from tests.chaos.harness import Command, Place

TRAINING = ("worker", "trainer", "queue")
"""What there is while victims are trained."""


class Killer:
    """Kills the processes of one sweep, from a list of kinds in random order."""

    def __init__(self, place: Place, seed: int, victims: dict[int, str], workers: int = 2) -> None:
        """`victims` are the keys of the sweep's by their seeds, so many trained at once."""
        self.place, self.draw, self.victims, self.workers = place, random.Random(seed), victims, workers
        self.left: list[str] = []
        self.killed: list[tuple[str, int, str]] = []
        """Kind, number and circumstance."""
        self._born = time.monotonic()
        self._before = 0
        """Events before this launch."""
        self._losses: Counter[str] = Counter()
        """How often each cell lost its worker in this launch; a worker at no cell counts for all of them."""
        self._at: list[int] = []
        """Events before each kill that hit the training of victims in this launch."""

    def strike(self, command: Command) -> bool:
        """Kill the next on the list of those that are there and may be killed now; whether somebody was."""
        events = self.place.events()
        there = [("driver", command.process.pid), *self.place.who()]
        self.draw.shuffle(there)
        for kind in dict.fromkeys(self.left):
            for pid in [pid for other, pid in there if other == kind]:
                if self._may(kind, pid, events):
                    self._kill(kind, pid, events, command)
                    return True
        return False

    def plan(self, kinds: dict[str, int]) -> None:
        """From now on kill so many more of these; whoever is left of other kinds gives way to them."""
        more = [kind for kind, number in kinds.items() for _ in range(number)]
        self.left = [*more, *(kind if kind in kinds else self.draw.choice(more) for kind in self.left)]
        self.draw.shuffle(self.left)

    def _may(self, kind: str, pid: int, events: list[dict[str, Any]]) -> bool:
        if kind == "trial":
            key = _cell(pid, events)
            if not key:  # one in a launch: with two, any cell might have but one life left, and nobody could be killed
                return not self._losses[""] and max(self._losses.values(), default=0) < LIVES - 1
            return self._losses[key] + self._losses[""] < LIVES - 1
        if kind in TRAINING:
            return all(self._lost(victim, events) < LIVES - 1 for victim in self._in_training(events))
        # Now and then while it starts, but mostly at work.
        return len(events) > self._before or self.draw.random() < 0.03

    def _in_training(self, events: list[dict[str, Any]]) -> list[str]:
        """Victims that a worker has, as far as one can see."""
        begun = {self.victims[event["seed"]] for event in events if event["what"] == "batch"}
        over = {event["key"] for event in events if event["what"] == "victim"}
        return sorted(set(self.victims.values()) - over, key=lambda victim: victim not in begun)[: self.workers]

    def _lost(self, victim: str, events: list[dict[str, Any]]) -> int:
        """How often it was interrupted since it had an epoch done."""
        saved = [at for at, event in enumerate(events) if event["what"] == "saved" and event["key"] == victim]
        return sum(point > (saved or [-1])[-1] for point in self._at)

    def _kill(self, kind: str, pid: int, events: list[dict[str, Any]], command: Command) -> None:
        doing = next((event["what"] for event in reversed(events) if event["pid"] == pid), "nothing yet")
        if kind == "driver":
            command.kill()
            self._losses.clear()
            self._at.clear()
            self._before = len(events)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if kind == "trial":
                self._losses[_cell(pid, events)] += 1
            else:
                self._at.append(len(events))
        self.left.remove(kind)
        self.killed.append((kind, pid, f"after {time.monotonic() - self._born:.1f} s, {len(events)} events; it did: {doing}"))

    def said(self) -> str:
        """The log of kills."""
        return "\n".join(f"killed {kind} {pid} {circumstance}" for kind, pid, circumstance in self.killed)


def _cell(pid: int, events: list[dict[str, Any]]) -> str:
    """The cell that a process is at work on; empty if none."""
    mine = [event for event in events if event["pid"] == pid and event["what"] in ("start", "row")]
    return str(mine[-1]["key"]) if mine and mine[-1]["what"] == "start" else ""
