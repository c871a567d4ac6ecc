"""The figures of AdvrBD (arXiv 2405.12719) from the rows, curves and tables of a store, each with the numbers behind it.

bdray figure divergences SWEEP --out FILE.png     Fig. 5: how far poisoned and clean samples move at the first partition
bdray figure enhancement SWEEP --out FILE.png     Fig. 6: utility and ASR of the enhanced model along the iterations
bdray figure rates SWEEP --out FILE.png           Fig. 7: utility and ASR after the defense over its partition rate
"""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bdray.judge.validity import NOT_PLANTED, USUAL, shown, size
from bdray.layout import align, page, percent, to_csv
from bdray.report.figures import panels
from bdray.report.groups import LABELS, identity, labels
from bdray.report.picture import check_name, save
from bdray.spec import BadInput, Config, unknown
from bdray.store.store import Store

DEFENSE = "advrbd"
AT_MOST = 24
"""Panels, or lines, in one picture."""
METRICS = {
    "utility": "utility",
    "asr": "ASR",
    "target_utility": "target",
    "clean_precision": "precision",
    "clean_recall": "recall",
}
"""Of a curve of the truth: of the enhanced model, and of the samples taken for clean so far."""


@dataclass(frozen=True)
class Figure:
    """A picture and its numbers."""

    about: str
    """What the numbers are, in words."""
    heads: dict[str, str]
    """Of the text, by the records' columns."""
    records: list[dict[str, Any]]
    """Shares 0 to 1. A column that also has a `_least` and a `_most` is a share, the mean over n seeds."""
    notes: list[str]
    sketch: Callable[[], Any]
    """Makes the matplotlib figure."""

    def text(self, form: str) -> str:
        """The numbers as text, markdown (shares in percent) or CSV (0 to 1, full precision)."""
        if form == "csv":
            return to_csv(self.records[0], [list(record.values()) for record in self.records])
        lines = [[_cell(record, name) for name in self.heads] for record in self.records]
        aligns = ["left", *["right"] * (len(self.heads) - 1)]
        return page(form, [self.about], align(list(self.heads.values()), lines, form, aligns), self.notes)

    def draw(self, path: Path) -> None:
        """Write the picture. Raises BadInput for a file that cannot be written."""
        check_name(path)
        save(self.sketch(), path)


class Group(NamedTuple):
    """Rows that differ only in their seeds, in the order of these; victims that did not plant are a group of their own."""

    name: str
    """The attack, and what else tells it from the other groups."""
    rows: list[dict[str, Any]]

    def by_victim(self, values: Sequence[Any]) -> list[list[Any]]:
        """One value a row, those of a victim together; without None."""
        found: dict[str, list[Any]] = {}
        for row, value in zip(self.rows, values, strict=True):
            found.setdefault(row["victim"], []).extend([] if value is None else [value])
        return list(found.values())

    @property
    def size(self) -> str:
        """Victims x seeds of the defense."""
        return size([len(values) for values in self.by_victim(self.rows)])


def check_kind(kind: str) -> None:
    """Raise BadInput for what is no figure's name."""
    if kind not in KINDS:
        raise BadInput(unknown("figure", kind, list(KINDS)))


def figure(kind: str, rows: pa.Table, store: Store) -> Figure:
    """One of KINDS, of those of the rows that are AdvrBD's. Raises BadInput where there is nothing to draw, or too much."""
    check_kind(kind)
    mine = rows.filter((pc.field("defense") == DEFENSE) & (pc.field("status") == "done")).to_pylist()
    if not mine:
        raise BadInput(
            f"no finished row of the defense {DEFENSE!r} among {len(rows)} rows; run one with `bdray run defense={DEFENSE}`"
        )
    return KINDS[kind]([{**row, "config": identity(row)} for row in mine], store)


def auroc(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> float | None:
    """How well a threshold tells two groups apart: the share of pairs in which the one of `low` is the smaller, a tie counted
    half. 1: all of them, 0.5: as by chance; None where a group is empty."""
    if not len(low) or not len(high):
        return None
    others = np.sort(np.asarray(high, dtype=float))
    below, up_to = (np.searchsorted(others, low, side).mean() for side in ("left", "right"))
    return float(1 - (below + up_to) / 2 / len(others))


def divergences(rows: list[dict[str, Any]], store: Store) -> Figure:
    """Fig. 5, from the tables of divergences: a panel a group, the samples of all its seeds together."""
    tables, notes = _read("divergences", rows, store)
    records, drawn = [], []
    for group in _groups([row for row in rows if row["key"] in tables]):
        kinds, found = [], []
        for row in group.rows:
            poisoned, clean, target = parts = _parts(tables[row["key"]], row["config"]["attack"]["target"])
            kinds.append(parts)
            record: dict[str, Any] = {"group": group.name, "seed": row["seed"]}
            record["defense_seed"] = row["config"]["defense"]["seed"]
            for name, part in zip(("poisoned", "clean", "target"), parts, strict=True):
                record |= {name: len(part), f"{name}_median": float(np.median(part)) if len(part) else None}
            found.append(record | {"auroc": auroc(poisoned, clean), "target_auroc": auroc(poisoned, target)})
        records += found
        told = f"AUROC {_spread(group, [record['auroc'] for record in found])}"
        in_target = _spread(group, [record["target_auroc"] for record in found])
        notes.append(f"{group.name}: {told}, in the target class {in_target}")
        drawn.append((f"{group.name}\n{told}", [np.concatenate(part) for part in zip(*kinds, strict=True)]))
    samples = {"poisoned": "poisoned", "clean": "clean", "target": "in target"}
    medians = {"poisoned_median": "median poisoned", "clean_median": "clean", "target_median": "in target"}
    rank = {"auroc": "AUROC", "target_auroc": "in target"}
    heads = {"group": "attack", "seed": "seed", "defense_seed": "of defense", **samples, **medians, **rank}
    about = (
        "samples, their divergence at the first partition in nats, and the share of pairs of a poisoned and a clean one in "
        "which the poisoned one moved less; in target: clean ones of the target class alone"
    )
    return Figure(about, heads, records, notes, lambda: panels.histograms(drawn))


def _parts(table: pa.Table, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The divergences of poisoned, of clean, and of the clean samples of the target class; cover samples are clean."""
    moved, poisoned = table["divergence"].to_numpy(), table["truth_poisoned"].to_numpy()
    return moved[poisoned], moved[~poisoned], moved[~poisoned & (table["label"].to_numpy() == target)]


def enhancement(rows: list[dict[str, Any]], store: Store) -> Figure:
    """Fig. 6, from the curves of the truth, which are judged on a part of the test set: a panel a group. Step 0 is the model
    after the warm-up; a step beyond the iterations is another model."""
    curves, notes = _read("curves", rows, store)
    records, drawn = [], []
    for group in _groups([row for row in rows if row["key"] in curves]):
        found: dict[str, dict[float, list[float]]] = {name: {} for name in METRICS}
        for row in group.rows:
            last = row["config"]["defense"]["iterations"]
            for point in curves[row["key"]].filter(pc.field("step") <= last).to_pylist():
                if point["metric"] in METRICS and point["value"] == point["value"]:
                    found[point["metric"]].setdefault(point["step"], []).append(point["value"])
        for step in sorted({step for series in found.values() for step in series}):
            values = {name: series.get(step, []) for name, series in found.items()}
            records.append({"group": group.name, "iteration": step, "n": max(map(len, values.values())), **_ends(values)})
        drawn.append((f"{group.name} (n = {group.size})", {METRICS[name]: series for name, series in found.items()}))
    about = (
        "percent, mean [least, most] over n seeds: utility, ASR and utility of the target class of the enhanced model, on a "
        "part of the test set; precision and recall of the samples taken for clean so far"
    )
    heads = {"group": "attack", "iteration": "iteration", "n": "n", **METRICS}
    return Figure(about, heads, records, notes, lambda: panels.lines(drawn, "iteration", ["%"]))


def rates(rows: list[dict[str, Any]], store: Store) -> Figure:
    """Fig. 7, from the rows: a line a group. The number of iterations may go with the rate, as where their product is held."""
    pairs = {(row["config"]["defense"]["partition_rate"], row["config"]["defense"]["iterations"]) for row in rows}
    tied = len(pairs) == len({rate for rate, _ in pairs})
    records: list[dict[str, Any]] = []
    drawn: dict[str, dict[str, dict[float, list[float]]]] = {"utility_after": {}, "asr_after": {}}
    for group in _groups(rows, ("partition_rate", "iterations") if tied else ("partition_rate",)):
        for rate in sorted({row["config"]["defense"]["partition_rate"] for row in group.rows}):
            alike = [row for row in group.rows if row["config"]["defense"]["partition_rate"] == rate]
            values = {name: [row[name] for row in alike if row[name] is not None] for name in drawn}
            for name, panel in drawn.items():
                panel.setdefault(group.name, {})[rate] = values[name]
            record = {"group": group.name, "rate": rate, "iterations": alike[0]["config"]["defense"]["iterations"]}
            records.append({**record, "n": len(alike), **_ends(values)})
    heads = {"group": "attack", "rate": "partition rate", "iterations": "iterations", "n": "n"}
    titles = {"utility_after": "utility", "asr_after": "ASR"}
    both = [(titles[name], series) for name, series in drawn.items()]
    return Figure(
        "percent after the defense, mean [least, most] over n seeds",
        heads | titles,
        records,
        [],
        lambda: panels.lines(both, "partition rate", ["utility after, %", "ASR after, %"], log=True),
    )


KINDS: dict[str, Callable[[list[dict[str, Any]], Store], Figure]] = {
    "divergences": divergences,
    "enhancement": enhancement,
    "rates": rates,
}


def _read(kind: str, rows: list[dict[str, Any]], store: Store) -> tuple[dict[str, pa.Table], list[str]]:
    """The tables of a kind by the rows' keys, of curves the truth's, and a note on rows that lack one. Raises BadInput where
    all do."""
    there: dict[str, pa.Table] = {}
    for row in rows:
        table = store.table(kind, row["key"])
        if table is not None and kind == "curves":
            table = table.filter(pc.field("of") == "truth")
        if table is not None and len(table):
            there[row["key"]] = table
    what = "a curve of the truth" if kind == "curves" else f"a table of {kind}"
    if not there:
        raise BadInput(f"none of the {len(rows)} rows has {what} in the store {store.uri!r}; `bdray run --again KEY` makes it")
    return there, [f"left out: {len(rows) - len(there)} rows without {what}"] if len(there) < len(rows) else []


def _groups(rows: list[dict[str, Any]], moved: Sequence[str] = ()) -> list[Group]:
    """Groups of rows, which may also differ in these fields of the defense. Raises BadInput for more than a picture holds."""
    found: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["seed"], row["config"]["defense"]["seed"])):
        config: Config = {name: value for name, value in row["config"].items() if name != "seed"}
        config["defense"] = {name: v for name, v in config["defense"].items() if name not in ("seed", *moved)}
        bare = USUAL.planted_in(row) is False
        found.setdefault((json.dumps(config, sort_keys=True), bare), []).append(row)
    if len(found) > AT_MOST:
        raise BadInput(
            f"got {len(found)} groups of rows that differ in more than their seeds, expected at most {AT_MOST} in one picture; "
            "choose some with path=value, e.g. attack=blend"
        )
    named = labels([json.loads(text) for text, _ in found])
    told = [label for label in LABELS if label == "attack" or len({names[label] for names in named}) > 1]
    groups = [
        Group(", ".join([*(names[label] for label in told), *([NOT_PLANTED] if bare else [])]), mine)
        for names, ((_, bare), mine) in zip(named, found.items(), strict=True)
    ]
    return sorted(groups, key=lambda group: group.name)


def _ends(values: dict[str, list[float]]) -> dict[str, float | None]:
    """Mean, least and most of each, None of none."""
    found: dict[str, float | None] = {}
    for name, mine in values.items():
        found |= {name: statistics.fmean(mine) if mine else None, f"{name}_least": min(mine, default=None)}
        found[f"{name}_most"] = max(mine, default=None)
    return found


def _cell(record: dict[str, Any], name: str) -> str:
    value = record[name]
    if value is None or not isinstance(value, float):
        return "" if value is None else str(value)
    if f"{name}_least" not in record:
        return f"{value:.4g}"
    ends = f" [{percent(record[f'{name}_least'])}, {percent(record[f'{name}_most'])}]" if record["n"] > 1 else ""
    return percent(value) + ends


def _spread(group: Group, values: list[float | None]) -> str:
    """Of shares, one a row: see `shown`; and of how many victims and seeds."""
    if all(value is None for value in values):
        return "unknown: no pairs"
    of_victims = [seeds for seeds in group.by_victim(values) if seeds]
    return f"{shown(of_victims, 3, 1)} (n = {size([len(seeds) for seeds in of_victims])})"
