"""Claims: who is at work on what, so that two launches at once, on one machine or on several, do nothing twice. Asks of a
folder or a bucket only that a write is whole, and that a listing sees what was written before it.

    claims/<kind>/<key>.<launch>.<host>.<pid>.<start>.json    a process has this cell or victim, or is just asking for it
    claims/launches/<launch>.json                             written again every few seconds while the launch lives

To claim a key, a process writes a file, then lists the others: of two at once, at least the later one sees the other. If it
sees one it withdraws; both may, and retry after a random while. There is no rule by which one of two wins: such a rule would
have to hold for a process that had looked before the other wrote.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyarrow import fs

from bdray.spec import BadInput
from bdray.store.files import Files

BEAT = 10.0
"""Seconds between two signs of life of a launch."""
LEASE = 60.0
"""Seconds without one, by the clock of the store, after which the claims of its processes on other machines are void. One that
is dated later than so many seconds from now is none: whoever made it did not make it now."""
_NAME = re.compile(r"(?P<key>.+)\.(?P<launch>[\w-]+)\.(?P<host>[0-9a-f]+)\.(?P<pid>\d+)\.(?P<start>\d+)\.json")
_OWN: set[tuple[str, str]] = set()
"""The claims that this process has: the store's location and the path, which names the process, so that a fork has none."""
_LOCK = threading.Lock()


class Process(NamedTuple):
    """One process of one machine; another one with the same number has another start."""

    host: str
    """Of the machine since it was started, and of the processes on it that see each other: a container sees its own."""
    pid: int
    start: int
    """In the kernel's ticks since the machine was started; 0 where it does not say."""

    def lives(self) -> bool:
        """Whether it still runs, for a process of this `host`; a zombie does not count."""
        with contextlib.suppress(OSError):
            state, start = _stat(self.pid)
            return state not in "ZX" and start == self.start
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, hidden from us
            pass
        return True


class Claims:
    """What the processes of one launch have; `launch` is an id of its own, in letters, digits, - and _."""

    def __init__(self, files: Files, launch: str) -> None:
        if not re.fullmatch(r"[\w-]+", launch):
            raise ValueError(f"launch: got {launch!r}, expected letters, digits, - and _")
        self.files, self.launch = files, launch
        self._beating = False

    def take(self, kind: str, key: str) -> bool:
        """Whether the key is now this process's, which may have had it before; not if another living one has it. Two that ask
        at once may both be refused: ask again after a random while. Look for the result after taking, not only before."""
        mine = self._path(kind, key)
        with _LOCK:
            if self._own(mine) in _OWN and self.files.exists(mine):  # another that is just asking for it does not count
                return True
            _OWN.discard(self._own(mine))
            about = {"launch": self.launch, "host": socket.gethostname(), "pid": os.getpid()}
            self.files.put(mine, json.dumps(about).encode(), durable=False)
            try:
                found = self.files.list(f"claims/{kind}")
                # Another machine may have removed it, where this launch gives no sign of life.
                if mine in found and not self._living(self._rivals(found, {key}), found[mine].mtime_ns):
                    _OWN.add(self._own(mine))
                    return True
            finally:
                if self._own(mine) not in _OWN:
                    self.files.delete(mine)
            return False

    def release(self, kind: str, key: str) -> None:
        """Give it back; it may be another's by now, who keeps it."""
        mine = self._path(kind, key)
        with _LOCK:
            _OWN.discard(self._own(mine))
            self.files.delete(mine)

    def held(self, kind: str, keys: Iterable[str]) -> set[str]:
        """Those of the keys that another living process has."""
        rivals = self._rivals(self.files.list(f"claims/{kind}"), set(keys))
        here = this_process().host
        now = self._now() if any(process.host != here for _, _, process in rivals.values()) else None
        return self._living(rivals, now)

    def beat(self) -> None:
        """Give one sign of life of the launch."""
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        self.files.put(_sign(self.launch), json.dumps(about).encode(), durable=False)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Give signs of life until the end, and then give back what the launch still has, but for what a worker of this machine
        that outlives it is at work on."""
        stop = threading.Event()

        def go_on() -> None:
            while not stop.wait(BEAT):
                with contextlib.suppress(BadInput):  # a network that is down for a moment
                    self.beat()

        self.beat()
        self._beating = True
        thread = threading.Thread(target=go_on, name="beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._beating = False
            with contextlib.suppress(BadInput):
                self._end()

    def _end(self) -> None:
        self.files.delete(_sign(self.launch))
        me, left = this_process(), []
        for path in self.files.list("claims", recursive=True):
            if (claim := _parsed(path)) and claim[1] == self.launch:
                process = claim[2]
                if process == me or process.host != me.host or not process.lives():
                    left.append(path)
        self.files.delete_all(left)

    def _own(self, path: str) -> tuple[str, str]:
        return self.files.location(), path

    def _path(self, kind: str, key: str) -> str:
        return f"claims/{kind}/{key}.{self.launch}.{'.'.join(map(str, this_process()))}.json"

    def _rivals(self, found: dict[str, fs.FileInfo], keys: set[str]) -> dict[str, tuple[str, str, Process]]:
        """The claims to these keys by other processes, by path."""
        me, parsed = this_process(), {path: claim for path in found if (claim := _parsed(path))}
        return {path: claim for path, claim in parsed.items() if claim[0] in keys and claim[2] != me}

    def _living(self, claims: dict[str, tuple[str, str, Process]], now: int | None) -> set[str]:
        """The keys of the claims whose process lives; the others are removed. `now` is needed for those of other machines."""
        here, beats, living, void = this_process().host, dict[str, bool](), set(), []
        for path, (key, launch, process) in claims.items():
            if process.host != here and launch not in beats:
                beats[launch] = self._beats(launch, now or 0)
            if process.lives() if process.host == here else beats[launch]:
                living.add(key)
            else:
                void.append(path)
        self.files.delete_all(void)
        return living

    def _beats(self, launch: str, now: int) -> bool:
        """Whether a launch has given a sign of life lately."""
        for looked in (False, True):
            info = self.files.info(_sign(launch))
            if info.type != fs.FileType.File:
                return False
            if info.mtime_ns is None or abs(now - info.mtime_ns) <= LEASE * 1e9:
                return True
            if not looked:
                with contextlib.suppress(FileNotFoundError):  # NFS may show a time of a minute ago until a file is opened
                    self.files.get(_sign(launch))
        return False

    def _now(self) -> int:
        """By the clock that stamps the store's files; up to a beat ago."""
        own = self.files.info(_sign(self.launch)).mtime_ns if self._beating else None
        return self.files.now() if own is None else int(own)


def this_process() -> Process:
    """The calling process, also after a fork."""
    return _process(os.getpid())


@functools.lru_cache(maxsize=1)
def _process(pid: int) -> Process:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        parts.append(file.read().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    start = 0
    with contextlib.suppress(OSError):
        start = _stat(pid)[1]
    return Process(hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16], pid, start)


def _stat(pid: int) -> tuple[str, int]:
    """The state and the start of a process. Raises OSError where it is gone, or the kernel does not say."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    return fields[0].decode(), int(fields[19])


def _sign(launch: str) -> str:
    return f"claims/launches/{launch}.json"


def _parsed(path: str) -> tuple[str, str, Process] | None:
    """The key, the launch and the process of a claim."""
    name = _NAME.fullmatch(path.rpartition("/")[2])
    return name and (name["key"], name["launch"], Process(name["host"], int(name["pid"]), int(name["start"])))
