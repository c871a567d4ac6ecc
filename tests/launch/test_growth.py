"""What a cluster may grow to."""

import copy
import math
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
