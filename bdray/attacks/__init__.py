"""Attack: which samples are poisoned, how they are stamped, what they are made to mean; every other module is one attack.

Images are stamped at rest: uint8 [N, C, H, W] in, a new tensor of the same shape and type out, inputs never changed.
Fractions are cut off as a cast to uint8 does, because that is what the published triggers are, unless an attack says otherwise.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from bdray.data import Samples, Splits
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


class Attack(Spec):
    """Defaults are those of the attack's authors or, where they give none, of the field's benchmarks."""

    folder: ClassVar[str] = "bdray.attacks"
    kind: ClassVar[str] = "attack"
    modalities: ClassVar[frozenset[str]]
    steers: ClassVar[bool] = False
    """It controls the training itself, so there is no fixed poisoned training set."""
    clean_label: ClassVar[bool] = False
    """Poisoned samples are taken from the target class and keep their label."""

    target: Amount = 0
    """The class that triggered inputs shall be taken for."""
    rate: Share = 0.1
    """Poisoned samples / all training samples: the one meaning everywhere."""
    cover: Share = 0.0
    """Samples that the attack changes and that keep their true label, mostly stamped ones / all training samples."""

    def check(self, splits: Splits) -> None:
        """Raise BadInput, before anything is trained, for what cannot be done to this data set: a target that it does not
        have, too few samples to poison, a rate that poisons none, a file that cannot be read."""
        if self.target >= len(splits.classes):
            last = len(splits.classes) - 1
            raise BadInput(f"{self.name}.target: got {self.target}, expected a class from 0 to {last}")
        self.select(splits.train.targets, torch.Generator().manual_seed(0))

    def patterns(self, setting: Setting) -> Patterns:
        """The trigger's tensors, drawn from `setting.rng`, read from a file or learned; called once a victim."""
        return {}

    def stamp(self, x: Tensor, patterns: Patterns, rng: torch.Generator) -> Tensor:
        """The triggered inputs, as at test time."""
        raise NotImplementedError

    def plant(self, x: Tensor, patterns: Patterns, setting: Setting) -> Tensor:
        """The inputs as they stand in the poisoned training samples; called once, on all of them."""
        return self.stamp(x, patterns, setting.rng)

    def disguise(self, x: Tensor, patterns: Patterns, setting: Setting) -> Tensor:
        """The inputs as they stand in the cover samples."""
        return self.plant(x, patterns, setting)

    def relabel(self, y: Tensor) -> Tensor:
        """The labels that the attacker wants, int64 [N]."""
        return torch.full_like(y, self.target)

    def poisonable(self, y: Tensor) -> Tensor:
        """Which training samples may be poisoned, bool [N]."""
        return y == self.target if self.clean_label else y != self.target

    def origin(self) -> str:
        """What `poisonable` allows, in words."""
        return f"{'of' if self.clean_label else 'outside'} class {self.target}"

    def coverable(self, y: Tensor) -> Tensor:
        """Which training samples may be cover samples, bool [N]."""
        return torch.ones_like(y, dtype=torch.bool)

    def attackable(self, y: Tensor) -> Tensor:
        """Which test samples count towards the attack success rate, bool [N]."""
        return y != self.target

    def select(self, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions of the poisoned and of the cover samples, each drawn without replacement, disjoint, ascending.

        Raises BadInput where too few samples can be poisoned or covered, with the counts and the largest possible rate, and
        where a rate above 0 is no sample, with the smallest one.
        """
        check_some(f"{self.name}.rate", self.rate, len(y), "poisons")
        check_some(f"{self.name}.cover", self.cover, len(y), "covers")
        if self.rate and self.target > int(y.max()):
            raise BadInput(f"{self.name}.target: got {self.target}, expected a class from 0 to {int(y.max())}")
        candidates = self.poisonable(y).nonzero().flatten()
        wanted = round(self.rate * len(y))
        if wanted > len(candidates):
            raise BadInput(
                f"{self.name}.rate: got {self.rate}, that is {wanted} of {len(y)} training samples, but only "
                f"{len(candidates)} can be poisoned ({self.origin()}); "
                f"the largest possible rate is {len(candidates) / len(y):.6g}"
            )
        poisoned = candidates[torch.randperm(len(candidates), generator=rng)[:wanted]]
        free = self.coverable(y).clone()
        free[poisoned] = False
        rest = free.nonzero().flatten()
        covered = round(self.cover * len(y))
        if covered > len(rest):
            others = f"{wanted} poisoned ones"
            if barred := len(y) - wanted - len(rest):
                others += f" and {barred} that may not be covered"
            raise BadInput(
                f"{self.name}.cover: got {self.cover}, that is {covered} of {len(y)} training samples, but only "
                f"{len(rest)} are left beside {others}; the largest possible cover is {len(rest) / len(y):.6g}"
            )
        cover = rest[torch.randperm(len(rest), generator=rng)[:covered]]
        return poisoned.sort().values, cover.sort().values


class Poison(NamedTuple):
    """What an attack did to a training set: positions, and the inputs that stand there now."""

    poisoned: Tensor
    cover: Tensor
    planted: Tensor
    disguised: Tensor

    def apply(self, attack: Attack, train: Samples) -> Samples:
        """The training set as the victim gets it; `train` is not changed."""
        inputs, targets = train.inputs.clone(), train.targets.clone()
        inputs[self.poisoned] = self.planted
        inputs[self.cover] = self.disguised
        targets[self.poisoned] = attack.relabel(targets[self.poisoned])
        return Samples(inputs, targets)


def poison(attack: Attack, patterns: Patterns, setting: Setting) -> Poison:
    """Choose the samples and plant the trigger. Raises BadInput where the asked rate cannot be had."""
    train = setting.splits.train
    poisoned, cover = attack.select(train.targets, setting.rng)
    planted = attack.plant(train.inputs[poisoned], patterns, setting)
    disguised = attack.disguise(train.inputs[cover], patterns, setting) if len(cover) else train.inputs[cover]
    return Poison(poisoned, cover, planted, disguised)
