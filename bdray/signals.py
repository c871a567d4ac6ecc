"""Signals: whoever ends a command, by Ctrl-C, a closed terminal, Slurm or Kubernetes, has it end in the same orderly way, with
one sentence and within a bounded time. So do the warnings that a scheduler sends before it kills, as Slurm's `--signal=USR1@60`
asks for: nothing else is known of them than that the end is near."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from bdray.wording import sentence as one_line

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
ENDING = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
ends_with_it = False
"""Whether this process ends with the command that it runs."""
current: "Ending | None" = None
"""Of the command that runs now."""
GRACE = 20.0
"""Seconds that the clean-up may take: Slurm and Kubernetes kill after 30."""


class Ending:
    """How one command is ended from outside."""

    def __init__(self, sentence: str) -> None:
        """`sentence` is said last, whoever says it."""
        self.sentence, self.number, self._said = sentence, 0, threading.Lock()
        self.timer: threading.Timer | None = None

    @property
    def status(self) -> int:
        """Of the process, as a shell gives it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.number or signal.SIGINT)

    def receive(self, number: int, frame: object) -> None:
        """The handler. The first signal raises KeyboardInterrupt in the main thread; later ones wait for its clean-up."""
        if not self.number:
            self.number = number
            self.timer = within(GRACE, self.over)
            raise KeyboardInterrupt

    def over(self) -> int:
        """Say it; the status."""
        self.say()
        return self.status

    def say(self) -> None:
        """Print the sentence, once, where there still is somebody who reads it."""
        if self._said.acquire(blocking=False):
            try:
                print(f"\nbdray: {one_line(self.sentence)}", file=sys.stderr, flush=True)
            except (OSError, ValueError):
                # Python still holds the sentence, would try again at its very end, and exit with a status of its own.
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@contextlib.contextmanager
def orderly(sentence: str, last: bool = True) -> Iterator[Ending]:
    """While this lasts the signals of `ENDING` raise KeyboardInterrupt, unless they are ignored, as SIGHUP is under nohup and
    SIGINT in a shell's background. `last`: the process ends with it, and does so in time. Does nothing outside the main
    thread."""
    global ends_with_it, current
    ending = Ending(sentence)
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before, outer = handlers(), current
    ends_with_it, current = last, ending
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, ending.receive)
    try:
        yield ending
    finally:
        if not (last and ending.number):  # else a second signal would cut short what the process does at its end
            current = outer
            put_back(before)
            if ending.timer is not None:
                ending.timer.cancel()


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """What is called here may install handlers of its own, as Ray does, in C++ too: they do not stay."""
    before = handlers()
    try:
        yield
    finally:
        put_back(before)


Handlers = dict[signal.Signals, Any]


def handlers() -> Handlers:
    """Of the signals of `ENDING`, as they are now."""
    return {number: signal.getsignal(number) for number in ENDING}


def put_back(before: Handlers) -> None:
    """Those of an earlier moment. Does nothing outside the main thread, where nobody can install any."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            if handler is not None:  # one of C's
                signal.signal(number, handler)


def within(seconds: float, last: Callable[[], int]) -> threading.Timer:
    """End the process after so long, whatever it hangs in, with the status that is the result of this last call."""
    timer = threading.Timer(seconds, lambda: os._exit(last()))
    timer.daemon = True
    timer.start()
    return timer
