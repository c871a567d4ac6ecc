"""Agreement of a model with the labels that a defense kept and flagged, by hand and in a row."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bdray.bench import load
from bdray.defenses import Defended, Evidence
from bdray.judge.truth import compare
from bdray.run import run
from bdray.store.store import Store
from tests.tiny import quick, tiny

#                           0  1  2  3  4  5  6  7  8  9
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 3, 3, 3])
PREDICTED = torch.tensor([0, 0, 1, 0, 1, 1, 1, 3, 0, 1])


def marks(*samples: int) -> Tensor:
    found = torch.zeros(10, dtype=torch.bool)
    found[list(samples)] = True
    return found


@pytest.mark.parametrize(
    ("flagged", "kept", "of_flagged"),
    [
        ((3, 8, 9), 1 / 3, 1.1 / 3.1),
        ((4, 5, 6), 0.0, 3.1 / 3.1),  # a label is lost
        ((2, 8, 9), 1 / 3, 0.1 / 3.1),
        ((0, 1, 8, 9), 1 / 4, 2.1 / 4.1),
        (tuple(range(10)), 0.0, 7.1 / 10.1),
    ],
)
def test_by_hand(flagged: tuple[int, ...], kept: float, of_flagged: float) -> None:
    """Labels 0, 1 and 3 are borne by 4, 3 and 3 samples, 2 by none; samples 2, 8 and 9 are not predicted as labelled.
    A hundredth of the ten samples counts as flagged and predicted."""
    assert compare(PREDICTED == LABELS, LABELS, marks(*flagged)) == pytest.approx((kept, of_flagged))


def test_nothing_flagged() -> None:
    found = compare(PREDICTED == LABELS, LABELS, marks())
    assert found == pytest.approx((1 / 3, 1.0))


def test_a_filter_that_cheats_scores_less_than_the_perfect_one() -> None:
    """Ten labels of 95, and 50 poisoned samples that bear label 0; every model here gets all clean samples right."""
    labels = torch.cat([torch.arange(10).repeat(95), torch.zeros(50, dtype=torch.int64)])
    poisoned = torch.arange(1000) >= 950

    def score(flagged: Tensor, contradicted: Tensor) -> float:
        found = compare(~contradicted, labels, flagged)
        return found.kept - found.flagged

    perfect = score(poisoned, poisoned)
    few = torch.arange(1000) < 3
    assert score(few, few) < perfect  # a few odd samples flagged, the backdoor alive
    lost = labels == 5
    assert score(lost, lost) < perfect  # a class flagged and never predicted
    target = poisoned | (labels == 0)
    assert score(target, target) < perfect  # so the target class, with the poison
    assert score(torch.zeros_like(poisoned), torch.zeros_like(poisoned)) < perfect


def test_a_row_has_it_of_the_final_model_and_the_poisoned_set(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted again one by one, with the labels as the defender sees them."""
    experiment, kept = tiny(defense="random_filter"), []
    defend = type(experiment.defense).defend

    def watched(self: Any, evidence: Evidence, *others: Any) -> Defended:
        kept.append((evidence, defend(self, evidence, *others)))
        return kept[-1][1]

    monkeypatch.setattr(type(experiment.defense), "defend", watched)
    row = run(experiment, store, Path())
    ((evidence, defended),) = kept
    assert evidence.train is not None
    assert defended.flagged is not None
    labels, flags = evidence.train.targets.tolist(), defended.flagged.tolist()
    predicted = experiment.task.predict(defended.model, evidence.train).tolist()
    assert labels != load(experiment.task.data, Path()).train.targets.tolist()
    shares = []
    for label in range(4):
        mine = [not f and p == y for p, y, f in zip(predicted, labels, flags, strict=True) if y == label]
        shares.append(sum(mine) / len(mine))
    told = [p == y for p, y, f in zip(predicted, labels, flags, strict=True) if f]
    assert row.kept_agreement == pytest.approx(min(shares))
    assert row.flagged_agreement == pytest.approx((sum(told) + len(labels) / 100) / (len(told) + len(labels) / 100))
    stored = store.row(experiment.key())
    assert stored is not None
    assert (stored["kept_agreement"], stored["flagged_agreement"]) == (row.kept_agreement, row.flagged_agreement)


@pytest.mark.parametrize("defense", ["none", "cutmix"])
def test_a_defense_that_flags_nothing_has_none(defense: str, store: Store) -> None:
    row = run(tiny(defense=quick(defense)), store, Path())
    assert math.isnan(row.kept_agreement)
    assert math.isnan(row.flagged_agreement)
