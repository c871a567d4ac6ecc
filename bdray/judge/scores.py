"""Scores: a model on the test set, clean and triggered."""

from typing import NamedTuple

import torch
from torch import nn

from bdray.attacks import Patterns
from bdray.experiment import Experiment
from bdray.samples import Splits, joined, take
from bdray.seeds import seed_of
from bdray.store.row import Scores
from bdray.training import parts

LOOKED_AT = 2000
"""Test samples on which a model on the way of a defense is judged: evenly spaced test samples."""
PART = 2000
"""Samples stamped at a time: a multiple of the batches of a prediction, so that these stay what they are all at once."""


class Evaluation(NamedTuple):
    """The scores of a model, and how many chances the attacker had."""

    scores: Scores
    tries: int


def evaluate(
    model: nn.Module, experiment: Experiment, patterns: Patterns, splits: Splits, at_most: int | None = None
) -> Evaluation:
    """A model on the test set, clean and triggered: the same samples, stamped the same way, before and after a defense."""
    task, attack, test = experiment.task, experiment.attack, splits.test
    if at_most is not None and len(test) > at_most:
        test = test.take(torch.linspace(0, len(test) - 1, at_most, dtype=torch.float64).round().long())
    clean, own = task.predict(model, test), attack.already(test)
    attacked = test.take(attack.attackable(test))
    said, hits, tries, drawn = [], 0, 0, seed_of(experiment.seed, "test")
    for part in parts(torch.arange(len(attacked)), PART):
        triggered = attack.stamp(attacked.take(part).dense(), patterns, drawn)
        said.append(task.predict(model, triggered.samples))
        chances = attack.success(said[-1], triggered)
        hits, tries = hits + int(chances.hits.sum()), tries + int(chances.tries.sum())
    scores = Scores(
        utility=task.score(clean, test.targets),
        asr=hits / tries if tries else float("nan"),
        recovery=task.score(joined(said), attacked.targets),
        target_utility=float("nan") if own is None else task.score(take(clean, own), take(test.targets, own)),
    )
    return Evaluation(scores, tries)
