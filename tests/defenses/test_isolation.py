"""What the model has learnt best: Otsu's threshold, and how far it separates."""

import math

import pytest
import torch

from bdray.defenses._isolation import LEAST, two_groups
from bdray.seeds import rng


def test_two_values_are_two_groups_whole() -> None:
    found = two_groups(torch.tensor([5.0, 0.01, 5.0, 0.01, 5.0]))
    assert found.low.tolist() == [False, True, False, True, False]
    assert found.separation == pytest.approx(1)


def test_three_numbers_by_hand() -> None:
    """Logarithms 0, 1 and 3: cut after 1 the groups' means are 0.5 and 3 around 4/3, between them 25/18 of 14/9."""
    found = two_groups(torch.tensor([0.0, 3.0, 1.0]).exp())
    assert found.low.tolist() == [True, False, True]
    assert found.separation == pytest.approx((25 / 18) / (14 / 9), rel=1e-6)


def test_nothing_to_tell_apart_is_not_told_apart() -> None:
    for losses in (torch.full((6,), 0.3), torch.tensor([2.0]), torch.empty(0), torch.tensor([0.0, LEAST / 2, LEAST])):
        found = two_groups(losses)
        assert not found.low.any()
        assert found.low.shape == losses.shape
        assert found.separation == 0


def test_equal_losses_are_never_cut() -> None:
    losses = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.2, 0.9, 0.9])
    for order in (torch.arange(7), torch.randperm(7, generator=rng(0))):
        low = two_groups(losses[order]).low
        assert low.tolist() == (losses[order] < 0.5).tolist()


@pytest.mark.parametrize(("name", "expected"), [("normal", 2 / math.pi), ("uniform", 0.75)])
def test_the_separation_of_what_is_one_group(name: str, expected: float) -> None:
    """As the docstring says. 100,000 draws."""
    draw = rng(0)
    logs = torch.randn(100_000, generator=draw) if name == "normal" else 3 * torch.rand(100_000, generator=draw)
    assert two_groups(logs.exp()).separation == pytest.approx(expected, abs=0.01)


def test_a_few_that_are_learnt_far_better_stand_out() -> None:
    """A twentieth, five standard deviations away: found to the last, and no one else; a histogram of them is not needed."""
    draw = rng(1)
    logs = torch.cat([torch.randn(950, generator=draw) * 0.5, torch.randn(50, generator=draw) * 0.5 - 9])
    found = two_groups(logs.exp())
    assert found.low.tolist() == [False] * 950 + [True] * 50
    assert found.separation > 0.9
