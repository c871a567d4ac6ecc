"""A cluster that loses a machine in the middle of a sweep: the others finish it, and nothing is there twice."""

import contextlib
import os
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bdray.store.store import Store
from tests.cluster.machines import REAL, ROOT, free_ports, kill, processes, until
from tests.cluster.sweep import rows, write_sweep

pytestmark = pytest.mark.cluster

CELLS = 4


class Nodes:
    """A head without CPUs, and two nodes of one CPU each."""

    def __init__(self, folder: Path, mark: str) -> None:
        self.mark = mark
        self.port, client, dashboard = free_ports(3)
        clear = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BDRAY_"))}
        (folder / "auth_token").write_text(self.mark)
        own = {
            "BDRAY_MARK": self.mark,
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
        }
        self.environment = {**clear, **own, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "auth_token")}
        head = ["--head", f"--port={self.port}", f"--ray-client-server-port={client}", f"--dashboard-port={dashboard}"]
        self._start("head", *head, "--num-cpus=0")
        for name in ("first", "second"):
            self._start(name, f"--address=127.0.0.1:{self.port}", "--num-cpus=1")

    def _start(self, name: str, *words: str) -> None:
        more = ["--dashboard-agent-listen-port=0", "--object-store-memory=100000000"]
        environment = {**self.environment, "BDRAY_NODE": f"{self.mark}:{name}"}
        done = subprocess.run([REAL / "ray", "start", *words, *more], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def lose(self, name: str) -> None:
        """As when the machine loses power: nobody hears of it."""
        assert processes(f"BDRAY_NODE={self.mark}:{name}", "ray/raylet/raylet")
        kill(f"BDRAY_NODE={self.mark}:{name}")


@contextlib.contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    """All of it is gone at the end."""
    mark = uuid.uuid4().hex[:8]
    try:
        yield Nodes(folder, mark)
    finally:
        kill(f"BDRAY_MARK={mark}")


def test_the_others_finish(short: Path) -> None:
    store = str(short / "store")
    sweep = write_sweep(short / "lost.py", seeds=list(range(CELLS)))
    with nodes(short) as cluster:
        words = [str(REAL / "bdray"), "sweep", str(sweep), "--address", f"127.0.0.1:{cluster.port}", "--store", store]
        with subprocess.Popen(words, cwd=ROOT, env=cluster.environment, stderr=subprocess.PIPE, text=True) as running:
            until(lambda: running.poll() is not None or _victims(store) >= 1, 300)
            assert running.poll() is None, running.stderr.read() if running.stderr else ""
            cluster.lose("second")
            _, told = running.communicate(timeout=400)
        assert running.returncode == 0, told
    found = rows(store)
    assert [row["status"] for row in found] == ["done"] * CELLS
    assert set(Counter(row["key"] for row in found).values()) == {1}


def _victims(store: str) -> int:
    """Victims that are there already."""
    return len([path for path in Store(store).files.list("victims", recursive=True) if path.endswith(".safetensors")])
