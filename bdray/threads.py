"""How many threads torch takes in a process of its own, and how they wait for each other; imports no torch, which reads both as
it is loaded."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
"""Which control groups this process is in."""


def settle() -> None:
    """Called before torch is loaded; where it is loaded already, whoever did has decided. `OMP_NUM_THREADS` and
    `OMP_WAIT_POLICY` are left as a person set them."""
    if "torch" not in sys.modules:
        wait_asleep()
        os.environ.setdefault("OMP_NUM_THREADS", str(cpus()))


def wait_asleep() -> None:
    """Let threads that wait for each other sleep, also in the processes that this one starts. By default they spin for a while,
    and where something else runs they spin for the very one that is waiting for their core: on a busy host two threads are
    then slower than one by a factor of ten and more."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def cpus() -> int:
    """What this process may use: the CPUs it is bound to, and no more than its control groups give it time for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(int(limit) for limit in limits(CGROUPS, OWN))]))


def limits(groups: Path, own: Path) -> Iterator[float]:
    """CPUs' worth of time that each control group above a process allows (Docker's --cpus, Kubernetes' limits), version 1 or 2;
    nothing where there is none."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for number, controllers, path in lines:
        if number == "0" and not controllers:
            for folder in _above(groups, path):
                yield from _share(folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for folder in _above(groups / controllers if (groups / controllers).is_dir() else groups / "cpu", path):
                yield from _share(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _above(top: Path, path: str) -> Iterator[Path]:
    """A group's folder and all above it. In a container the path may be the host's, and only the top is there."""
    folder = top / path.strip("/")
    while folder != top and top in folder.parents:
        yield folder
        folder = folder.parent
    yield top


def _share(*files: Path) -> Iterator[float]:
    """Quota over period, from one file of both or one of each; 'max' and -1 are no limit."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        if quota != "max" and int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return
