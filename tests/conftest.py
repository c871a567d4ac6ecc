"""What all tests share: one torch thread, a store of their own, on a disk or in a bucket, the real data's folder."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bdray.store.store import Store
from tests.bucket import CREDENTIALS, Server

torch.set_num_threads(1)
# A shell that runs the tests in the background ignores Ctrl-C for them, and for what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """No made data set of the user is read, and none is left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


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
