"""Rates of flags and what a defense shows on the way, against tables made by hand."""

from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from bdray.judge.truth import Look, Truth
from bdray.report.groups import effectiveness
from bdray.store.row import Scores

#                      sample  0  1  2  3  4  5  6  7  8  9
LABELS = torch.tensor([0, 1, 1, 0, 2, 1, 2, 1, 0, 1])
TRUTH = Truth(
    poisoned=torch.zeros(10, dtype=torch.bool), covered=torch.zeros(10, dtype=torch.bool), labels=LABELS, own=LABELS == 1
)
TRUTH.poisoned[[2, 5, 7]] = True
TRUTH.covered[8] = True


def marks(*samples: int) -> Tensor:
    found = torch.zeros(10, dtype=torch.bool)
    found[list(samples)] = True
    return found


def test_rates_by_hand() -> None:
    """2, 5 and 7 are poisoned; 8 is a cover sample, hence clean; 1 and 9 are the clean ones of the target class."""
    assert TRUTH.rates(marks(2, 7, 8, 9)) == pytest.approx((2 / 3, 2 / 7, 1 / 2))
    assert TRUTH.rates(marks()) == (0, 0, 0)
    assert TRUTH.rates(marks(2, 5, 7)) == (1, 0, 0)
    assert all(rate != rate for rate in TRUTH.rates(None))


def test_rates_where_there_is_no_poison() -> None:
    clean = TRUTH._replace(poisoned=marks())
    recall, alarm, target_alarm = clean.rates(marks(2, 3))
    assert recall != recall
    assert (alarm, target_alarm) == pytest.approx((2 / 10, 1 / 5))


def test_flags_by_class() -> None:
    heads = ("label", "poisoned", "flagged_poisoned", "clean", "flagged_clean")
    lines = [(0, 0, 0, 3, 1), (1, 3, 2, 2, 1), (2, 0, 0, 2, 0)]
    assert TRUTH.by_class(marks(2, 7, 8, 9)).to_pylist() == [dict(zip(heads, line, strict=True)) for line in lines]


def test_tables_of_samples_are_marked() -> None:
    table = TRUTH.marked(pa.table({"sample": [8, 2, 0], "divergence": [0.5, 0.1, 0.3]}))
    assert table["truth_poisoned"].to_pylist() == [False, True, False]
    assert table["truth_covered"].to_pylist() == [True, False, False]
    assert table["label"].to_pylist() == [0, 1, 0]
    assert table["divergence"].to_pylist() == [0.5, 0.1, 0.3]
    other = pa.table({"layer": ["a"]})
    assert TRUTH.marked(other) is other


def test_a_look_changes_nothing_and_gives_nothing_back() -> None:
    told: list[tuple[int, dict[str, float]]] = []

    def judge(model: nn.Module) -> Scores:
        model.eval()
        return Scores(utility=0.7, asr=0.9, target_utility=0.5)

    def tell(step: int, **metrics: float) -> None:
        told.append((step, metrics))

    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    model[0].eval()
    look: Any = Look(TRUTH, judge, tell)
    assert look(3, model=model, clean=marks(0, 1, 2, 3)) is None
    assert [module.training for module in model.modules()] == [True, False, True]
    assert told[0] == (3, {"utility": 0.7, "asr": 0.9, "target_utility": 0.5})
    assert told[1] == (3, {"clean_precision": 0.75, "clean_recall": pytest.approx(3 / 7)})
    assert look.seconds > 0


@pytest.mark.parametrize(
    ("asr", "utility", "rating"),
    [
        ((1.0, 0.0), (0.9, 0.9), 1.0),
        ((1.0, 0.2), (0.9, 0.8), 0.85),
        ((0.1, 0.3), (0.8, 0.9), 0.5),
        ((0.5, 0.5), (0.9, 0.4), 0.25),
    ],
)
def test_effectiveness_by_hand(asr: tuple[float, float], utility: tuple[float, float], rating: float) -> None:
    """A rise of the ASR or of the utility counts as no fall."""
    row = {"asr_before": asr[0], "asr_after": asr[1], "utility_before": utility[0], "utility_after": utility[1]}
    assert effectiveness(row) == pytest.approx(rating)
    assert effectiveness({**row, "asr_after": None}) is None
