"""What a defender measures on held-out clean samples that the defense was not given: the utility, and proxies."""

import json
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bdray.data import Samples, Splits
from bdray.proxies import Prepared, Proxy
from bdray.refusal import Refused
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.store import Store
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

    def utility(self, model: nn.Module) -> float:
        """The clean score on the rest."""
        rest = self.samples.take(self.rest())
        return self.task.score(self.task.predict(model, rest), rest.targets)

    def utility_before(self, before: nn.Module) -> float:
        """The victim's, measured once a process for the same samples."""
        key = ("utility", self.store.uri, self.victim, self.given.numpy().tobytes())
        return float(_once(key, lambda: self.utility(before)))

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
        clean, fresh = self.samples.take(chosen), self.rest()[chosen]
        if "clean" in proxy.needs and not fresh.any():
            return float("nan")
        prepared: Prepared = {}
        if "victim" in proxy.needs:
            key = ("prepared", self.store.uri, self.victim, proxy.key())
            prepared = _once(key, lambda: self._prepared(proxy, before, clean))
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


_KEPT: OrderedDict[tuple[object, ...], Any] = OrderedDict()
KEPT = 64
"""Values that a process keeps: of a panel of victims times a few proxies, a few MB each."""


def _once(key: tuple[object, ...], make: Callable[[], Any]) -> Any:
    """The value of a key, made where it is not kept; the one longest unused goes."""
    if key not in _KEPT:
        _KEPT[key] = make()
    _KEPT.move_to_end(key)
    while len(_KEPT) > KEPT:
        _KEPT.popitem(last=False)
    return _KEPT[key]
