"""Memory: the most that a stretch of work held, of the accelerator or of this process on a CPU (Linux); what there is."""

import contextlib
import os
import resource
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Start a stretch."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _RESET.exists():
        with contextlib.suppress(OSError):  # some containers forbid it: the peak is then the process's own
            _RESET.write_text("5")


def peak_memory() -> int:
    """Bytes held at the most since the last reset: allocated by torch on the device, or resident in this process; 0 where
    the system does not say."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if not _STATUS.exists():
        return 0
    line = next((x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024


_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of a container, where it has one."""


def whole_memory() -> int:
    """Bytes that this process could hold at the very most, other programs or not: of the machine, or what a container or the
    shell allows of it."""
    most = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max"
            most.append(int(file.read_text()))
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(most + [allowed] * (allowed != resource.RLIM_INFINITY))
