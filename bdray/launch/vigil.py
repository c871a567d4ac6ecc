"""Vigil: a launch whose Ray has died under it ends with one sentence, not in a hang or with the last line of Ray's C++."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ray

from bdray import signals
from bdray.layout import complain
from bdray.spec import BadInput

EVERY = 2.0
"""Seconds between two questions."""
LOOK = 0.5
"""Between two looks at what was answered."""
SILENCE = 30.0
"""Seconds without an answer after which Ray's head is taken for dead: Ray itself would abort this process after 60."""
GRACE = 15.0
"""Seconds that the end may take from then on."""
HEARD = 2.0
"""Seconds in which the main thread hears of a signal, while it waits for Ray: who ends this command may have ended Ray as well,
as Slurm does, which sends its signals to every process."""
SHORT = 6.0
"""The same for a dead daemon of this machine. Its head hears of that after 10 to 15 s, and then Ray ends this process, with
status 1 and without a word; the main thread may wait for the dead one until then."""
CURE = "nothing is lost: the same command goes on"
DEAD = f"Ray's daemon on this machine (its raylet) has died; {CURE}"


@contextlib.contextmanager
def vigil() -> Iterator[None]:
    """Asks the connected Ray, as long as this lasts, whether the node that this process is connected to lives. Raises BadInput
    in the main thread once it does not; where that thread hangs, the process ends."""
    watch = _Vigil()
    watch.start()
    try:
        yield
    except KeyboardInterrupt:
        if not watch.struck:
            raise
        watch.take()
        raise BadInput(watch.trouble) from None
    except (ray.exceptions.RayError, ConnectionError) as error:
        why = watch.trouble or f"Ray has ended the launch: {' '.join(str(error).split())[:300]}; {CURE}"
        raise BadInput(why) from None
    finally:
        watch.stop()


class _Vigil:
    def __init__(self) -> None:
        self.trouble, self._taken = "", False
        self.struck = False
        """Whether the main thread was interrupted because of the trouble, and not from outside."""
        self._timer: threading.Timer | None = None
        self._over, self._heard = threading.Event(), time.monotonic()
        self._node = ray.get_runtime_context().get_node_id()
        self._raylet: Path | None = None
        # Two threads: a question to a dead head gets no answer, for as long as Ray waits itself.
        self._asking = threading.Thread(target=self._ask, name="bdray asks Ray", daemon=True)
        self._looking = threading.Thread(target=self._look, name="bdray vigil", daemon=True)

    def start(self) -> None:
        """From now on."""
        self._asking.start()
        self._looking.start()

    def stop(self) -> None:
        """No more questions, before Ray is shut down. Where the process does not end with that, it goes on."""
        self._over.set()
        self._looking.join(EVERY)
        self._asking.join(EVERY)
        if self._timer is not None and not signals.ends_with_it:
            self._timer.cancel()

    def take(self) -> None:
        """The main thread says it."""
        self._taken = True

    def _ask(self) -> None:
        looked = False
        while not self._over.is_set():
            with contextlib.suppress(Exception):  # which is no answer
                if not looked:
                    self._raylet, looked = _raylet(self._node), True
                dead = [node for node in ray.nodes() if node["NodeID"] == self._node and not node["Alive"]]
                self._heard = time.monotonic()
                if dead:
                    self.trouble = DEAD
                    return
            self._over.wait(EVERY)

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            if self._raylet is not None and _ended(self._raylet):
                self.trouble = self.trouble or DEAD
            if time.monotonic() - self._heard > SILENCE:
                self.trouble = self.trouble or f"Ray's head (its GCS) has not answered for {SILENCE:g} s; {CURE}"
            if self.trouble:
                self._timer = signals.within(SHORT if self.trouble == DEAD else GRACE, self._last)
                if not self._over.wait(HEARD) and not self._ended_from_outside():
                    self.struck = True
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    def _ended_from_outside(self) -> bool:
        return not self.struck and signals.current is not None and bool(signals.current.number)

    def _last(self) -> int:
        """Where the main thread does not come to an end: what is to be said, and the status."""
        if signals.current is not None and self._ended_from_outside():
            return signals.current.over()
        if not self._taken:
            complain(f"bdray: {self.trouble}")
        return 2


def _raylet(node: str) -> Path | None:
    """The folder of a node's daemon in /proc, where it runs among the processes that this one can see."""
    sockets = {f"--raylet_socket_name={about.get('RayletSocketName')}" for about in ray.nodes() if about["NodeID"] == node}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if sockets & set((process / "cmdline").read_text(errors="replace").split("\0")):
                return process
    return None


def _ended(process: Path) -> bool:
    try:
        # A child of this process that has ended stays, as a zombie, until it is waited for.
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
