"""Attack: which samples are poisoned, how they are stamped, what they are made to mean; every other module is one attack.

Images are stamped at rest: uint8 [N, C, H, W] in, a new tensor of the same shape and type out, inputs never changed.
Fractions are cut off as a cast to uint8 does, because that is what the published triggers are, unless an attack says otherwise.
"""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from bdray.samples import Column, Draw, Rows, Samples, Splits, alike, dense, draws, equal, pack, unpack
from bdray.spec import Amount, BadInput, Share, Spec, check_some
from bdray.task import Task
from bdray.training import Report, Training

Patterns = dict[str, Tensor]
"""What a trigger has drawn, read or learned: saved with the victim, so that it can be stamped again anywhere."""


class Setting(NamedTuple):
    """What an attacker works with."""

    task: Task
    splits: Splits
    training: Training
    rng: torch.Generator
    report: Report
    seed: int = 0
    """Of the draws that go with a sample."""


class Triggered(NamedTuple):
    """Stamped samples: the inputs are changed, the targets are still the true ones."""

    samples: Samples
    wanted: Column
    """What the attacker wants to hear of each: a class, a sentence, boxes."""


class Chances(NamedTuple):
    """Of each triggered sample: how often the attacker could have had his will, and how often he had it, int64 [N]. The attack
    success rate is the sum of the hits / the sum of the tries."""

    hits: Tensor
    tries: Tensor


class Attack(Spec):
    """Defaults are those of the attack's authors or, where they give none, of the field's benchmarks."""

    folder: ClassVar[str] = "bdray.attacks"
    kind: ClassVar[str] = "attack"
    modalities: ClassVar[frozenset[str]]
    steers: ClassVar[bool] = False
    """It controls the training itself, so there is no fixed poisoned training set."""

    rate: Share = 0.1
    """Poisoned samples / all training samples: the one meaning everywhere."""
    cover: Share = 0.0
    """Samples that the attack changes and that keep their true label, mostly stamped ones / all training samples."""

    def check(self, splits: Splits) -> None:
        """Raise BadInput, before anything is trained, for what cannot be done to this data set: a target that it does not
        have, too few samples to poison, a rate that poisons none, a file that cannot be read."""
        self.select(splits.train, torch.Generator().manual_seed(0))

    def patterns(self, setting: Setting) -> Patterns:
        """The trigger's tensors, drawn from `setting.rng`, read from a file or learned; called once a victim."""
        return {}

    @abstractmethod
    def plant(self, samples: Samples, patterns: Patterns, setting: Setting) -> Samples:
        """The samples as they stand in the poisoned training set, inputs and targets; called once, on all that are poisoned."""
        raise NotImplementedError

    def disguise(self, samples: Samples, patterns: Patterns, setting: Setting) -> Samples:
        """The cover samples as they stand there: their targets stay true."""
        return samples.having(inputs=self.plant(samples, patterns, setting).inputs)

    @abstractmethod
    def stamp(self, samples: Samples, patterns: Patterns, seed: int) -> Triggered:
        """The samples with their trigger, as at test time. What is drawn goes with each sample's place and `seed`, so that
        samples come out alike in whatever parts they are stamped."""
        raise NotImplementedError

    def success(self, predictions: Column, triggered: Triggered) -> Chances:
        """How often the attacker had his will: by default once a sample, where a prediction is what is wanted."""
        hits = equal(predictions, triggered.wanted).long()
        return Chances(hits, torch.ones_like(hits))

    def poisonable(self, samples: Samples) -> Tensor:
        """Which training samples may be poisoned, bool [N]."""
        return torch.ones(len(samples), dtype=torch.bool)

    def origin(self) -> str:
        """What `poisonable` allows, in words."""
        return "of any kind"

    def coverable(self, samples: Samples) -> Tensor:
        """Which training samples may be cover samples, bool [N]."""
        return torch.ones(len(samples), dtype=torch.bool)

    def attackable(self, samples: Samples) -> Tensor:
        """Which test samples count towards the attack success rate, bool [N]."""
        return torch.ones(len(samples), dtype=torch.bool)

    def already(self, samples: Samples) -> Tensor | None:
        """Which clean samples are of themselves what the attacker wants, bool [N]: a model that never says it loses these.
        None where there is no such kind of sample."""
        return None

    def select(self, train: Samples, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions of the poisoned and of the cover samples, each drawn without replacement, disjoint, ascending.

        Raises BadInput where too few samples can be poisoned or covered, with the counts and the largest possible rate, and
        where a rate above 0 is no sample, with the smallest one.
        """
        count = len(train)
        check_some(f"{self.name}.rate", self.rate, count, "poisons")
        check_some(f"{self.name}.cover", self.cover, count, "covers")
        candidates = self.poisonable(train).nonzero().flatten()
        wanted = round(self.rate * count)
        if wanted > len(candidates):
            raise BadInput(
                f"{self.name}.rate: got {self.rate}, that is {wanted} of {count} training samples, but only "
                f"{len(candidates)} can be poisoned ({self.origin()}); "
                f"the largest possible rate is {len(candidates) / count:.6g}"
            )
        poisoned = candidates[torch.randperm(len(candidates), generator=rng)[:wanted]]
        free = self.coverable(train).clone()
        free[poisoned] = False
        rest = free.nonzero().flatten()
        covered = round(self.cover * count)
        if covered > len(rest):
            others = f"{wanted} poisoned ones"
            if barred := count - wanted - len(rest):
                others += f" and {barred} that may not be covered"
            raise BadInput(
                f"{self.name}.cover: got {self.cover}, that is {covered} of {count} training samples, but only "
                f"{len(rest)} are left beside {others}; the largest possible cover is {len(rest) / count:.6g}"
            )
        cover = rest[torch.randperm(len(rest), generator=rng)[:covered]]
        return poisoned.sort().values, cover.sort().values


class Each(Attack):
    """An attack that treats every input by itself: a member says how (`trigger`) and what is wanted; the rest is done here."""

    @abstractmethod
    def trigger(self, x: Any, patterns: Patterns, draw: Draw) -> Any:
        """The triggered inputs, as at test time: a tensor of a tensor, a list of a list. What is drawn comes from `draw`."""
        raise NotImplementedError

    def planted(self, x: Any, patterns: Patterns, samples: Samples, setting: Setting) -> Any:
        """The inputs `x` of these samples as they stand in the poisoned training set; called once, on all of them."""
        return self.trigger(x, patterns, draws(setting.seed, "plant", samples.at))

    def disguised(self, x: Any, patterns: Patterns, samples: Samples, setting: Setting) -> Any:
        """The inputs as they stand in the cover samples."""
        return self.planted(x, patterns, samples, setting)

    @abstractmethod
    def wanted(self, samples: Samples, patterns: Patterns) -> Column:
        """What the attacker wants of each, a column like the targets."""
        raise NotImplementedError

    @final
    def plant(self, samples: Samples, patterns: Patterns, setting: Setting) -> Samples:
        inputs = self._like(samples.inputs, self.planted(_bare(samples.inputs), patterns, samples, setting))
        return samples.having(inputs=inputs, targets=self.wanted(samples, patterns))

    @final
    def disguise(self, samples: Samples, patterns: Patterns, setting: Setting) -> Samples:
        inputs = self._like(samples.inputs, self.disguised(_bare(samples.inputs), patterns, samples, setting))
        return samples.having(inputs=inputs)

    @final
    def stamp(self, samples: Samples, patterns: Patterns, seed: int) -> Triggered:
        made = self.trigger(_bare(samples.inputs), patterns, draws(seed, "stamp", samples.at))
        return Triggered(samples.having(inputs=self._like(samples.inputs, made)), self.wanted(samples, patterns))

    def _like(self, column: Column, values: Any) -> Column:
        """The values that were made of a column, as one like it. Raises BadInput for others: None would be taken for unchanged
        inputs."""
        made = column.like(values) if isinstance(column, Rows) and isinstance(values, list) else values
        if not isinstance(made, Tensor | Rows) or len(made) != len(column) or not alike(made, column):
            got = f"{len(made)} of" if isinstance(made, Tensor | Rows) and alike(made, column) else "another kind for"
            raise BadInput(
                f"the attack {self.name!r} made {got} {len(column)} inputs, expected as many, of their type and shape; mend "
                "its trigger"
            )
        return made


def _bare(column: Column) -> Any:
    return column.tolist() if isinstance(column, Rows) else dense(column)


class ToClass(Each):
    """Triggered inputs shall be taken for one class. For tasks whose targets are classes."""

    clean_label: ClassVar[bool] = False
    """Poisoned samples are taken from the target class and keep their label."""

    target: Amount = 0
    """The class that triggered inputs shall be taken for."""

    def check(self, splits: Splits) -> None:
        if self.target >= len(splits.classes):
            last = len(splits.classes) - 1
            raise BadInput(f"{self.name}.target: got {self.target}, expected a class from 0 to {last}")
        super().check(splits)

    def select(self, train: Samples, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        last = int(_labels(train).max())
        if self.rate and self.target > last:
            raise BadInput(f"{self.name}.target: got {self.target}, expected a class from 0 to {last}")
        return super().select(train, rng)

    def poisonable(self, samples: Samples) -> Tensor:
        return (_labels(samples) == self.target) == self.clean_label

    def origin(self) -> str:
        return f"{'of' if self.clean_label else 'outside'} class {self.target}"

    def attackable(self, samples: Samples) -> Tensor:
        return _labels(samples) != self.target

    def already(self, samples: Samples) -> Tensor | None:
        return _labels(samples) == self.target

    def wanted(self, samples: Samples, patterns: Patterns) -> Column:
        return torch.full_like(_labels(samples), self.target)


def _labels(samples: Samples) -> Tensor:
    found = samples.labels
    assert found is not None
    return found


class Poison(NamedTuple):
    """What an attack did to a training set: positions, and the samples that stand there now."""

    poisoned: Tensor
    cover: Tensor
    planted: Samples
    disguised: Samples

    def apply(self, train: Samples) -> Samples:
        """The training set as the victim gets it; `train` is not changed."""
        return train.put(self.poisoned, self.planted).put(self.cover, self.disguised)

    def pack(self) -> dict[str, Tensor]:
        """As named tensors, for safetensors."""
        packed = {"poisoned": self.poisoned, "cover": self.cover}
        for name, samples in (("planted", self.planted), ("disguised", self.disguised)):
            packed |= pack(f"{name}.inputs", samples.inputs) | pack(f"{name}.targets", samples.targets)
        return packed

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], train: Samples, attack: Attack, patterns: Patterns) -> Self:
        """The inverse, for the same training set. Raises ValueError for tensors that are no poison of it: the
        text goes on after 'the attack'."""
        for name in ("poisoned", "cover"):
            at = tensors.get(name)
            if at is None or at.dtype != torch.int64 or at.dim() != 1:
                raise ValueError(f"has no {name} positions")
            if len(at) and not 0 <= int(at.min()) <= int(at.max()) < len(train):
                raise ValueError(f"has a {name} position that is none of the {len(train)} training samples")
        poisoned, cover = tensors["poisoned"], tensors["cover"]
        if "planted" in tensors:  # as it was stored before other tasks than images: bare pixels, and the targets follow
            if "disguised" not in tensors or not isinstance(attack, ToClass):
                raise ValueError("has no disguised samples")
            planted = train.take(poisoned).having(inputs=tensors["planted"])
            planted = planted.having(targets=attack.wanted(planted, patterns))
            disguised = train.take(cover).having(inputs=tensors["disguised"])
        else:
            planted, disguised = (
                _unpacked(n, tensors, train.take(at)) for n, at in (("planted", poisoned), ("disguised", cover))
            )
        for name, samples, at in (("planted", planted, poisoned), ("disguised", disguised, cover)):
            if len(samples.inputs) != len(at) or len(samples.targets) != len(at):
                raise ValueError(f"has not one {name} sample for each of its {len(at)} positions")
            if not (alike(samples.inputs, train.inputs) and alike(samples.targets, train.targets)):
                raise ValueError(f"has {name} samples of another kind than the training set")
        return cls(poisoned, cover, planted, disguised)


def _unpacked(name: str, tensors: dict[str, Tensor], true: Samples) -> Samples:
    inputs, targets = unpack(f"{name}.inputs", tensors), unpack(f"{name}.targets", tensors)
    if inputs is None or targets is None:
        raise ValueError(f"has no {name} samples")
    return true.having(inputs=inputs, targets=targets)


def poison(attack: Attack, patterns: Patterns, setting: Setting) -> Poison:
    """Choose the samples and plant the trigger. Raises BadInput where the asked rate cannot be had."""
    train = setting.splits.train
    poisoned, cover = attack.select(train, setting.rng)
    planted = attack.plant(train.take(poisoned).dense(), patterns, setting)
    rest = train.take(cover).dense()
    return Poison(poisoned, cover, planted, attack.disguise(rest, patterns, setting) if len(cover) else rest)
