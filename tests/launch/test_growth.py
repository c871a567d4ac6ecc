"""What a cluster may grow to."""

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from bdray.launch import growth
from bdray.spec import BadInput, Config

CONFIG: Config = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 0},
        "small": {"resources": {"CPU": 2, "GPU": 1}, "max_workers": 4},
        "large": {"resources": {"CPU": 16, "GPU": 4}, "max_workers": 2},
        "plain": {"resources": {"CPU": 8}, "max_workers": 9},
    },
}


@pytest.mark.parametrize(
    ("workers", "most"),
    [
        (5, {"CPU": 2 * 16 + 3 * 8, "GPU": 2 * 4 + 3 * 1}),
        (1, {"CPU": 16, "GPU": 4}),
        (0, {"CPU": 0, "GPU": 0}),
        (99, {"CPU": 2 * 16 + 9 * 8 + 4 * 2, "GPU": 2 * 4 + 4 * 1}),
    ],
)
def test_the_largest_machines_that_the_file_allows(workers: int, most: dict[str, float]) -> None:
    config: dict[str, Any] = {**copy.deepcopy(CONFIG), "max_workers": workers}
    assert growth.limit(config) == most


def test_the_kinds_of_machine_that_the_file_allows() -> None:
    config: dict[str, Any] = copy.deepcopy(CONFIG)
    config["available_node_types"]["large"]["resources"]["memory"] = 64 * 2**30
    config["available_node_types"]["plain"]["max_workers"] = 0
    assert growth.kinds(config) == ((2, 1, math.inf), (16, 4, 64))


def test_own_machines_do_not_grow() -> None:
    only = {"head_node_type": "local.cluster.node", "available_node_types": {"local.cluster.node": {}}, "max_workers": 3}
    assert growth.limit(only) == {"CPU": 0, "GPU": 0}


def test_somebody_elses_autoscaler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDRAY_GROWS_TO", "CPU=56, GPU=8")
    assert growth.most() == ({"CPU": 56, "GPU": 8}, ((56, 8, math.inf),))
    for wrong in ("56", "CPU=many", "CPU=1,"):
        monkeypatch.setenv("BDRAY_GROWS_TO", wrong)
        with pytest.raises(
            BadInput, match=r"BDRAY_GROWS_TO: got .*, expected what the cluster may grow to, as in CPU=56,GPU=8"
        ):
            growth.most()


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """This machine is the head of a Ray, whose workers know CONFIG; the calls that they got."""
    calls: list[Any] = []

    class Read:
        def __init__(self, call: Any) -> None: ...

        def options(self, **_: Any) -> "Read":
            return self

        def remote(self, *given: Any) -> Config:
            calls.append(given)
            return CONFIG

    monkeypatch.delenv("BDRAY_GROWS_TO", raising=False)
    node = {"NodeID": "0" * 56, "Alive": True, "Resources": {"node:__internal_head__": 1.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    here = SimpleNamespace(gcs_address="10.0.0.1:6379", get_node_id=lambda: node["NodeID"])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(ray, "remote", Read)
    monkeypatch.setattr(ray, "get", lambda found, timeout: found)
    return calls


@pytest.mark.parametrize(
    ("processes", "asked"),
    [
        ([], 1),  # another container
        (["--autoscaling-config=nosuchfile --gcs-address=10.0.0.1:6379"], 1),  # of another user's home
        (["--gcs-address=10.0.0.1:6379"], 0),
        (["--autoscaling-config={file} --gcs-address=10.0.0.2:6379", "--gcs-address=10.0.0.1:6379"], 0),
        (["--autoscaling-config={file} --gcs-address=10.0.0.1:6379"], 0),
    ],
)
def test_what_this_process_cannot_see_of_its_own_machine_a_worker_is_asked(
    processes: list[str], asked: int, head: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    paths = []
    for number, words in enumerate(processes):
        paths.append(tmp_path / str(number))
        paths[-1].write_text("\0".join(["python", *words.format(file=file).split()]))
    monkeypatch.setattr(Path, "glob", lambda self, pattern: paths)
    total, _ = growth.most()
    assert len(head) == asked
    offered = asked or any(str(file) in path.read_text() and "10.0.0.1" in path.read_text() for path in paths)
    assert total == (growth.limit(CONFIG) if offered else {})


def test_a_file_that_no_worker_can_read_is_told(head: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(found: Any, timeout: float) -> None:
        raise ray.exceptions.RayTaskError("handed_over", "a trace", PermissionError(13, "Permission denied"))

    monkeypatch.setattr(Path, "glob", lambda self, pattern: [])
    monkeypatch.setattr(ray, "get", refused)
    with pytest.raises(BadInput, match=r"autoscaler on Ray.s head \(.*Permission denied\); say .* in BDRAY_GROWS_TO"):
        growth.most()


def test_a_head_too_busy_to_answer_is_not_taken_for_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Task:
        def __init__(self, call: Any) -> None: ...

        def options(self, **_: Any) -> "Task":
            return self

        def remote(self, address: str) -> None: ...

    def never(answer: Any, timeout: float) -> None:
        raise ray.exceptions.GetTimeoutError("Get timed out: some object(s) not ready.")

    head = {"NodeID": "0" * 56, "Alive": True, "Resources": {"node:__internal_head__": 1.0}}
    monkeypatch.delenv("BDRAY_GROWS_TO", raising=False)
    monkeypatch.setattr(ray, "nodes", lambda: [head])
    here = SimpleNamespace(gcs_address="10.0.0.1:6379", get_node_id=lambda: "1" * 56)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(ray, "remote", Task)
    monkeypatch.setattr(ray, "get", never)
    with pytest.raises(BadInput, match="no worker on its head within 120 s, perhaps because that machine is busy"):
        growth.most()
