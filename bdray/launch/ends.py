"""Ends: how work ended that left no row: it raised, its worker died under it, or the worker's machine was lost."""

import re
import time
from collections.abc import Iterable
from typing import Literal, NamedTuple

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    RuntimeEnvSetupError,
)

LIVES = 3
"""How often one piece of work may lose its worker, or raise, before it counts as lost, or failed."""
WIDTH = 400
"""Characters of a reason."""
_MACHINE = re.compile(r"\bnode (it was running on )?(has|is|was) (died|dead|crashed|drained|preempted|terminated)", re.I)
"""How Ray says that it was the machine."""
_PEER = re.compile(r"\bgloo/|\bNCCL\b|Connection (closed|reset) by peer|Broken pipe")
"""What the rest of a team raises once one of it is gone."""
_HEAD = re.compile(r"The actor died unexpectedly|\s+(class_name|actor_id|pid|name|namespace|ip): ")
"""Lines of Ray's account of a death that say who it was."""
_UNREACHED = "is unavailable"
"""How Ray calls a worker that it cannot reach, before it knows why."""
PATIENCE = {True: 20.0, False: 5.0}
"""Seconds in which the machine of a worker may turn out to be lost, if it cannot be reached and if it is known to have died."""
RECENT = 120.0
"""Seconds for which a lost machine explains the deaths of workers."""
_GONE: dict[str, float] = {}
"""When each node of Ray was first seen to be dead."""
_GUESSES = re.compile(r"(There are some potential root causes|Some common causes).*")
"""Where Ray's account of a death goes on with what might have been: it names the lack of memory there whatever it was."""


class End(NamedTuple):
    """How, and why in one line."""

    kind: Literal["raised", "died", "machine"]
    reason: str

    @property
    def status(self) -> str:
        """Of the row: only work that raised has failed."""
        return "failed" if self.kind == "raised" else "lost"


def end_of(error: BaseException | None) -> End:
    """What an exception of Ray, Tune or Train says of the work that it ended. None: Ray does not say."""
    from ray.train import (  # a second, which the queue of victims does without
        ControllerError,
        PreemptionError,
        WorkerGroupError,
    )

    if error is None:
        return End("died", "Ray does not say why")
    if isinstance(error, WorkerGroupError):
        return first(end_of(failure) for failure in error.worker_failures.values())
    if isinstance(error, ControllerError):
        return end_of(error.controller_failure)
    # A lost worker of Ray Train, and an exception in one, come in wrappers that are no public names.
    for inside in ("health_check_failure", "_base_exc"):
        if isinstance(found := getattr(error, inside, None), BaseException):
            return end_of(found)
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return end_of(error.cause)
    if isinstance(error, NodeDiedError | LocalRayletDiedError | PreemptionError):
        return End("machine", _line(error))
    if isinstance(error, RayActorError):
        return _of_actor(error)
    if isinstance(error, RaySystemError) and error.traceback_str:  # what a worker was sent could not be read there
        return End("raised", _line(error.client_exc))
    if isinstance(error, RayError) and not isinstance(error, RayTaskError | RuntimeEnvSetupError):
        return End("died", _line(error))
    if _PEER.search(text := _line(error)):
        return End("died", f"another one of its team was gone ({text})")
    return End("raised", f"{type(error).__name__}: {text}")


def judged(error: BaseException | None) -> End:
    """As `end_of`, once Ray's table of nodes was asked: the death of a worker is heard of before that of its machine."""
    end = end_of(error)
    if end.kind == "died" and _machine_lost(PATIENCE[_UNREACHED in end.reason]):
        return End("machine", end.reason)
    return end


def dead_nodes() -> list[str]:
    """The ids of those in Ray's table."""
    return [node["NodeID"] for node in ray.nodes() if not node["Alive"]]


def forget(nodes: Iterable[str]) -> None:
    """These were dead before the work began, and explain nothing."""
    _GONE.update(dict.fromkeys(nodes, float("-inf")))


def _machine_lost(patience: float) -> bool:
    end = time.monotonic() + patience
    while len(ray.nodes()) > 1:  # the only one is this process' own, which has a vigil
        now = time.monotonic()
        for node in dead_nodes():
            _GONE.setdefault(node, now)
        if any(now - at < RECENT for at in _GONE.values()):
            return True
        if now > end:
            break
        time.sleep(0.5)
    return False


def first(ends: Iterable[End]) -> End:
    """The one of a group that explains the others: a lost machine, then a death, then an exception."""
    return min(ends, key=lambda end: ("machine", "died", "raised").index(end.kind), default=End("died", "Ray does not say why"))


def _of_actor(error: RayActorError) -> End:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not _HEAD.match(line)]
    if error.preempted or _MACHINE.search(str(error)):
        return End("machine", _line(" ".join(lines)))
    if error.actor_init_failed:
        return End("raised", _line(lines[-1]))
    return End("died", _line(_GUESSES.sub("", " ".join(lines))))


def _line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
