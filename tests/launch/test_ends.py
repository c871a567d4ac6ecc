"""How work ended that left no row, read from what Ray, Tune and Train raise."""

import pytest
import ray
import ray.exceptions as raised
from ray.train import ControllerError, WorkerGroupError

from bdray.launch import ends
from bdray.launch.ends import End, end_of, forget, judged

HEAD = "The actor died unexpectedly before finishing this task.\n\tclass_name: I\n\tactor_id: 9\n\tpid: 3\n\tip: 10.0.0.1\n"
KILLED = HEAD + (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed "
    "by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
MEMORY = HEAD + (
    "The actor is dead because its worker process has died. Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: Task was "
    "killed due to the node running low on memory."
)
NODE = HEAD + "The actor died because its node has died. Node Id: 12ab the actor's node was terminated: health check failed"


class Lost(Exception):
    """As Ray Train wraps the death of a worker."""

    def __init__(self, inside: Exception) -> None:
        self.health_check_failure = inside


class User(Exception):
    """As Ray Train wraps what a worker raised."""

    def __init__(self, inside: Exception) -> None:
        self._base_exc = inside


ENDS = [
    (ImportError("no module x"), "raised", "ImportError: no module x"),
    (raised.RayTaskError("f", "a trace", ImportError("no module x")), "raised", "ImportError: no module x"),
    (raised.RaySystemError(ModuleNotFoundError("No module named 'x'"), "a trace"), "raised", "No module named 'x'"),
    (raised.RayActorError("9", f"{HEAD}ImportError: no module x", actor_init_failed=True), "raised", "no module x"),
    (User(ImportError("no module x")), "raised", "ImportError: no module x"),
    (WorkerGroupError("", {0: User(ValueError("x")), 1: Lost(raised.RayActorError("9", KILLED))}), "died", "End of file"),
    (raised.RayActorError("9", KILLED), "died", "SYSTEM_ERROR"),
    (raised.RayActorError("9", MEMORY), "died", "NODE_OUT_OF_MEMORY"),
    (raised.OutOfMemoryError("the node is low on memory"), "died", "low on memory"),
    (raised.WorkerCrashedError(), "died", "died unexpectedly"),
    (RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1"), "died", "of its team"),
    (None, "died", "does not say why"),
    (raised.RayActorError("9", NODE), "machine", "node has died"),
    (raised.RayActorError("9", "it was drained", preempted=True), "machine", "drained"),
    (raised.NodeDiedError("the node it was running on is dead"), "machine", "is dead"),
    (raised.RayActorError("9", f"{HEAD}Its owner has died. Owner's node has crashed."), "machine", "crashed"),
    (ControllerError(raised.RayActorError("9", NODE)), "machine", "node has died"),
    (
        WorkerGroupError("", {0: Lost(raised.RayActorError("9", KILLED)), 1: Lost(raised.RayActorError("9", NODE))}),
        "machine",
        "",
    ),
]


@pytest.mark.parametrize(("error", "kind", "said"), ENDS)
def test_how_it_ended(error: Exception | None, kind: str, said: str) -> None:
    end = end_of(error)
    assert end.kind == kind
    assert said in end.reason
    assert "\n" not in end.reason
    assert end.status == ("failed" if kind == "raised" else "lost")


def test_memory_is_blamed_only_where_ray_does() -> None:
    assert "memory" not in end_of(raised.RayActorError("9", KILLED)).reason
    assert "class_name" not in end_of(raised.RayActorError("9", KILLED)).reason


def test_an_end_is_short() -> None:
    assert len(end_of(ValueError("x " * 5000)).reason) <= 450
    assert End("machine", "").status == "lost"


class TestMachines:
    """A worker's death is heard of before that of its machine: Ray's table of nodes is asked."""

    @pytest.fixture
    def nodes(self, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
        """Two that live, and one that was dead before."""
        found = [{"NodeID": name, "Alive": name != "old"} for name in ("here", "there", "old")]
        monkeypatch.setattr(ray, "nodes", lambda: found)
        monkeypatch.setattr(ends, "_GONE", {})
        monkeypatch.setattr(ends, "PATIENCE", {True: 0.3, False: 0.0})
        forget(["old"])
        return found

    def test_a_worker_that_died_alone(self, nodes: list[dict]) -> None:
        assert judged(raised.RayActorError("9", KILLED)).kind == "died"

    def test_one_that_died_with_its_machine(self, nodes: list[dict]) -> None:
        nodes[1]["Alive"] = False
        assert judged(raised.RayActorError("9", KILLED)).kind == "machine"
        assert judged(raised.RayActorError("9", KILLED)).kind == "machine"  # another worker of it
        assert judged(ValueError("bad")).kind == "raised"

    def test_a_machine_that_turns_out_to_be_lost(self, nodes: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ends.time, "sleep", lambda _: nodes[1].update(Alive=False))
        error = raised.ActorUnavailableError("RpcError: Socket closed", None)
        assert judged(error).kind == "machine"

    def test_a_machine_lost_long_ago_explains_nothing(self, nodes: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
        nodes[1]["Alive"] = False
        assert judged(raised.RayActorError("9", KILLED)).kind == "machine"
        monkeypatch.setattr(ends, "RECENT", 0.0)
        assert judged(raised.RayActorError("9", KILLED)).kind == "died"
