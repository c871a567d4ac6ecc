"""Validity: what a row can be counted as. A victim that did not plant cannot be cleaned, a model that lost the target class has
its ASR of 0 for nothing, and a share of few tests is known only so well. Imports no torch."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bdray.spec import BadInput
from bdray.wording import shown as said

PLANTED = 0.5
"""The attack success rate before a defense from which on a victim counts as backdoored."""
CLASS_BUDGET = 0.2
"""What a class, or all of them together, may fall by before it counts as lost."""
SEPARATED = 0.8
"""How far apart what a filter takes for poison must lie from the rest to be told from it by the defender: one group that is cut
in two has 0.64 (normal) to 0.75 (uniform)."""
SURE = 0.95
"""Of an interval: how often it holds the true share."""
ROUNDING = 1e-9
"""What fell by exactly the budget is not lost."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """From where on a victim counts as backdoored, and a class as lost."""

    planted: float = PLANTED
    """ASR before, 0 to 1; with 0 every victim counts."""
    class_budget: float = CLASS_BUDGET
    """Of the utility, 0 to 1."""

    def __post_init__(self) -> None:
        check_share("planted", self.planted)
        check_share("class_budget", self.class_budget)

    def planted_in(self, row: Mapping[str, Any]) -> bool | None:
        """Whether the victim of a row has the backdoor; None where its ASR was not measured."""
        before = row.get("asr_before")
        return None if before is None or before != before else before >= self.planted

    def lost_in(self, row: Mapping[str, Any], name: str) -> bool | None:
        """Whether `target_utility`, or `utility`, fell by more than the budget; None where one of the two was not measured."""
        before, after = row.get(f"{name}_before"), row.get(f"{name}_after")
        if before is None or after is None or before != before or after != after:
            return None
        return before - after > self.class_budget + ROUNDING

    def unseparated_in(self, row: Mapping[str, Any]) -> bool:
        """Whether a filter saw no two groups; not where it has no measure of that."""
        seen = row.get("separation")
        return seen is not None and seen < SEPARATED

    def flags(self, row: Mapping[str, Any]) -> list[str]:
        """What makes the ASR of one row worthless as a defense's merit, or its filter no better than a guess, in words."""
        found = {
            NOT_PLANTED: self.planted_in(row) is False,
            CLASS_LOST: bool(self.lost_in(row, "target_utility")),
            UTILITY_LOST: bool(self.lost_in(row, "utility")),
            UNSEPARATED: self.unseparated_in(row),
        }
        return [words for words, holds in found.items() if holds]


NOT_PLANTED, CLASS_LOST, UTILITY_LOST, UNSEPARATED = "not planted", "class lost", "utility lost", "not separated"


def check_share(name: str, value: Any) -> None:
    """Raise BadInput for what is no number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadInput(f"{name}: got {said(value)}, expected a number, at least 0 and at most 1")


USUAL = Bounds()


def interval(share: float, tests: int) -> tuple[float, float]:
    """The 95 % interval of a share that was measured on so many samples, by Wilson's formula (1927), which holds near 0 and 1,
    too, where the normal one is empty."""
    z = statistics.NormalDist().inv_cdf((1 + SURE) / 2)
    scale = 1 + z * z / tests
    middle = (share + z * z / (2 * tests)) / scale
    half = z * math.sqrt(share * (1 - share) / tests + (z / (2 * tests)) ** 2) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


DOUBT = 3
"""Samples that a class is counted as having besides, on which nothing fell."""


def doubted(fall: float, tests: int) -> float:
    """A fall of a class's utility, made smaller for few samples: a class of one sample that was lost fell by a quarter, one of
    14 that all were lost by 82 %. Without that the class that fell most would, of many small ones, be one that fell by
    chance."""
    return fall * tests / (tests + DOUBT)


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation of at least two values."""
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


FEW = 3
"""Below so many victims their values are shown, not a deviation of them."""


def shown(values: Sequence[Sequence[float]], digits: int = 1, scale: float = 100) -> str:
    """Shares of some victims, those of one victim's seeds of the defense together, as a text in percent.

    From three victims on: the mean and the deviation of the victims' means. Below: the values themselves, victims apart by a
    slash, seeds by a comma; more than three seeds as `mean (least to most)`, equal ones once."""

    def text(value: float) -> str:
        return f"{scale * value:.{digits}f}"

    known = [seeds for seeds in values if len(seeds)]
    if len(known) >= FEW:
        means = [mean(seeds) for seeds in known]
        return f"{text(mean(means))} ± {text(deviation(means))}"
    parts = []
    for seeds in known:
        texts = [text(value) for value in seeds]
        if len(set(texts)) == 1:
            parts.append(texts[0])
        elif len(seeds) <= FEW:
            parts.append(", ".join(texts))
        else:
            parts.append(f"{text(mean(seeds))} ({text(min(seeds))} to {text(max(seeds))})")
    return " / ".join(parts)


def size(counts: Sequence[int]) -> str:
    """How many victims, and how many seeds of the defense on each: `3`, `3x2`, or `3x1-2` where they differ."""
    least, most = min(counts, default=0), max(counts, default=0)
    if most <= 1:
        return str(len(counts))
    return f"{len(counts)}x{least}" + (f"-{most}" if most > least else "")
