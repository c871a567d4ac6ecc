"""How many threads `bdray run` takes, and how they wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bdray import threads


def group(folder: Path, files: dict[str, str], own: str) -> list[float]:
    """The limits of a process whose control groups are so."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "own").write_text(own)
    return list(threads.limits(folder, folder / "own"))


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", [1.5]),
        ({"cpu.max": "max 100000\n"}, "0::/\n", []),
        ({"cpu.max": "200000 100000"}, "0::/docker/of_the_host\n", [2.0]),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b\n", [3.0]),
        ({"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, "0::/a/b\n", [4.0, 3.0]),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "3:cpuset:/\n1:cpu:/\n0::/\n", [0.5]),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "1:cpu:/\n", []),
        (
            {"cpu,cpuacct/pod/cpu.cfs_quota_us": "250000", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/pod\n",
            [2.5],
        ),
        ({"cpu.max": "garbage"}, "0::/../..\n", []),
        ({}, "", []),
    ],
)
def test_what_control_groups_allow(files: dict[str, str], own: str, expected: list[float], tmp_path: Path) -> None:
    assert group(tmp_path, files, own) == expected


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    assert list(threads.limits(tmp_path, tmp_path / "nothing")) == []


@pytest.mark.parametrize(("bound", "limit", "expected"), [(8, "300000", 3), (2, "800000", 2), (8, "20000", 1), (8, "max", 8)])
def test_the_least_of_binding_and_limit_and_never_none(
    bound: int, limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    group(tmp_path, {"cpu.max": f"{limit} 100000"}, "0::/")
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "OWN", tmp_path / "own")
    assert threads.cpus() == expected


SETTLED = """
import os, sys
from pathlib import Path
from bdray import threads
threads.cpus = lambda: 1
threads.settle()
import torch
print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(
    ("given", "told"), [({}, "1 PASSIVE"), ({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"}, "2 ACTIVE")]
)
def test_torch_takes_them_unless_a_person_said_otherwise(given: dict[str, str], told: str) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, env={**plain, **given}, timeout=120)
    assert done.stdout.strip() == told, done.stderr


def test_a_process_that_has_torch_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    threads.settle()  # the tests import torch first
    assert not {"OMP_NUM_THREADS", "OMP_WAIT_POLICY"} & os.environ.keys()
