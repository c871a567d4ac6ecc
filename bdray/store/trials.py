"""Trials: how a search judged each of its settings, one Parquet row each. The experiments behind them are rows like any other;
a trial says which of them belong together, and whether a scheduler stopped it before all were run."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs

from bdray.store.refusal import first_line
from bdray.store.store import Store

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("sweep", pa.string()),
        ("state", pa.string()),
        ("step", pa.int64()),
        ("steps", pa.int64()),
        ("objective", pa.string()),
        ("value", pa.float64()),
        ("utility", pa.float64()),
        ("left", pa.float64()),
        ("setting", pa.string()),
        ("cells", pa.string()),
    ]
)
STATES = ("running", "finished", "stopped", "failed", "lost")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting on its panel."""

    key: str
    """Of the setting and the panel together."""
    sweep: str
    state: str
    """One of STATES. stopped: by a scheduler. lost: with its worker; then a search runs it again."""
    step: int = 0
    """Victims judged so far, of `steps`."""
    steps: int
    objective: str
    value: float | None = None
    """The objective over the victims judged; None with two objectives or where it could not be told."""
    utility: float | None = None
    left: float | None = None
    """Of the backdoor: a proxy, or the true ASR."""
    setting: dict[str, Any]
    cells: list[str]
    """Keys of the panel's rows, in its order."""

    @property
    def over(self) -> bool:
        """Whether a search need not run it again."""
        return self.state in ("finished", "stopped", "failed")


def put_trial(store: Store, trial: Trial) -> None:
    """Write it, in place of what was there."""
    values = {**vars(trial), "setting": json.dumps(trial.setting), "cells": json.dumps(trial.cells)}
    store.files.put_table(f"searches/{trial.sweep}/{trial.key}.parquet", pa.Table.from_pylist([values], SCHEMA))


def trials(store: Store, sweep: str) -> list[Trial]:
    """All of a search's, in the order of their keys; damaged ones are left out, with a warning."""
    paths = [p for p, info in store.files.list(f"searches/{sweep}").items() if info.type == fs.FileType.File]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda path: trial(store, path), [path for path in paths if path.endswith(".parquet")]))
    return [each for each in found if each is not None]


def trial(store: Store, path: str) -> Trial | None:
    """The one in a file; None, with a warning, where the file is damaged or gone."""
    table = store.files.table(path)
    if table is None:
        return None
    try:
        (record,) = table.cast(SCHEMA).to_pylist()
        setting, cells = json.loads(record["setting"]), json.loads(record["cells"])
        if record["state"] not in STATES or not isinstance(setting, dict) or not isinstance(cells, list):
            raise ValueError("it has no state, no setting or no cells")
        if not all(isinstance(text, str) for text in (record["key"], record["sweep"], record["objective"], *cells)):
            raise ValueError("a name in it is no text")
        if not all(isinstance(record[name], int) and record[name] >= 0 for name in ("step", "steps")):
            raise ValueError("it does not say how far it was")
        scores = {name: record[name] for name in ("value", "utility", "left") if record[name] == record[name]}
        if any(math.isinf(score) for score in scores.values() if score is not None):
            raise ValueError("a score in it is infinite")
        return Trial(**{**record, "value": None, "utility": None, "left": None, **scores, "setting": setting, "cells": cells})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        found: Trial | None = store.files.damaged(path, f"is no trial ({first_line(error)})")
        return found
