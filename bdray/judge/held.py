"""What a defender measures on held-out clean samples that the defense was not given: the utility, and proxies."""

import json
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bdray.bench import kept
from bdray.judge.validity import doubted
from bdray.proxies import Prepared, Proxy
from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.store.refusal import Refused
from bdray.store.store import Store
from bdray.task import Task


class NotMeasured(UserWarning):
    """A proxy is null in a row that is sound."""


class Held(NamedTuple):
    """The held-out samples of one victim, and which of them a defense was given."""

    task: Task
    splits: Splits
    given: Tensor
    """Positions, in the held-out samples, of the defense's own."""
    victim: str
    """Its key."""
    seed: int
    """The victim's, and hence of what a proxy draws: it is the same for every defense."""
    store: Store

    @property
    def samples(self) -> Samples:
        """All that were held out."""
        return self.splits.held

    def rest(self) -> Tensor:
        """The samples that the defense was not given, bool [N]."""
        unused = torch.ones(len(self.samples), dtype=torch.bool)
        unused[self.given] = False
        return unused

    def utility(self, model: nn.Module) -> "Utility":
        """The clean score on the rest, and of each class in it."""
        rest = self.samples.take(self.rest())
        said = self.task.predict(model, rest)
        classes = {}
        for label in () if rest.labels is None else rest.labels.unique().tolist():
            mine = rest.labels == label
            classes[label] = (self.task.score(said[mine], rest.targets[mine]), int(mine.sum()))
        return Utility(self.task.score(said, rest.targets), classes)

    def utility_before(self, before: nn.Module) -> "Utility":
        """The victim's, measured once a process for the same samples."""
        key = ("utility", self.store.uri, self.victim, self.given.numpy().tobytes())
        found: Utility = kept("held", key, lambda: self.utility(before))
        return found

    def proxies(self, wanted: Sequence[Proxy], before: nn.Module, after: nn.Module) -> str:
        """A JSON object, label to value, null where a proxy cannot tell, does not fit or raises (then with a warning); the
        empty text where none is wanted."""
        values = {proxy.label(): self._told(proxy, before, after) for proxy in wanted}
        return json.dumps(values, sort_keys=True) if values else ""

    def _told(self, proxy: Proxy, before: nn.Module, after: nn.Module) -> float | None:
        """The value of a proxy, None where it has no finite one: a row that is finished is not lost for it."""
        try:
            proxy.check(self.task, self.splits)
            value = float(self._measure(proxy, before, after))
        except Refused:  # the store takes no more: neither does it take the row
            raise
        except Exception as error:
            words = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
            warnings.warn(f"the proxy {proxy.label()!r} is left empty: {words}", NotMeasured, stacklevel=2)
            return None
        return value if math.isfinite(value) else None

    def _measure(self, proxy: Proxy, before: nn.Module, after: nn.Module) -> float:
        chosen = proxy.draw(self.samples, rng(self.seed, "proxy"))
        clean, fresh = self.samples.take(chosen).dense(), self.rest()[chosen]
        if "clean" in proxy.needs and not fresh.any():
            return float("nan")
        prepared: Prepared = {}
        if "victim" in proxy.needs:
            key = ("prepared", self.store.uri, self.victim, proxy.key())
            prepared = kept("held", key, lambda: self._prepared(proxy, before, clean))
        return proxy.measure(after.eval(), prepared, clean, fresh, self.task)

    def _prepared(self, proxy: Proxy, before: nn.Module, clean: Samples) -> Prepared:
        """What the proxy made of this victim, from the store, or made now and stored."""
        part = f"{proxy.name}.{proxy.key()}"
        found = self.store.victim_part(self.victim, part)
        if found is None:
            draw = rng(self.seed, "proxy", proxy.key())
            found = proxy.prepare(before.eval(), clean, self.task, len(self.splits.classes), draw)
            self.store.put_victim_part(self.victim, part, found)
        return found


class Utility(NamedTuple):
    """The clean score of a model, 0 to 1; NaN of no samples."""

    whole: float
    classes: dict[int, tuple[float, int]]
    """Of each class that has samples, and how many."""


class Fall(NamedTuple):
    """What one class lost, of the class that lost most; NaN of no samples."""

    before: float = float("nan")
    after: float = float("nan")
    tests: int = 0


def deepest_fall(before: Utility, after: Utility) -> Fall:
    """Of two utilities on the same samples: that of the class which fell most, since a defender does not know the target class;
    of a few samples a fall counts less (see `doubted`)."""
    falls = [Fall(was, after.classes[label][0], tests) for label, (was, tests) in before.classes.items()]
    return max(falls, key=lambda fall: doubted(fall.before - fall.after, fall.tests), default=Fall())
