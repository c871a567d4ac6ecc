"""Bench: one experiment on its store and its data, and the one place where a process keeps what is large or slow to make."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bdray.data import Data
from bdray.experiment import Experiment
from bdray.samples import Outline, Splits
from bdray.store.refusal import Refused, without_secrets
from bdray.store.store import Store
from bdray.task import Task

AT_MOST = {"splits": 2, "digest": 64, "outline": 64, "victim": 1, "held": 64}
"""How many of a kind are kept. Two victims would share a GPU with whatever else runs on it; of `held` a few MB each: of a panel
of victims times a few proxies."""
_KEPT: dict[str, OrderedDict[Any, Any]] = {kind: OrderedDict() for kind in AT_MOST}


def kept(kind: str, key: Any, make: Callable[[], Any]) -> Any:
    """The value of a key, made where it is not kept; of a kind the one longest unused goes. Not to be changed."""
    values = _KEPT[kind]
    if key not in values:
        values[key] = make()
    values.move_to_end(key)
    while len(values) > AT_MOST[kind]:
        values.popitem(last=False)
    return values[key]


def forget(*kinds: str) -> None:
    """Keep nothing of these kinds, or of any."""
    for kind in kinds or AT_MOST:
        _KEPT[kind].clear()


def load(data: Data, root: Path) -> Splits:
    """The splits of a data set: a worker reads its data once."""
    found: Splits = kept("splits", (data, root), lambda: data.splits(root))
    return found


def fingerprint(data: Data, root: Path) -> str:
    """64 hex digits of what a data set really holds: two archives of one name are not the same data."""
    found: str = kept("digest", (data, root), lambda: load(data, root).digest())
    return found


def outline(task: Task, root: Path) -> Outline:
    """What a fresh model for a task's data needs to know: of texts a vocabulary, which takes a while to learn."""
    found: Outline = kept("outline", (task, root), lambda: task.outline(load(task.data, root)))
    return found


def read_anew() -> None:
    """Read the data anew: a command that begins in a process where another one ended may find other files."""
    forget("splits", "digest", "outline")


def check_same(what: str, digest: str, data: Data, store: Store, root: Path) -> None:
    """Raise Refused where what the store has under this key was made from other data than `root` holds now: the same spec is
    not the same experiment then. An empty digest is not known, and passes."""
    if digest and digest != fingerprint(data, root):
        raise Refused(
            f"{what} in the store {without_secrets(store.uri)!r} was made from another {data.name} than {str(root)!r} holds "
            "now; use another --store, or the data that it was made from"
        )


class Bench(NamedTuple):
    """One experiment, and where it reads and writes."""

    experiment: Experiment
    store: Store
    root: Path
    """The data folder."""

    @property
    def splits(self) -> Splits:
        """Of the experiment's data."""
        return load(self.experiment.task.data, self.root)

    @property
    def outline(self) -> Outline:
        """For building its model."""
        return outline(self.experiment.task, self.root)

    @property
    def digest(self) -> str:
        """Of its data."""
        return fingerprint(self.experiment.task.data, self.root)

    def check(self) -> None:
        """Raise, before anything is trained, Incompatible for parts that make no sense together, and BadInput for data that
        cannot be read, too few samples to poison or too few to hold."""
        self.experiment.check()
        self.experiment.attack.check(self.splits)
        self.experiment.defense.check(self.experiment.task, self.outline, self.splits)

    def check_same(self, what: str, digest: str) -> None:
        """Raise Refused for what was made from other data than there are now."""
        check_same(what, digest, self.experiment.task.data, self.store, self.root)
