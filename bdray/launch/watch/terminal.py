"""Where a launch speaks: bars in a terminal, plain lines in a log file."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

from bdray.layout import safe

now: Callable[[], float] = time.monotonic

EVERY = 10.0
"""Seconds between two plain lines, at the least."""
SILENCE = 600.0
"""Seconds after which a line comes although nothing has changed: whoever reads the log sees that the launch lives."""
REDRAW = 0.1
"""Seconds between two drawings of a bar."""


class Bars:
    """In a terminal: one bar a phase, redrawn in place."""

    def __init__(self, sweep: str, stream: TextIO) -> None:
        self._stream, self._bars, self._drawn = stream, dict[str, Any](), 0.0

    def show(self, phase: str, share: float, text: str, left: str, last: bool = False) -> None:
        """How far a phase is; `last` for the end of it."""
        bar = self._bars.get(phase)
        if bar is None:
            form = "{percentage:3.0f}%|{bar:12}| {desc}"
            bar = tqdm(total=1.0, file=self._stream, dynamic_ncols=True, bar_format=form, disable=False)
            self._bars[phase] = bar
        elif not last and now() - self._drawn < REDRAW:
            return
        self._drawn = now()
        bar.n = min(1.0, share)
        bar.set_description_str(f"{text}, {left}")
        if last:
            bar.close()

    def say(self, text: str) -> None:
        """A line above the bars."""
        tqdm.write(text, file=self._stream)


class Lines:
    """Elsewhere: a line at most every ten seconds, each with its time of day."""

    def __init__(self, sweep: str, stream: TextIO) -> None:
        self._sweep, self._stream = sweep, stream
        self._shown: dict[str, tuple[float, str]] = {}

    def show(self, phase: str, share: float, text: str, left: str, last: bool = False) -> None:
        """How far a phase is; `last` for the end of it."""
        at, before = self._shown.get(phase, (float("-inf"), ""))
        if last or now() - at >= (EVERY if text != before else SILENCE):
            self._shown[phase] = (now(), text)
            self.say(f"{text}, {left}")

    def say(self, text: str) -> None:
        """A line at once."""
        print(f"{time.strftime('%H:%M:%S')} {self._sweep}: {text}", file=self._stream, flush=True)


class Terminal:
    """Bars or lines, whichever suits the stream. What cannot be written is given up: a launch outlives its terminal."""

    def __init__(self, sweep: str, stream: TextIO | None) -> None:
        self._speaker: Bars | Lines | None = None
        if stream is not None:
            with self._unharmed():
                self._speaker = (Bars if stream.isatty() else Lines)(sweep, stream)

    def show(self, phase: str, share: float, text: str, left: str, last: bool = False) -> None:
        """How far a phase is, 0 to 1 and in words; `last` for the end of it."""
        if self._speaker is not None:
            with self._unharmed():
                self._speaker.show(phase, share, safe(text), left, last)

    def say(self, text: str) -> None:
        """One line at once."""
        if self._speaker is not None:
            with self._unharmed():
                self._speaker.say(safe(text))

    @contextlib.contextmanager
    def _unharmed(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # a closed stream, a full disk, a character that the terminal lacks
            self._speaker = None
