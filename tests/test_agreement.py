"""Agreement of a model with the labels that a defense kept and flagged, by hand and in a row."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bdray.agreement import compare
from bdray.defenses import Defended, Evidence
from bdray.experiment import load, run
from bdray.store import Store
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
        ((3, 8, 9), (2 / 4 + 3 / 3 + 1 / 3) / 3, 1 / 3),
        ((4, 5, 6), (3 / 4 + 0 / 3 + 1 / 3) / 3, 1.0),  # a label is lost
        ((2, 8, 9), (3 / 4 + 3 / 3 + 1 / 3) / 3, 0.0),
        (tuple(range(10)), 0.0, 7 / 10),
    ],
)
def test_by_hand(flagged: tuple[int, ...], kept: float, of_flagged: float) -> None:
    """Labels 0, 1 and 3 are borne by 4, 3 and 3 samples, 2 by none; samples 2, 8 and 9 are not predicted as labelled."""
    assert compare(PREDICTED, LABELS, marks(*flagged)) == pytest.approx((kept, of_flagged))


def test_nothing_flagged() -> None:
    found = compare(PREDICTED, LABELS, marks())
    assert found.kept == pytest.approx((3 / 4 + 3 / 3 + 1 / 3) / 3)
    assert math.isnan(found.flagged)


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
    assert 0 < row.kept_agreement == pytest.approx(sum(shares) / 4)
    assert row.flagged_agreement == pytest.approx(sum(told) / len(told))
    stored = store.row(experiment.key())
    assert stored is not None
    assert (stored["kept_agreement"], stored["flagged_agreement"]) == (row.kept_agreement, row.flagged_agreement)


@pytest.mark.parametrize("defense", ["none", "cutmix"])
def test_a_defense_that_flags_nothing_has_none(defense: str, store: Store) -> None:
    row = run(tiny(defense=quick(defense)), store, Path())
    assert math.isnan(row.kept_agreement)
    assert math.isnan(row.flagged_agreement)
