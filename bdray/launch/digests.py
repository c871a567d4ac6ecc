"""Whether the rows and victims that a sweep would go on from were made from the data that the data folder holds now."""

import warnings
from pathlib import Path

from bdray.bench import check_same
from bdray.launch.expand import PARTS, Cell
from bdray.spec import BadInput
from bdray.store.refusal import Refused
from bdray.store.store import Store
from bdray.task import Task

_TASK = PARTS.index("task")


class NotCompared(UserWarning):
    """Data cannot be read here, so that finished rows were not compared with them."""


class Digests:
    """What the store says of its data, collected cell by cell, then compared once a data set."""

    def __init__(self, store: Store, root: Path) -> None:
        self.store, self.root = store, root
        self._found: dict[int, tuple[Task, dict[str, str]]] = {}

    def add(self, cell: Cell, what: str, digest: str | None) -> None:
        """`what` ('the row KEY') of this cell was made from data of this digest; without one nothing is known."""
        if digest:
            task = cell.parts[_TASK]
            self._found.setdefault(id(task), (task, {}))[1].setdefault(digest, what)

    def check(self) -> None:
        """Raise Refused for what was made from other data. Where the data cannot be read, which matters only to a sweep that
        still has something to run, a warning: what is finished stays so, as in a store that was copied without its data."""
        for task, digests in self._found.values():
            try:
                for digest, what in digests.items():
                    check_same(what, digest, task.data, self.store, self.root)
            except Refused:
                raise
            except BadInput as reason:
                warnings.warn(f"what is done was not compared with its data: {reason}", NotCompared, stacklevel=2)
