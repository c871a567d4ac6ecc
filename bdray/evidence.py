"""Evidence: what the defense of an experiment gets of its victim, and what settings of it on that victim have in common."""

import copy

import torch
from torch import Tensor

from bdray.bench import Bench
from bdray.defenses import Evidence
from bdray.judge.truth import truth_of
from bdray.provenance import provenance
from bdray.samples import Splits
from bdray.seeds import rng
from bdray.spec import Config, key_of
from bdray.store.store import Store
from bdray.training import Checkpoint
from bdray.victim import Backdoored


def collect(bench: Bench, victim: Backdoored) -> tuple[Evidence, Tensor]:
    """What the defense needs and nothing else, and the positions in `held` of the clean samples that it got."""
    experiment, splits = bench.experiment, bench.splits
    defense, needs = experiment.defense, experiment.defense.needs
    mine = torch.empty(0, dtype=torch.int64)
    if "clean" in needs:
        draw = rng(experiment.seed, "clean", defense.seed)
        mine = defense.draw(splits.held, len(splits.train), len(splits.classes), draw)
    evidence = Evidence(
        model=copy.deepcopy(victim.model) if "model" in needs else None,
        train=victim.poison.apply(splits.train) if "train" in needs else None,
        clean=splits.held.take(mine).dense() if "clean" in needs else None,
        outline=bench.outline,
        training=experiment.training if "train" in needs else None,
        truth=truth_of(experiment, victim.poison, splits).poisoned if "truth" in needs else None,
    )
    return evidence, mine


class Kept:
    """A `Keep` of one defense on one victim, which knows the seconds that another setting, or this one before it was cut off,
    spent on what was found."""

    def __init__(self, store: Store, victim: str, defense: str, evidence: Evidence) -> None:
        """`victim` is its key. The training set counts, too: a victim made anew may have other poison, or other data. So do the
        versions of bdray and torch: a row says with which its defense ran."""
        self.store, self.victim, self.defense, self.evidence = store, victim, defense, evidence
        self._given: list[_Timed] = []

    def __call__(self, what: Config) -> Checkpoint:
        assert self.evidence.train is not None
        assert self.evidence.outline is not None
        nothing = self.evidence.train.take(torch.empty(0, dtype=torch.int64))
        learnt = Splits(self.evidence.train, nothing, nothing, self.evidence.outline.classes).digest()
        code = {name: provenance()[name] for name in ("bdray_version", "torch_version")}
        key = key_of({"defense": self.defense, "learnt": learnt, **code, **what})
        self._given.append(_Timed(self.store.checkpoint(f"{self.victim}.{key}")))
        return self._given[-1]

    @property
    def seconds(self) -> float:
        """Of all that was found."""
        return sum(each.seconds for each in self._given)


class _Timed:
    """A checkpoint that remembers the seconds of the epochs that it held when it was loaded."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self.seconds = checkpoint, 0.0

    def load(self) -> tuple[dict[str, Tensor], int] | None:
        found = self._checkpoint.load()
        if (
            found is not None
            and (history := found[0].get("history")) is not None
            and history.shape == (found[1], 2)
            and found[1]
        ):
            self.seconds = float(history[-1, 1])
        return found

    def save(self, tensors: dict[str, Tensor], epochs: int) -> None:
        self._checkpoint.save(tensors, epochs)
