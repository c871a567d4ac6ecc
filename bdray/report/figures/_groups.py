"""Groups of rows that differ only in their seeds, and what the store has of them."""

import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from bdray.judge.validity import NOT_PLANTED, USUAL, shown, size
from bdray.report.groups import LABELS, labels
from bdray.spec import BadInput, Config
from bdray.store.store import Store

AT_MOST = 24
"""Panels, or lines, in one picture."""


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


def read(kind: str, rows: list[dict[str, Any]], store: Store) -> tuple[dict[str, pa.Table], list[str]]:
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


def groups_of(rows: list[dict[str, Any]], moved: Sequence[str] = ()) -> list[Group]:
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


def ends(values: dict[str, list[float]]) -> dict[str, float | None]:
    """Mean, least and most of each, None of none."""
    found: dict[str, float | None] = {}
    for name, mine in values.items():
        found |= {name: statistics.fmean(mine) if mine else None, f"{name}_least": min(mine, default=None)}
        found[f"{name}_most"] = max(mine, default=None)
    return found


def spread(group: Group, values: list[float | None]) -> str:
    """Of shares, one a row: see `shown`; and of how many victims and seeds."""
    if all(value is None for value in values):
        return "unknown: no pairs"
    of_victims = [seeds for seeds in group.by_victim(values) if seeds]
    return f"{shown(of_victims, 3, 1)} (n = {size([len(seeds) for seeds in of_victims])})"
