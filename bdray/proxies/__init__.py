"""Proxy: what a defender can measure of a defended model without the trigger and without poisoned data, so that settings
can be ranked without the true attack success rate; every other module here is one proxy.

What depends on the victim alone (adversarial examples, inverted triggers) is made once a victim by `prepare`; `measure`
replays it on each defended model.
"""

import json
from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from bdray.samples import Samples, Splits
from bdray.spec import Count, Incompatible, Spec
from bdray.task import Task

Prepared = dict[str, Tensor]
"""What a proxy made of a victim, on the CPU: kept in the store beside the victim."""


class Misfit(Incompatible):
    """A proxy cannot measure this task or model; the experiment itself is sound."""


class Proxy(Spec):
    """A share from 0 to 1; the higher, the more of the backdoor is left. Models are handed over in eval mode and come back
    unchanged."""

    folder: ClassVar[str] = "bdray.proxies"
    kind: ClassVar[str] = "proxy"
    needs: ClassVar[frozenset[str]]
    """Of "victim" (then `prepare` is called) and "clean" (else the samples are none, of the right shape)."""
    modalities: ClassVar[frozenset[str]] = frozenset()
    """Empty: all of them."""

    samples: Count = 256
    """Held-out clean samples that are used, at most."""

    def check(self, task: Task, splits: Splits) -> None:
        """Raise Misfit, before anything is trained, for a task or a model that this proxy cannot measure."""
        if self.modalities and task.modality not in self.modalities:
            raise Misfit(
                f"the proxy {self.name!r} is for {' and '.join(sorted(self.modalities))}, the task {task.name!r} is for "
                f"{task.modality}; choose another"
            )

    def draw(self, held: Samples, rng: torch.Generator) -> Tensor:
        """Positions in `held` of the samples that are used: the same for every defense, so prepared once per victim."""
        wanted = self.samples if "clean" in self.needs else 0
        return torch.randperm(len(held), generator=rng)[:wanted]

    def prepare(self, before: nn.Module, clean: Samples, task: Task, classes: int, rng: torch.Generator) -> Prepared:
        """What `measure` needs of the victim `before`."""
        raise NotImplementedError

    @abstractmethod
    def measure(self, after: nn.Module, prepared: Prepared, clean: Samples, fresh: Tensor, task: Task) -> float:
        """How much of the backdoor is left in `after`, 0 to 1; NaN where it cannot be told.

        `clean` are the samples that `prepare` saw, in that order; `fresh`, bool [N], are those that the defense was not given,
        the only ones to measure on.
        """
        raise NotImplementedError

    def label(self) -> str:
        """The name and every field that is not the default ('lipschitz u=2.0'): what a row keeps the value under."""
        usual = type(self)().config()
        changed = [f"{field}={json.dumps(value)}" for field, value in self.config().items() if usual[field] != value]
        return " ".join([self.name, *changed])

    @classmethod
    def labelled(cls, label: str) -> Self:
        """The inverse. Raises BadInput where there is no such proxy (any more)."""
        name, *words = label.split(" ")
        pairs = [word.partition("=") for word in words]
        return cls.of({"name": name, **{field: json.loads(value) for field, _, value in pairs}})
