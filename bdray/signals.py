"""Signals: whoever ends a command, by Ctrl-C, a closed terminal, Slurm or Kubernetes, has it end in the same orderly way, with
one sentence and within a bounded time."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from bdray.wording import sentence as one_line

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
ends_with_it = False
"""Whether this process ends with the command that it runs."""
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
            self.timer = within(GRACE, self.status, self.say)
            raise KeyboardInterrupt

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
    global ends_with_it
    ending = Ending(sentence)
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before, ends_with_it = {number: signal.getsignal(number) for number in ENDING}, last
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, ending.receive)
    try:
        yield ending
    finally:
        if not (last and ending.number):  # else a second signal would cut short what the process does at its end
            for number, handler in before.items():
                signal.signal(number, handler)
            if ending.timer is not None:
                ending.timer.cancel()


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """What is called here may install handlers of its own, as Ray does, in C++ too: they do not stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def within(seconds: float, status: int, say: Callable[[], None]) -> threading.Timer:
    """End the process after so long, whatever it hangs in, with this status, and this said before."""

    def end() -> None:
        say()
        os._exit(status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer
