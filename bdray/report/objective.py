"""Objective: what a search makes large, computed from rows alone. `defender` uses only what a defender can measure on clean
samples, `training` what one can who has nothing but the poisoned training set; `oracle` uses the true attack success rate,
which no defender has, and everything made from it says so."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bdray.judge.validity import CLASS_BUDGET, PLANTED, ROUNDING, Bounds, check_share, doubted, mean
from bdray.spec import BadInput, unknown

KINDS = ("defender", "training", "oracle")
JUDGES = ("mean", "worst")
DEFAULT_PROXY = "inverted_trigger"
"""Which proxy stands for the backdoor that is left, where a sweep names none (docs/results/proxies_cpu.md)."""


CLASS_BUDGETS = {"defender": 0.25, "training": 0.9, "oracle": CLASS_BUDGET}
"""What one class may lose, by the kind of objective. defender: of held utility, the class that fell most (see `doubted`); more
than the oracle's, since few held-out samples make it noisy. training: of agreement with kept labels, the class that agrees
least, from 1 down. oracle: of test utility, the target class."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Larger is better. By `defender` and `oracle` a row scores 1 - what is left of the backdoor, 0 to 1, where its utility
    fell by at most `budget` and that of one class by at most `class_budget`; where one fell by more, minus the larger excess,
    so that the search still sees in which direction the budgets lie. Without the second budget a model that never predicts the
    target class wins where there are many classes: its ASR is 0, and it costs no more than that class.

    By `training` a row scores its agreement with the labels that the defense kept minus that with those it flagged, -1 to 1; it
    knows no utility before and hence no budget. A model that agrees with less than 1 - `class_budget` of some class lost it,
    and contradicts what bears its label for nothing: it scores as though it agreed with all that was flagged.

    What `training` cannot see: poison with a true label (SIG) agrees with its content, so that even a perfect filter's model
    agrees with what was flagged: leave such attacks out of a panel; poison that was kept agrees like any other sample; and
    defenses that unlearn what they flagged (ABL, D-BR) contradict it by design, poison or not.
    """

    kind: str = "defender"
    """defender: held-out clean utility and a proxy; training: agreement with the labels of the training set; oracle: utility
    and ASR on the test set."""
    proxy: str = DEFAULT_PROXY
    budget: float = 0.05
    """Utility that a defense may cost, 0 to 1; `training` has none."""
    class_budget: float | None = None
    """What one class may lose, 0 to 1; where None, that of the kind in CLASS_BUDGETS. Rows of an older version do not have the
    defender's measure, and are not held to it."""
    planted: float = PLANTED
    """ASR before a defense, below which a victim has no backdoor to remove: its rows are left out."""
    judge: str = "mean"
    """Over the panel's victims, on each of which the seeds of the defense are averaged first: mean, or worst."""
    front: bool = False
    """Two objectives at once, utility and what is left of the backdoor, in place of one score: a Pareto front."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(unknown("objective", str(self.kind), KINDS))
        if self.judge not in JUDGES:
            raise BadInput(unknown("judge", str(self.judge), JUDGES))
        check_share("the sweep's budget", self.budget)
        check_share("the sweep's planted", self.planted)
        if self.class_budget is not None:
            check_share("the sweep's class_budget", self.class_budget)

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

    @property
    def of_a_class(self) -> float:
        """What one class may lose."""
        return CLASS_BUDGETS[self.kind] if self.class_budget is None else self.class_budget

    def counts(self, row: Mapping[str, Any]) -> bool:
        """Whether the victim of a row planted, or nobody knows."""
        return Bounds(planted=self.planted).planted_in(row) is not False

    def class_fall(self, row: Mapping[str, Any]) -> float:
        """What one class lost, as this kind of objective sees it, 0 to 1; NaN where it was not measured."""
        if self.kind == "training":
            return 1 - _number(row.get("kept_agreement"))
        if self.kind == "oracle":
            return _number(row.get("target_utility_before")) - _number(row.get("target_utility_after"))
        fall = _number(row.get("worst_class_held_before")) - _number(row.get("worst_class_held_after"))
        return doubted(fall, row.get("worst_class_held_tests") or 0)

    def loses_a_class(self, row: Mapping[str, Any]) -> bool:
        """Whether one class lost more than it may, as far as that was measured."""
        return self.class_fall(row) > self.of_a_class + ROUNDING

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
        lost = self.loses_a_class(row)
        if self.kind == "training":
            return after - (1.0 if lost and not math.isnan(self.left(row)) else self.left(row))
        excess = before - after - self.budget
        if lost:
            excess = max(excess, self.class_fall(row) - self.of_a_class)
        return 1 - self.left(row) if excess <= 0 else -excess if excess > 0 else math.nan

    def value(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """Of one setting, from the rows of its panel; NaN where none of its victims planted."""
        return self._judged(rows, self.score, max_is_good=True)

    def pair(self, rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        """Utility after (to be large) and what is left of the backdoor (to be small), of one setting: all where a class is
        lost."""

        def left(row: Mapping[str, Any]) -> float:
            found = self.left(row)
            return 1.0 if self.loses_a_class(row) and not math.isnan(found) else found

        return (
            self._judged(rows, lambda row: self.utility(row)[1], max_is_good=True),
            self._judged(rows, left, max_is_good=False),
        )

    def _judged(self, rows: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float], max_is_good: bool) -> float:
        victims: dict[Any, list[float]] = {}
        for at, row in enumerate(rows):
            if self.counts(row):
                victims.setdefault(row.get("victim", at), []).append(of(row))
        values = [mean(seeds) for seeds in victims.values()]
        if not values or any(math.isnan(value) for value in values):
            return math.nan
        if self.judge == "mean":
            return mean(values)
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
