"""Vigil: a launch whose Ray has died under it ends with one sentence, not in a hang or with the last line of Ray's C++."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

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
CURE = "nothing is lost: the same command goes on"


@contextlib.contextmanager
def vigil() -> Iterator[None]:
    """Asks the connected Ray, as long as this lasts, whether the node that this process is connected to lives. Raises BadInput
    in the main thread once it does not; where that thread hangs, the process ends."""
    watch = _Vigil()
    watch.start()
    try:
        yield
    except KeyboardInterrupt:
        if not watch.trouble:
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
        self._timer: threading.Timer | None = None
        self._over, self._heard = threading.Event(), time.monotonic()
        self._node = ray.get_runtime_context().get_node_id()
        # Two threads: a question to a dead head gets no answer, for as long as Ray waits itself.
        self._asking = threading.Thread(target=self._ask, name="bdray asks Ray", daemon=True)
        self._looking = threading.Thread(target=self._look, name="bdray vigil", daemon=True)

    def start(self) -> None:
        """From now on."""
        self._asking.start()
        self._looking.start()

    def stop(self) -> None:
        """No more questions, before Ray is shut down."""
        self._over.set()
        self._looking.join(EVERY)
        self._asking.join(EVERY)

    def take(self) -> None:
        """The main thread says it. Where the process does not end with that, it goes on."""
        self._taken = True
        if self._timer is not None and not signals.ends_with_it:
            self._timer.cancel()

    def _ask(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(Exception):  # which is no answer
                dead = [node for node in ray.nodes() if node["NodeID"] == self._node and not node["Alive"]]
                self._heard = time.monotonic()
                if dead:
                    self.trouble = f"Ray's daemon on this machine (its raylet) has died; {CURE}"
                    return
            self._over.wait(EVERY)

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            if time.monotonic() - self._heard > SILENCE:
                self.trouble = self.trouble or f"Ray's head (its GCS) has not answered for {SILENCE:g} s; {CURE}"
            if self.trouble:
                self._timer = signals.within(GRACE, 2, self._say)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    def _say(self) -> None:
        if not self._taken:
            complain(f"bdray: {self.trouble}")
