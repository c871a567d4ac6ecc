"""The best settings of a sweep: each judged over all of its victims, by what a defender can measure (with clean samples, or on
the training set alone) or by the oracle, and the Pareto front of utility against what is left of the backdoor."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bdray.groups import labels
from bdray.layout import align, percent, to_csv
from bdray.objective import KINDS, Objective, front
from bdray.picture import check_name, save
from bdray.spec import BadInput, Config, key_of
from bdray.trials import Trial

COLUMNS = (
    "rank",
    "setting",
    "n",
    "defender_mean",
    "defender_worst",
    "training_mean",
    "training_worst",
    "oracle_mean",
    "oracle_worst",
    "held_utility_after",
    "proxy",
    "kept_agreement",
    "flagged_agreement",
    "utility_after",
    "asr_after",
    "asr_worst",
    "front",
)
HEADS = {
    "defender_mean": "defender",
    "defender_worst": "defender worst",
    "training_mean": "training",
    "training_worst": "training worst",
    "oracle_mean": "oracle",
    "oracle_worst": "oracle worst",
    "held_utility_after": "held",
    "kept_agreement": "kept",
    "flagged_agreement": "flagged",
    "utility_after": "utility",
    "asr_after": "ASR",
    "asr_worst": "ASR worst",
}
AXES = {
    "defender": ("held_utility_after", "proxy"),
    "training": ("kept_agreement", "flagged_agreement"),
    "oracle": ("utility_after", "asr_after"),
}
"""Utility and what is left of the backdoor, as each kind of objective sees them."""


class Unrankable(BadInput):
    """Its rows lack what an objective needs; another may do."""


@dataclass(frozen=True)
class Best:
    """Settings in the order of an objective, and what was left out."""

    aim: Objective
    settings: list[dict[str, Any]]
    """One record each, with COLUMNS; scores 0 to 1, None where they cannot be told."""
    incomplete: int
    """Settings that were not judged on every victim: stopped early, failed or still to come."""


def best(rows: Sequence[Mapping[str, Any]], trials: Sequence[Trial], aim: Objective) -> Best:
    """Rank the settings of one sweep. `rows` are its rows as records; `trials` those of its search, none for a grid.

    Raises BadInput where no setting was judged on every victim, or none can be ranked by this objective.
    """
    panels, incomplete = _panels([row for row in rows if row["status"] == "done"], trials)
    if not panels:
        raise BadInput(
            "no setting was judged on every victim of the sweep; let the sweep go on, or see its rows with `bdray table`"
        )
    names = labels([json.loads(panel[0]["spec"]) for panel in panels])
    records = [_record(name["defense"], panel, aim) for name, panel in zip(names, panels, strict=True)]
    order = f"{aim.kind}_{aim.judge}"
    if all(record[order] is None for record in records):
        others = [kind for kind in KINDS if any(record[f"{kind}_{aim.judge}"] is not None for record in records)]
        raise Unrankable(
            f"no setting can be ranked by {aim.kind}: its rows lack what that needs ({aim.label}); "
            + (f"rank by {' or '.join(others)} with --by" if others else "see them with `bdray table`")
        )
    records.sort(key=lambda record: -math.inf if record[order] is None else record[order], reverse=True)
    for rank, record in enumerate(records, start=1):
        record["rank"] = rank
    pairs = [_pair(record, aim.kind) for record in records]
    for record, first in zip(records, front(pairs), strict=True):
        record["front"] = first
    return Best(aim, records, incomplete)


def _panels(rows: list[Mapping[str, Any]], trials: Sequence[Trial]) -> tuple[list[list[Mapping[str, Any]]], int]:
    """The rows of each setting that was judged on all victims, and how many settings were not."""
    if trials:
        by_key = {row["key"]: row for row in rows}
        whole = [trial for trial in trials if trial.state == "finished" and all(key in by_key for key in trial.cells)]
        return [[by_key[key] for key in trial.cells] for trial in whole], len(trials) - len(whole)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        defense = {name: value for name, value in _identity(row)["defense"].items() if name != "seed"}
        groups.setdefault(key_of(defense), []).append(row)
    victims = {row["victim"] for row in rows}
    whole_groups = [group for group in groups.values() if {row["victim"] for row in group} == victims]
    return whole_groups, len(groups) - len(whole_groups)


def _identity(row: Mapping[str, Any]) -> Config:
    """What tells a row's experiment from others: rows of two versions of bdray show one setting."""
    config: Config = json.loads(row["spec"])
    if key_of(config) != row["key"]:  # it has fields that came later: only then is the experiment, and torch with it, needed
        from bdray.experiment import Experiment

        return Experiment.identity_of(config)
    return config


def _record(setting: str, rows: list[Mapping[str, Any]], aim: Objective) -> dict[str, Any]:
    record: dict[str, Any] = {"setting": setting, "n": len(rows)}
    for kind in KINDS:
        for judge in ("mean", "worst"):
            value = replace(aim, kind=kind, judge=judge).value(rows)
            record[f"{kind}_{judge}"] = None if math.isnan(value) else value
    return record | {
        "held_utility_after": _mean([row["held_utility_after"] for row in rows]),
        "proxy": _mean([replace(aim, kind="defender").left(row) for row in rows]),
        "kept_agreement": _mean([row["kept_agreement"] for row in rows]),
        "flagged_agreement": _mean([row["flagged_agreement"] for row in rows]),
        "utility_after": _mean([row["utility_after"] for row in rows]),
        "asr_after": _mean([row["asr_after"] for row in rows]),
        "asr_worst": max((row["asr_after"] for row in rows if row["asr_after"] is not None), default=None),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None and not math.isnan(value)]
    return math.fsum(kept) / len(kept) if len(kept) == len(values) else None


def _pair(record: dict[str, Any], kind: str) -> tuple[float, float]:
    """Utility and what is left, as the kind of objective sees them; NaN where it does not."""
    utility, left = (math.nan if record[name] is None else record[name] for name in AXES[kind])
    return utility, left


def render(found: Best, count: int, form: str) -> str:
    """The first `count` settings as text or markdown (in percent, without columns that no setting has), or as CSV (0 to 1, full
    precision)."""
    shown = found.settings[:count]
    if form == "csv":
        return to_csv(COLUMNS, [[record[name] for name in COLUMNS] for record in shown])
    columns = [name for name in COLUMNS[3:-1] if any(record[name] is not None for record in found.settings)]
    heads = ["rank", "setting", "n", *(found.aim.proxy if name == "proxy" else HEADS[name] for name in columns), "front"]
    lines = [
        [
            str(record["rank"]),
            record["setting"],
            str(record["n"]),
            *(percent(record[name]) for name in columns),
            "*" if record["front"] else "",
        ]
        for record in shown
    ]
    text = align(heads, lines, form, ["right", "left"] + ["right"] * (len(heads) - 3) + ["left"])
    left_out = [f"not ranked: {found.incomplete} not judged on every victim"] if found.incomplete else []
    return "\n".join([*head(found.aim), "", text, *(["", *left_out] if left_out else [])])


def head(aim: Objective) -> list[str]:
    """What the ranking rests on, in words."""
    over = f"{aim.judge} over n victims" if aim.judge == "mean" else "worst of n victims"
    if aim.kind == "training":
        score = "a score is the agreement with the labels that were kept minus that with those that were flagged, no clean data"
        axes = "kept against flagged"
    else:
        score = (
            f"a score is 100 - what is left, or minus the excess where utility fell by more than {100 * aim.budget:g} points"
        )
        axes = f"held against {aim.proxy}" if aim.kind == "defender" else "utility against ASR"
    by = f"ranked by {aim.kind} ({over}); {score}; percent; * is on the Pareto front of {axes}"
    return [by, *(["ORACLE: ranked by the true ASR, which no defender has"] if aim.kind == "oracle" else [])]


def draw(found: Best, path: Path) -> None:
    """Utility against what is left of the backdoor, a point a setting, the front as a line; side by side as each kind of
    objective sees them. Raises BadInput for a file that cannot be written."""
    from matplotlib.figure import Figure  # not pyplot: it would ask for a screen and keep every figure

    check_name(path)
    words = {
        "defender": ("what a defender sees", "held-out utility after", f"{found.aim.proxy} after", "defender's pick", "s"),
        "training": ("what the training set shows", "kept agreement", "flagged agreement", "pick by training", "o"),
        "oracle": ("oracle: the true ASR", "test utility after", "ASR after", "oracle's pick", "D"),
    }
    kinds = [kind for kind in KINDS if kind == "oracle" or any(r[AXES[kind][1]] is not None for r in found.settings)]
    figure = Figure(figsize=(5.2 * len(kinds), 4.2), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        points = [_pair(record, kind) for record in found.settings]
        first = sorted(point for point, on in zip(points, front(points), strict=True) if on)
        axis.scatter([100 * left for _, left in points], [100 * utility for utility, _ in points], s=22, alpha=0.6)
        axis.step([100 * left for _, left in first], [100 * utility for utility, _ in first], "o-", where="post", ms=4, lw=1)
        for judge in KINDS:
            *_, pick, mark = words[judge]
            ranked = [r for r in found.settings if r[f"{judge}_{found.aim.judge}"] is not None]
            if ranked:
                utility, left = _pair(max(ranked, key=lambda r: r[f"{judge}_{found.aim.judge}"]), kind)
                axis.plot(100 * left, 100 * utility, mark, mfc="none", ms=11, mew=1.5, label=pick)
        title, of_utility, of_left, *_ = words[kind]
        axis.set_xlabel(f"{of_left}, mean over the victims, %")
        axis.set_ylabel(f"{of_utility}, mean over the victims, %")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save(figure, path)
