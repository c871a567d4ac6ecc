"""What a worker is told beside its experiment, how it settles in, and how it runs one cell."""

import contextlib
import functools
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdray.experiment import Experiment
from bdray.report.board import Board
from bdray.run import run
from bdray.spec import BadInput, Config
from bdray.store.claims import Claims
from bdray.store.filesystems import open_uri
from bdray.store.refusal import Refused, shown
from bdray.store.row import measured
from bdray.store.store import Store

AWAY = "away"
"""The status of a cell that another launch is running just now."""
REFUSED = "refused"
"""The status of a cell whose row the store does not take: the launch ends with that error."""
FLAGGED_BY = ("utility_before", "asr_before", "target_utility_before", "target_utility_after")
SHOWN = ("key", "status", "error", "attack", "defense", "seed", "utility_after", "asr_after", "seconds", *FLAGGED_BY)
"""What the driver hears of a row."""


@dataclass(frozen=True)
class Work:
    """The same for every worker of one launch."""

    sweep: str
    launch: str
    """The id that its claims bear."""
    store: str = field(repr=False)
    """Its location, with a key or a token where the person gave one: in no text that Ray shows of it."""
    root: str
    """The data folder."""
    folder: str
    """Where relative paths in an experiment start: the folder of the person who typed the command."""
    records: str = field(repr=False)
    """Where Ray keeps its own files of this launch, as a location as well."""
    cpus: float = 1
    """Of the process that is told."""
    proxies: tuple[str, ...] = ()
    """What every row must have measured."""
    imports: tuple[str, ...] = ()
    """Folders in which modules are looked for last: the sweep file's own."""

    def storage(self) -> dict[str, Any]:
        """The same for a RunConfig of Ray, which shows and logs the path."""
        if shown(self.records) == self.records:
            return {"storage_path": self.records}
        system, path = open_uri(self.records)
        return {"storage_path": path, "storage_filesystem": system}

    def settle(self) -> tuple[Store, Path, Claims]:
        """Called in a worker: torch takes the threads that Ray gave it, never more; the store, the data folder, the claims."""
        import torch

        torch.set_num_threads(max(1, int(self.cpus)))
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        sys.path += [folder for folder in self.imports if folder not in sys.path]
        store = _store(self.store)
        return store, Path(self.root), Claims(store.files, self.launch)


@functools.lru_cache(maxsize=1)
def _store(location: str) -> Store:
    return Store(location)


def run_cell(config: Config, work: Work, again: bool = False) -> dict[str, Any]:
    """The row of one cell as a record, run now unless the store has it; only its status where that is `away`. A cell whose row
    says lost is run again, and with `again` one whose row says failed. Never raises for a cell that fails: its row says why."""
    store, root, claims = work.settle()
    experiment = Experiment.of(config)
    key = experiment.key()
    try:
        if not claims.take("cell", key):
            return {"status": AWAY}
        row = store.row(key, work.sweep)
        over = row is not None and row["status"] != "lost" and not (again and row["status"] == "failed")
        if row is not None and over and (row["status"] != "done" or set(work.proxies) <= measured(row["proxies"])):
            return row
        try:
            with Board(store, work.sweep, key) as board:
                board.close(run(experiment, store, root, work.sweep, board, again=True, proxies=work.proxies))
        except Refused:
            raise
        except Exception:  # the failed row holds the reason; the other cells go on
            pass
        found = store.row(key, work.sweep)
        if found is None or found == row:
            store.check_writable()
            raise RuntimeError(f"the store {store.uri!r} has no row of the cell {key}")
        return found
    except BadInput as error:
        return {"status": REFUSED, "error": str(error)}
    finally:
        with contextlib.suppress(BadInput):
            claims.release("cell", key)
        _free()


def _free() -> None:
    """What the last trial held of a GPU goes back to it: other trials share it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
