"""A sweep that is done in seconds, and its rows."""

from pathlib import Path
from typing import Any

from bdray.store.store import Store
from tests.tiny import tiny_config


def write_sweep(path: Path, seeds: list[int], **fields: Any) -> Path:
    """A file with one cell and one victim for each seed."""
    given = "".join(f", {name}={value!r}" for name, value in fields.items())
    path.write_text(f"from bdray.launch import Sweep\n\nsweep = Sweep(space={tiny_config(seed=seeds)!r}{given})\n")
    return path


def rows(store: str) -> list[dict[str, Any]]:
    """Every row of a store."""
    return list(Store(store).rows().to_pylist())
