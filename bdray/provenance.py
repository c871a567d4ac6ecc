"""Where and with what a number was measured: the columns of a row that say how to get it again."""

import functools
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

import torch

import bdray
from bdray.training import device


@functools.cache
def provenance() -> dict[str, Any]:
    """Those columns, the same for every row of a process."""
    kind = torch.cuda.get_device_name() if device().type == "cuda" else f"cpu x{torch.get_num_threads()}"
    return {
        "device": kind,
        "host": socket.gethostname(),
        "bdray_version": bdray.__version__,
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of a source checkout, marked where the tree was changed; empty for an installed package."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:  # installed below somebody else's repository
            return ""
        return git("rev-parse", "--short=12", "HEAD") + ("+changed" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
