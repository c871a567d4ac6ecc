"""Clusters that cannot do the work: one sentence each, before anything is run."""

import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from bdray.launch import Sweep, launch, plan
from bdray.launch.connect import Resources, connected
from bdray.needs import Needs
from bdray.spec import BadInput
from bdray.store.store import Store
from bdray.task import Task
from tests.tiny import tiny_config

CLUSTER = """
import ray, sys, time
info = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
print(info.address_info["gcs_address"], flush=True)
time.sleep(600)
"""

CONNECT = """
import pathlib, sys
from bdray.launch.connect import connected
from bdray.store.store import Store
try:
    with connected(sys.argv[1], Store(sys.argv[2]), pathlib.Path("nosuchfolder")):
        print("connected")
except Exception as error:
    print(error)
"""


def cluster(**environment: str) -> subprocess.Popen:
    """One that asks for tokens as this process does, unless the environment says otherwise: an earlier test's Ray may have made
    it ask, and then neither hears the other."""
    variables = {"RAY_AUTH_MODE": "disabled", **os.environ, **environment}
    return subprocess.Popen([sys.executable, "-c", CLUSTER], stdout=subprocess.PIPE, text=True, env=variables)


def address_of(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    process.wait(60)  # its Ray goes with it
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two CPUs and no GPU, another process' own."""
    process = cluster()
    yield address_of(process)
    stop(process)


def refusal(where: str | None, store: Store, root: Path = Path("nosuchfolder")) -> str:
    with pytest.raises(BadInput) as caught, connected(where, store, root):
        pass
    assert "\n" not in str(caught.value)
    assert not ray.is_initialized()
    return str(caught.value)


def test_no_cluster_there(store: Store) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    assert refusal(nobody, store).startswith(f"no Ray cluster at '{nobody}': Connection refused")
    assert "check the address" in refusal("nosuchhost.invalid:6379", store)
    assert "expected HOST:PORT" in refusal("10.0.0.1", store)
    assert "ray job submit" in refusal("ray://10.0.0.1:10001", store)


TASKS = {name: Task.of(name) for name in ("image", "video")}
SHARES = [
    ({"cpus": 8}, "the sweep's cpus: got 8, but this Ray has no machine with more than 4 CPUs, so no cell could ever start"),
    ({"gpus": 1}, "the sweep's gpus: got 1, but this Ray has no GPUs, so no cell"),
    ({"memory": 99}, "the sweep's memory: got 99, but this Ray has no machine with more than 16 GiB of memory"),
    (
        {"cpus": 4, "memory": 12},
        "the sweep's cpus: got 4 CPUs, 12 GiB of memory for a process, but no machine of this Ray has all",
    ),
]
SMALL, LARGE = Needs(4, 0, 8), Needs(1, 0, 16)


@pytest.mark.parametrize(("asked", "told"), SHARES)
def test_what_this_ray_can_never_give(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        granted(Resources((SMALL, SMALL, LARGE)), Sweep(space={}, **asked))


def granted(resources: Resources, sweep: Sweep, task: str = "image") -> Needs:
    return resources.granted(sweep.cell_needs(TASKS[task]), task, sweep.given)


def test_what_the_task_asks_for_is_told_where_nothing_has_it() -> None:
    told = "the task 'video': got 3 GiB of memory for a process, but this Ray has no machine with more than 2 GiB of memory"
    with pytest.raises(BadInput, match=told):
        granted(Resources((Needs(8, 0, 2),)), Sweep(space={}), "video")
    assert granted(Resources((Needs(8, 0, 2),)), Sweep(space={}, memory=1), "video") == (1, 0, 1)


def test_each_machine_holds_as_many_as_fit() -> None:
    """Memory counts, too; what is split over machines holds none."""
    assert Resources((SMALL, SMALL, LARGE)).slots(Needs(1, 0, 3)) == 2 + 2 + 1
    assert Resources((SMALL, SMALL)).slots(Needs(3, 0, 0)) == 2
    assert Resources((Needs(8, 1, 64),)).slots(Needs(1, 0.25, 2)) == 4
    assert Needs(1, 0, 2).times_in(Needs(4, 0, 1)) == 0
    assert Needs(0.1, 0.1, 0.1).times_in(Needs(1, 1, 0.3)) == 3


def test_what_an_autoscaler_can_start_counts() -> None:
    later = Resources((SMALL,), (Needs(16, 2, math.inf),), most_cpus=64, most_gpus=8)
    assert later.grows
    assert granted(later, Sweep(space={}, cpus=8, gpus=1)) == (8, 1, 2)
    assert granted(later, Sweep(space={})) == (1, 0.25, 2)
    assert later.slots(Needs(1, 0.25, 2)) == 32
    whole = Resources((Needs(0, 0, 8),), (Needs(8, 1, 14),), most_cpus=64, most_gpus=8)
    assert whole.slots(Needs(5, 0, 1)) == 8  # not 64 // 5: none is split over two machines
    assert whole.slots(Needs(1, 0.25, 6)) == 2 * 8
    assert Resources((Needs(0, 0, 8),), (Needs(49, 0, math.inf),), most_cpus=147).slots(Needs(49)) == 3
    now = Resources((SMALL,))
    assert not now.grows
    assert granted(now, Sweep(space={})) == (1, 0, 2)
    assert now.slots(Needs(1, 0, 2)) == 4


@pytest.mark.filterwarnings("ignore")  # of Ray's own making
class TestOnRay:
    """A cluster that another process has started."""

    @pytest.fixture(scope="class", autouse=True)
    def unheard(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator["subprocess.Popen[str]"]:
        """Who asks a cluster without its token: for half a minute Ray asks again, and the other tests are run meanwhile."""
        folder = tmp_path_factory.mktemp("token")
        (folder / "token").write_text("0" * 64)
        process = cluster(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token"))
        words = [sys.executable, "-c", CONNECT, address_of(process), str(folder / "store")]
        variables = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        yield (asking := subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, text=True))
        asking.kill()
        asking.communicate()
        stop(process)

    def test_another_version(self, address: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray, "__version__", "2.59.0")
        told = refusal(address, store)
        assert told.startswith(f"the cluster at '{address}' runs Ray 2.60.0 and Python 3.")
        assert "and this machine Ray 2.59.0" in told

    def test_a_gpu_where_there_is_none(self, address: str, store: Store) -> None:
        sweep = Sweep(space=tiny_config(), name="x", gpus=1)
        with pytest.raises(BadInput, match="got 1, but this Ray has no GPUs, so no cell could ever start"):
            launch(plan(sweep, store, Path()), store, Path(), address)
        assert not store.rows().num_rows

    def test_a_sweep_on_it(self, address: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its workers import the bdray that this process has imported, whatever stands in the working folder."""
        (tmp_path / "bdray").mkdir()
        (tmp_path / "bdray" / "__init__.py").write_text("raise ImportError('of somebody else')")
        monkeypatch.chdir(tmp_path)
        sweep = Sweep(space=tiny_config(), name="x")
        assert launch(plan(sweep, store, Path()), store, Path(), address) == 0
        assert store.rows("x")["status"].to_pylist() == ["done"]
        assert not [path for path in Path(store.location()).rglob("*") if path.suffix in (".pkl", ".pickle")]

    def test_a_worker_that_cannot_import_the_tasks(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "torch.py").write_text("raise ImportError('no torch for you')")
        process = cluster(PYTHONPATH=str(tmp_path))
        try:
            told = refusal(address_of(process), store)
        finally:
            stop(process)
        assert told.startswith("the cluster's node ")
        assert told.endswith("no torch for you; install bdray's requirements on it")

    def test_a_token_that_the_cluster_does_not_ask_for(self, store: Store, tmp_path: Path) -> None:
        """Ray's head asks this process whether it still holds an actor, without the token that this process wants of it."""
        (tmp_path / "token").write_text("0" * 64)
        variables = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
        process = cluster(RAY_AUTH_MODE="disabled")
        try:
            words = [sys.executable, "-c", CONNECT, address_of(process), store.uri]
            told = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=120).stdout
        finally:
            stop(process)
        assert "gets no answer from this process: set RAY_AUTH_MODE here to what the cluster was started with" in told

    def test_a_token_that_is_missing(self, unheard: "subprocess.Popen[str]") -> None:
        told, _ = unheard.communicate(timeout=120)
        assert told.startswith("no Ray cluster answers at")
        assert "RAY_AUTH_TOKEN_PATH" in told
