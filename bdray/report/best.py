"""The best settings of a sweep: each judged over all of its victims that planted, by what a defender can measure (with clean
samples, or on the training set alone) or by the oracle; the Pareto front of utility against what is left of the backdoor; and
what a choice made without one attack is worth on it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bdray.judge.validity import CLASS_LOST, UTILITY_LOST, Bounds, mean, size
from bdray.layout import align, page, percent, to_csv
from bdray.report.groups import flat, identity, labels
from bdray.report.objective import KINDS, Objective, front
from bdray.report.picture import check_name, save
from bdray.report.table import numbered, used
from bdray.spec import BadInput, key_of, unknown
from bdray.store.trials import Trial

COLUMNS = (
    "rank",
    "setting",
    "n",
    "victims",
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
    "target_utility_after",
    "front",
    "flags",
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
    "target_utility_after": "target",
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
    notes: list[str] = field(default_factory=list)
    """On which victims and clean samples the ranking rests."""


def best(rows: Sequence[Mapping[str, Any]], trials: Sequence[Trial], aim: Objective) -> Best:
    """Rank the settings of one sweep. `rows` are its rows as records; `trials` those of its search, none for a grid.

    Raises BadInput where no victim planted, no setting was judged on every one that did, or none can be ranked by this
    objective.
    """
    panels, incomplete = _panels(rows, trials, aim)
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
    pairs = [record[f"{aim.kind}_pair"] for record in records]
    for record, first in zip(records, front(pairs), strict=True):
        record["front"] = first
    return Best(aim, records, incomplete, _notes(rows, panels, aim))


def _panels(
    rows: Sequence[Mapping[str, Any]], trials: Sequence[Trial], aim: Objective
) -> tuple[list[list[Mapping[str, Any]]], int]:
    """The rows of each setting that was judged on all victims, of those victims that planted, and how many settings were not.
    Raises BadInput where none planted."""
    done = [row for row in rows if row["status"] == "done"]
    counted = [row for row in done if aim.counts(row)]
    if done and not counted:
        highest = max(row["asr_before"] for row in done)
        raise BadInput(
            f"no victim of the sweep planted: the highest ASR before a defense is {100 * highest:.1f} %, expected at least "
            f"{100 * aim.planted:g}; rank victims that did, or lower --planted"
        )
    if trials:
        by_key = {row["key"]: row for row in done}
        whole = [trial for trial in trials if trial.state == "finished" and all(key in by_key for key in trial.cells)]
        panels = [[by_key[key] for key in trial.cells if aim.counts(by_key[key])] for trial in whole]
        panels = [panel for panel in panels if panel]
        return panels, len(trials) - len(panels)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in counted:
        defense = {name: value for name, value in identity(row)["defense"].items() if name != "seed"}
        groups.setdefault(key_of(defense), []).append(row)
    victims = {row["victim"] for row in counted}
    whole_groups = [group for group in groups.values() if {row["victim"] for row in group} == victims]
    return whole_groups, len(groups) - len(whole_groups)


def _as(aim: Objective, kind: str) -> Objective:
    """The objective of another kind on the same panel; a class budget that was given is of its own kind."""
    return replace(aim, kind=kind, class_budget=aim.class_budget if kind == aim.kind else None)


def _record(setting: str, rows: list[Mapping[str, Any]], aim: Objective) -> dict[str, Any]:
    victims = [sum(row["victim"] == victim for row in rows) for victim in dict.fromkeys(row["victim"] for row in rows)]
    record: dict[str, Any] = {"setting": setting, "n": len(rows), "victims": len(victims), "counts": victims}
    for kind in KINDS:
        for judge in ("mean", "worst"):
            value = replace(_as(aim, kind), judge=judge).value(rows)
            record[f"{kind}_{judge}"] = None if math.isnan(value) else value
        utility, left = replace(_as(aim, kind), judge="mean").pair(rows)
        record[f"{kind}_pair"] = (utility, left)
    asr = _by_victim(rows, [row["asr_after"] for row in rows])
    return record | {
        "held_utility_after": _mean(_by_victim(rows, [row["held_utility_after"] for row in rows])),
        "proxy": _mean(_by_victim(rows, [_as(aim, "defender").left(row) for row in rows])),
        "kept_agreement": _mean(_by_victim(rows, [row["kept_agreement"] for row in rows])),
        "flagged_agreement": _mean(_by_victim(rows, [row["flagged_agreement"] for row in rows])),
        "utility_after": _mean(_by_victim(rows, [row["utility_after"] for row in rows])),
        "asr_after": _mean(asr),
        "asr_worst": max((value for value in asr if value is not None), default=None),
        "target_utility_after": _mean(_by_victim(rows, [row["target_utility_after"] for row in rows])),
        "flags": _flags(rows, aim),
    }


def _flags(rows: Sequence[Mapping[str, Any]], aim: Objective) -> str:
    """What speaks against a setting, with in how many of its rows: by the truth, and by what the objective saw."""
    bounds = Bounds(class_budget=_as(aim, "oracle").of_a_class)
    counts = {
        CLASS_LOST: sum(bool(bounds.lost_in(row, "target_utility")) for row in rows),
        UTILITY_LOST: sum(bool(bounds.lost_in(row, "utility")) for row in rows),
        SEEN[aim.kind]: sum(aim.loses_a_class(row) for row in rows) if aim.kind != "oracle" else 0,
    }
    return ", ".join(f"{words} {count}/{len(rows)}" for words, count in counts.items() if count)


SEEN = {"defender": "seen to lose a class", "training": "seen to lose a class", "oracle": ""}
"""The flag for what the objective itself saw, without the truth."""


def _notes(rows: Sequence[Mapping[str, Any]], panels: Sequence[Sequence[Mapping[str, Any]]], aim: Objective) -> list[str]:
    """Which victims were left out, how much clean data the choice uses, and which rows could not be held to the class
    budget."""
    found = []
    bare = {row["victim"]: row for row in rows if row["status"] == "done" and not aim.counts(row)}
    if bare:
        names = ", ".join(sorted({str(row["attack"]) for row in bare.values()}))
        every = {row["victim"] for row in rows if row["status"] == "done"}
        found.append(
            f"left out: {len(bare)} of {len(every)} victims did not plant (ASR before below {100 * aim.planted:g} %): {names}"
        )
    used = [row for panel in panels for row in panel]
    if aim.kind == "defender":
        found.append(_clean_data(used))
        older = sum(math.isnan(aim.class_fall(row)) for row in used)
        if older:
            found.append(
                f"{older} of {len(used)} rows are of a version that looked at no single class: not held to that budget"
            )
    return found


def _clean_data(rows: Sequence[Mapping[str, Any]]) -> str:
    """How much clean data who chooses by held utility and proxies has used."""
    given, judged = (sorted({int(row.get(name) or 0) for row in rows}) for name in ("clean_held", "clean_judged"))
    of_given = f"{given[0]}" if len(given) == 1 else f"{given[0]} to {given[-1]}"
    if not judged[-1]:
        return (
            f"clean data: {of_given} samples for the defense, and all others held out to choose by (not counted in these rows)"
        )
    of_judged = f"{judged[0]}" if len(judged) == 1 else f"{judged[0]} to {judged[-1]}"
    return f"clean data: {of_given} samples for the defense, and {of_judged} more, which it does not declare, to choose by"


def _by_victim(rows: Sequence[Mapping[str, Any]], values: Sequence[float | None]) -> list[float | None]:
    """The mean of each victim's values, None where one was not measured."""
    found: dict[str, list[float | None]] = {}
    for row, value in zip(rows, values, strict=True):
        found.setdefault(row["victim"], []).append(value)
    return [_mean(seeds) for seeds in found.values()]


def _mean(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None and not math.isnan(value)]
    return mean(kept) if kept and len(kept) == len(values) else None


def _pair(record: dict[str, Any], kind: str) -> tuple[float, float]:
    """Utility and what is left, as the kind of objective sees them, where no class is lost; NaN where it does not see them."""
    utility, left = (math.nan if record[name] is None else record[name] for name in AXES[kind])
    return utility, left


def render(found: Best, count: int, form: str) -> str:
    """The first `count` settings as text or markdown (in percent, without columns that no setting has), or as CSV (0 to 1, full
    precision)."""
    shown = found.settings[:count]
    if form == "csv":
        return to_csv(COLUMNS, [[record[name] for name in COLUMNS] for record in shown])
    columns = [name for name in COLUMNS[4:-2] if any(record[name] is not None for record in found.settings)]
    flagged = any(record["flags"] for record in shown)
    short, fields = numbered(record["setting"] for record in found.settings)
    heads = ["rank", "setting", "n", *(found.aim.proxy if name == "proxy" else HEADS[name] for name in columns), "front"]
    heads += ["flags"] if flagged else []
    lines = [
        [
            str(record["rank"]),
            short[record["setting"]],
            size(record["counts"]),
            *(percent(record[name]) for name in columns),
            "*" if record["front"] else "",
            *([record["flags"]] if flagged else []),
        ]
        for record in shown
    ]
    text = align(heads, lines, form, ["right", "left"] + ["right"] * (len(columns) + 1) + ["left"] * (1 + flagged), 2)
    below = used(fields, lines)
    below += [f"not ranked: {found.incomplete} not judged on every victim"] if found.incomplete else []
    below += found.notes
    if flagged:
        budget = 100 * _as(found.aim, "oracle").of_a_class
        below.append(
            f"class lost, utility lost: on tests that of the target class, or of all, fell by more than {budget:g} points"
        )
    return page(form, head(found.aim), text, below)


def head(aim: Objective) -> list[str]:
    """What the ranking rests on, in words."""
    over = f"{aim.judge} over n victims" if aim.judge == "mean" else "worst of n victims"
    if aim.kind == "training":
        score = (
            "a score is the agreement with the labels that were kept minus that with those flagged, or minus 100 where "
            f"it is below {100 * (1 - aim.of_a_class):g} % of some class; no clean data"
        )
        axes = "kept against flagged"
    else:
        one = "the target class" if aim.kind == "oracle" else "one class on held data"
        score = (
            f"a score is 100 - what is left, or minus the excess: utility fell by more than {100 * aim.budget:g} points, or "
            f"that of {one} by more than {100 * aim.of_a_class:g}"
        )
        axes = f"held against {aim.proxy}" if aim.kind == "defender" else "utility against ASR"
    by = f"ranked by {aim.kind} ({over}); {score}; percent; * is on the Pareto front of {axes}"
    return [by, *(["ORACLE: ranked by the true ASR, which no defender has"] if aim.kind == "oracle" else [])]


LEFT_OUT = (
    "left_out",
    "setting",
    "n",
    "chosen_by",
    "score",
    "rank",
    "of",
    "utility_after",
    "asr_before",
    "asr_after",
    "target_utility_after",
    "lowest_asr",
    "flags",
)
"""Of a line of `leave_out`, and of its CSV."""


def leave_out(rows: Sequence[Mapping[str, Any]], trials: Sequence[Trial], aim: Objective, path: str) -> list[dict[str, Any]]:
    """What a choice is worth where it was not made: for each value of `path` (attack, seed, attack.rate ...) in turn, the
    setting that is best by the objective on the victims with any other value, and what it shows on those with this one. One
    record each, with LEFT_OUT; `chosen_by` is the objective on the others, `score` on those left out, `rank` and `of` say which
    of how many settings it is there, and `lowest_asr` what the setting that is best there by the oracle leaves.

    Raises BadInput where the victims that planted do not differ in `path`, or no setting can be ranked.
    """
    panels, _ = _panels(rows, trials, aim)
    if not panels:
        raise BadInput("no setting was judged on every victim of the sweep; let the sweep go on")
    names = [name["defense"] for name in labels([json.loads(panel[0]["spec"]) for panel in panels])]
    values = _values([row for panel in panels for row in panel], path)
    if len(set(values.values())) < 2:
        raise BadInput(
            f"--leave-out {path}: the victims that planted have one value of it, {next(iter(values.values()))}, expected "
            "at least two: one is left out, and the choice is made on the others; name a path in which they differ"
        )
    short, fields = numbered(names)
    found = []
    for value in sorted(set(values.values()), key=_in_order):
        inside = [[row for row in panel if values[row["victim"]] == value] for panel in panels]
        outside = [[row for row in panel if values[row["victim"]] != value] for panel in panels]
        scores = [aim.value(panel) for panel in outside]
        known = [at for at, score in enumerate(scores) if not math.isnan(score)]
        if not known:
            raise BadInput(
                f"no setting can be ranked by {aim.kind} without {path}={value}; see `bdray best` for what is lacking"
            )
        chosen = max(known, key=lambda at: scores[at])
        own = [aim.value(panel) for panel in inside]
        by_truth = [_as(aim, "oracle").value(panel) for panel in inside]
        told = [at for at, score in enumerate(by_truth) if not math.isnan(score)]
        record = _record(names[chosen], inside[chosen], aim)
        ranked = [score for score in own if not math.isnan(score)]
        found.append(
            {
                **{name: record[name] for name in ("setting", "n", "counts", "utility_after", "asr_after", "flags")},
                "left_out": value,
                "label": short[names[chosen]],
                "fields": fields.get(short[names[chosen]], ""),
                "chosen_by": scores[chosen],
                "score": None if math.isnan(own[chosen]) else own[chosen],
                "rank": None if math.isnan(own[chosen]) else 1 + sum(score > own[chosen] for score in ranked),
                "of": len(ranked),
                "asr_before": _mean(_by_victim(inside[chosen], [row["asr_before"] for row in inside[chosen]])),
                "target_utility_after": record["target_utility_after"],
                "lowest_asr": _record("", inside[max(told, key=lambda at: by_truth[at])], aim)["asr_after"] if told else None,
            }
        )
    return found


def _in_order(value: str) -> tuple[bool, float, str]:
    """Numbers by their size, before all texts."""
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _values(rows: Sequence[Mapping[str, Any]], path: str) -> dict[str, str]:
    """Of each victim the value at a path of its spec, as a text: for `attack` its label, with the fields in which attacks of
    one name differ. Raises BadInput where none has it."""
    specs = {row["victim"]: json.loads(row["spec"]) for row in rows}
    if path == "attack":
        return {victim: name["attack"] for victim, name in zip(specs, labels(list(specs.values())), strict=True)}
    fields = {victim: flat(spec) for victim, spec in specs.items()}
    known = {name for of in fields.values() for name in of if not name.startswith("defense")}
    if path not in known:
        raise BadInput(unknown("field of these victims", path, known))
    return {victim: str(of.get(path, "none")) for victim, of in fields.items()}


def render_left_out(found: Sequence[Mapping[str, Any]], aim: Objective, path: str, form: str) -> str:
    """As text or markdown, in percent, or as CSV (0 to 1, full precision)."""
    if form == "csv":
        return to_csv(LEFT_OUT, [[record[name] for name in LEFT_OUT] for record in found])
    flagged = any(record["flags"] for record in found)
    heads = [
        "left out",
        "chosen on the others",
        "n",
        "score there",
        "score",
        "rank",
        "utility",
        "ASR before",
        "ASR after",
        "target",
    ]
    heads += ["best ASR", *(["flags"] if flagged else [])]
    lines = [
        [
            record["left_out"],
            record["label"],
            size(record["counts"]),
            *(percent(record[name]) for name in ("chosen_by", "score")),
            "" if record["rank"] is None else f"{record['rank']} of {record['of']}",
            *(percent(record[name]) for name in ("utility_after", "asr_before", "asr_after", "target_utility_after")),
            percent(record["lowest_asr"]),
            *([record["flags"]] if flagged else []),
        ]
        for record in found
    ]
    about = (
        f"for each {path} in turn: the setting that is best on all the others, and what it shows on the one left out, on which "
        "nothing was chosen; score: by the objective there; best ASR: of the setting that the oracle would choose there"
    )
    aligns = ["left", "left", *["right"] * 9, *["left"] * flagged]
    said = used({record["label"]: record["fields"] for record in found if record["fields"]}, lines)
    return page(form, [*head(aim)[:1], about, *head(aim)[1:]], align(heads, lines, form, aligns, 2), said)


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
        on_front = front([record[f"{kind}_pair"] for record in found.settings])
        first = sorted(point for point, on in zip(points, on_front, strict=True) if on)
        axis.scatter([100 * left for _, left in points], [100 * utility for utility, _ in points], s=22, alpha=0.6)
        lost = [point for point, record in zip(points, found.settings, strict=True) if CLASS_LOST in record["flags"]]
        if lost:
            x, y = [100 * left for _, left in lost], [100 * utility for utility, _ in lost]
            axis.scatter(x, y, marker="x", color="red", s=50, linewidths=1.2, zorder=3, label="class lost on some victim")
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
