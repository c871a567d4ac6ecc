"""The most memory that a stretch of work held: of the accelerator, or of this process on a CPU (Linux)."""

import contextlib
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
