"""Objective: what a search makes large, computed from rows alone. `defender` uses only what a defender can measure on clean
samples, `training` what one can who has nothing but the poisoned training set; `oracle` uses the true attack success rate,
which no defender has, and everything made from it says so."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bdray.spec import BadInput, unknown
from bdray.wording import shown

KINDS = ("defender", "training", "oracle")
JUDGES = ("mean", "worst")
DEFAULT_PROXY = "inverted_trigger"
"""Which proxy stands for the backdoor that is left, where a sweep names none (docs/results/proxies_cpu.md)."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Larger is better. By `defender` and `oracle` a row whose utility fell by at most `budget` scores 1 - what is left of the
    backdoor, 0 to 1; one whose utility fell by more scores minus the excess, so that the search still sees in which direction
    it lies.

    By `training` a row scores its agreement with the labels that the defense kept minus that with those it flagged, -1 to 1; it
    knows no utility before and hence no budget. What it cannot see: poison with a true label (SIG) agrees with its content,
    so that even a perfect filter's model agrees with what was flagged, and losing the class scores higher: leave such attacks
    out of a panel; poison that was kept agrees like any other sample; and defenses that unlearn what they flagged (ABL, D-BR)
    contradict it by design, poison or not.
    """

    kind: str = "defender"
    """defender: held-out clean utility and a proxy; training: agreement with the labels of the training set; oracle: utility
    and ASR on the test set."""
    proxy: str = DEFAULT_PROXY
    budget: float = 0.05
    """Utility that a defense may cost, 0 to 1; `training` has none."""
    judge: str = "mean"
    """Over the panel's victims: mean, or worst."""
    front: bool = False
    """Two objectives at once, utility and what is left of the backdoor, in place of one score: a Pareto front."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(unknown("objective", str(self.kind), KINDS))
        if self.judge not in JUDGES:
            raise BadInput(unknown("judge", str(self.judge), JUDGES))
        if isinstance(self.budget, bool) or not isinstance(self.budget, int | float) or not 0 <= self.budget <= 1:
            raise BadInput(f"the sweep's budget: got {shown(self.budget)}, expected a number, at least 0 and at most 1")

    @property
    def proxies(self) -> tuple[str, ...]:
        """Those that every row must have."""
        return (self.proxy,) if self.kind == "defender" else ()

    @property
    def label(self) -> str:
        """For the head of a table or an axis."""
        return {
            "defender": f"defender: held utility, {self.proxy}",
            "training": "training: agreement with the labels it kept, with those it flagged; no clean data",
            "oracle": "oracle: test utility, true ASR",
        }[self.kind]

    def utility(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """Before and after; NaN where the row has none, as before a defense has kept anything."""
        if self.kind == "training":
            return math.nan, _number(row["kept_agreement"])
        name = "held_utility" if self.kind == "defender" else "utility"
        return _number(row[f"{name}_before"]), _number(row[f"{name}_after"])

    def left(self, row: Mapping[str, Any]) -> float:
        """What is left of the backdoor, 0 to 1; NaN where it was not measured."""
        if self.kind == "oracle":
            return _number(row["asr_after"])
        if self.kind == "training":
            return _number(row["flagged_agreement"])
        return _number(json.loads(row["proxies"] or "{}").get(self.proxy))

    def score(self, row: Mapping[str, Any]) -> float:
        """Of one row, -1 to 1; NaN where it cannot be told."""
        before, after = self.utility(row)
        if self.kind == "training":
            return after - self.left(row)
        excess = before - after - self.budget
        return 1 - self.left(row) if excess <= 0 else -excess if excess > 0 else math.nan

    def value(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """Of one setting, from the rows of its panel."""
        return self._judged([self.score(row) for row in rows], max_is_good=True)

    def pair(self, rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        """Utility after (to be large) and what is left of the backdoor (to be small), of one setting."""
        return (
            self._judged([self.utility(row)[1] for row in rows], max_is_good=True),
            self._judged([self.left(row) for row in rows], max_is_good=False),
        )

    def _judged(self, values: list[float], max_is_good: bool) -> float:
        if not values or any(math.isnan(value) for value in values):
            return math.nan
        if self.judge == "mean":
            return math.fsum(values) / len(values)
        return min(values) if max_is_good else max(values)


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of (utility, left) no other point beats: none has at least its utility and at most what is left, and one of the two
    strictly better. NaN is on no front."""
    good = [not any(math.isnan(value) for value in point) for point in points]
    return [
        fine
        and not any(
            other and u >= mine[0] and left <= mine[1] and (u, left) != mine
            for (u, left), other in zip(points, good, strict=True)
        )
        for mine, fine in zip(points, good, strict=True)
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
