"""What all tests share: one torch thread, a store of their own, on a disk or in a bucket, the real data's folder."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler.loadfile import LoadFileScheduling

from bdray.store.store import Store
from tests.bucket import CREDENTIALS, Server

ON_RAY = "::TestOnRay::"
"""The classes of the tests that start a Ray. They have the mark `ray`. In `make test` one process runs them all, one by one,
since each Ray starts as many processes as there are cores. A Ray waits for a third of its time. Then the processes that run the
files of the others have the cores: these are nice, more so than the workers of Ray, which have 15."""

BEGUN = threading.Event()
"""Whether this process has come to its first test."""

torch.set_num_threads(1)
# A shell that runs the tests in the background ignores Ctrl-C for them, and for what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Scheduling(LoadFileScheduling):
    """Each file to the next free process; all that is on Ray to one."""

    def _split_scope(self, nodeid: str) -> str:
        return ON_RAY if ON_RAY in nodeid else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is on Ray comes first, since it takes longest."""
    items.sort(key=lambda item: ON_RAY not in item.nodeid)
    for item in items:
        if ON_RAY in item.nodeid:
            item.add_marker(pytest.mark.ray)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A process of pytest-xdist that does not begin on Ray makes room for the one that does."""
    if hasattr(item.config, "workerinput") and not BEGUN.is_set():
        BEGUN.set()
        if ON_RAY not in item.nodeid:
            os.nice(19)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs, for the tests of one file."""
    import ray

    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed goes into a pipe of no width; processes of pytest-xdist have one."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No made data set of the user is read, and none is left behind. The processes of pytest-xdist share what they make."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server of buckets, with the credentials for it in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server = Server()
        yield server
        server.stop()


@pytest.fixture
def bucket(server: Server) -> Store:
    """An empty store in a bucket."""
    return Store(server.fresh())


@pytest.fixture(params=["disk", "bucket"])
def anywhere(request: pytest.FixtureRequest) -> Store:
    """An empty store on the disk, and one in a bucket."""
    place: Store = request.getfixturevalue({"disk": "store"}.get(request.param, request.param))
    return place


@pytest.fixture
def real_data() -> Path:
    """The folder named by BDRAY_DATA; skips where it is absent."""
    folder = Path(os.environ.get("BDRAY_DATA", "data"))
    if not (folder / "cifar10_jpeg.parquet").is_file():
        pytest.skip(f"no real data: BDRAY_DATA={folder} has no cifar10_jpeg.parquet")
    return folder
