"""Launch: from a sweep's space to its rows, on this machine's Ray or a cluster's. The only part of bdray that imports Ray."""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Read by Ray when it is imported: no phoning home, Train polls its workers five times a second instead of every two seconds
# and shows its runs in Ray's dashboard, Ctrl-C reaches us instead of Tune's own handler, and Tune is quiet: the display is
# ours, and what a trial raised stands in its row.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

if TYPE_CHECKING:
    from bdray.launch.expand import read_sweep
    from bdray.launch.ledger import Plan, launch, plan
    from bdray.launch.sweep import Sweep

__all__ = ["Plan", "Sweep", "launch", "plan", "read_sweep"]

_HOMES = {"Plan": "ledger", "Sweep": "sweep", "launch": "ledger", "plan": "ledger", "read_sweep": "expand"}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: `bdray cluster check` needs neither Tune nor torch, and answers in a second."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
