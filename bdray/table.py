"""The rows as a table: attack x defense, mean ± spread over seeds, and n. Imports no torch, so it answers at once."""

import csv
import io
import json
import statistics
from typing import Any

import duckdb
import pyarrow as pa
from tabulate import tabulate

from bdray.results import Row, spec_of
from bdray.spec import BadInput, Config, unknown

SCORES = (
    "utility_before",
    "utility_after",
    "asr_before",
    "asr_after",
    "recovery_after",
    "target_utility_after",
    "held_utility_after",
    "flag_recall",
    "false_alarm",
)
HEADS = {
    "utility_before": "utility",
    "utility_after": "after",
    "asr_before": "ASR",
    "asr_after": "after",
    "recovery_after": "recovery",
    "target_utility_after": "target",
    "held_utility_after": "held",
    "flag_recall": "recall",
    "false_alarm": "alarm",
}
LABELS = ("victim", "attack", "defense")


def flat(config: Config, path: str = "") -> dict[str, Any]:
    """The dict with dotted paths as keys: {"attack": {"name": "sig"}} -> {"attack": "sig"}."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        here = path if key == "name" and path else f"{path}.{key}" if path else key
        out |= flat(value, here) if isinstance(value, dict) else {here: value}
    return out


def only(rows: pa.Table, pairs: list[tuple[str, Any]]) -> pa.Table:
    """The rows whose spec has these values. Raises BadInput where no row has such a path."""
    if not pairs:
        return rows
    specs = [flat(json.loads(spec)) for spec in rows["spec"].to_pylist()]
    for path, _ in pairs:
        if not any(path in spec for spec in specs):
            raise BadInput(unknown("field of these rows", path, {p for spec in specs for p in spec}))
    kept = rows.filter(pa.array([all(spec.get(path) == value for path, value in pairs) for spec in specs]))
    if not len(kept):
        raise BadInput(f"no row has {' and '.join(f'{p}={v}' for p, v in pairs)}; leave some of them out")
    return kept


def groups(rows: pa.Table) -> list[dict[str, Any]]:
    """One record per experiment but for its seeds: labels, n, and mean and spread (sample standard deviation, None for one
    row) of every score, 0 to 1."""
    members: dict[str, list[dict[str, Any]]] = {}
    for row in rows.select(["setting", "spec", "status", "seconds", *SCORES]).to_pylist():
        if row["status"] == "done":
            members.setdefault(row["setting"], []).append(row)
    specs = {setting: flat(spec_of(found[0])) for setting, found in members.items()}
    labels = _labels(specs)
    out = []
    for setting, found in members.items():
        record: dict[str, Any] = {**labels[setting], "n": len(found)}
        for name in (*SCORES, "seconds"):
            values = [row[name] for row in found if row[name] is not None]
            record[name] = statistics.fmean(values) if values else None
            record[f"{name}_spread"] = statistics.stdev(values) if len(values) > 1 else None
        out.append(record)
    return sorted(out, key=lambda r: tuple(str(r[name]) for name in LABELS))


def _labels(specs: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Names, and the fields in which settings of the same name differ."""
    out: dict[str, dict[str, str]] = {setting: {} for setting in specs}
    parts = {"victim": ("task", "training"), "attack": ("attack",), "defense": ("defense",)}
    for label, heads in parts.items():
        values: dict[tuple[str, str], set[str]] = {}
        own: dict[str, tuple[str, dict[str, Any]]] = {}
        for setting, spec in specs.items():
            mine = {p: v for p, v in spec.items() if p.partition(".")[0] in heads and p not in ("defense.seed",)}
            if label == "victim":
                names = ("task", "task.data", "task.model")
                name = "/".join(str(mine.pop(p, "")) for p in names[1:])
                mine.pop("task", None)
            else:
                name = str(mine.pop(label))
            own[setting] = (name, mine)
            for path, value in mine.items():
                values.setdefault((name, path), set()).add(json.dumps(value))
        for setting, (name, mine) in own.items():
            varying = [
                f"{p.removeprefix(label + '.').removeprefix('task.')}={_short(v)}"
                for p, v in mine.items()
                if len(values[name, p]) > 1
            ]
            width = f" width={mine['task.model.width']}" if label == "victim" and "task.model.width" in mine else ""
            out[setting][label] = " ".join([name + width, *(v for v in varying if not v.startswith("model.width="))])
    return out


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def render(rows: pa.Table, sort: str | None = None, form: str = "text") -> str:
    """The table as text, markdown (both in percent, mean ± spread) or CSV (0 to 1, full precision)."""
    records = groups(rows)
    if sort:
        column = sort.removeprefix("-")
        known = [*LABELS, "n", "seconds", *SCORES]
        if column not in known:
            raise BadInput(unknown("column", column, known))
        records.sort(key=lambda r: (r[column] is None, r[column]), reverse=False)
        if sort.startswith("-"):
            records = [r for r in reversed(records) if r[column] is not None] + [r for r in records if r[column] is None]
    if form == "csv":
        sink = io.StringIO()
        if records:
            writer = csv.DictWriter(sink, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
        return sink.getvalue().rstrip("\n")
    shown = [name for name in SCORES if any(r[name] is not None for r in records)]
    common = len({r["victim"] for r in records}) == 1
    heads = ["attack", "defense", "n", *(HEADS[name] for name in shown), "s"]
    lines = [
        [
            r["attack"],
            r["defense"],
            r["n"],
            *(_percent(r[name], r[f"{name}_spread"]) for name in shown),
            f"{r['seconds']:.1f}",
        ]
        for r in records
    ]
    if not common:
        heads, lines = ["victim", *heads], [[r["victim"], *line] for r, line in zip(records, lines, strict=True)]
    aligns = ["left"] * (len(heads) - len(shown) - 2) + ["right"] * (len(shown) + 2)
    text = tabulate(
        lines,
        heads,
        "github" if form == "markdown" else "simple",
        disable_numparse=True,
        colalign=aligns if lines else None,
    )
    return "\n".join(
        [
            *([f"{records[0]['victim']}; percent, mean ± spread over n seeds", ""] if common else []),
            text,
            *_others(rows),
        ]
    )


def _percent(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")


def _others(rows: pa.Table) -> list[str]:
    """A line on the rows that are not in the table."""
    statuses = rows["status"].to_pylist()
    found = [f"{statuses.count(s)} {s}" for s in ("skipped", "failed") if s in statuses]
    return ["", f'not shown: {", ".join(found)}; their reasons: --sql "SELECT key, status, error FROM rows"'] if found else []


def query(rows: pa.Table, sql: str, form: str = "text") -> str:
    """The answer of DuckDB to a query over the table `rows`. Raises BadInput with DuckDB's first sentence."""
    try:
        answer = duckdb.sql(sql)
        if answer is None:
            raise BadInput("the query gave no table; expected one SELECT over `rows`")
        heads, lines = answer.columns, answer.fetchall()
    except duckdb.Error as error:
        raise BadInput(f"DuckDB cannot do that: {' '.join(str(error).split())}") from None
    if form == "csv":
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(lines)
        return sink.getvalue().rstrip("\n")
    return str(tabulate(lines, heads, "github" if form == "markdown" else "simple"))


def describe(row: Row, before: dict[str, Any] | None = None) -> str:
    """One row for a person: what it was, before and after, and on how many samples."""
    names = ("utility", "asr", "recovery", "target_utility")
    lines = [
        [
            name.replace("_", " ").replace("asr", "ASR"),
            *(_percent(_number(getattr(row, f"{name}_{when}")), None) for when in ("before", "after")),
        ]
        for name in names
    ]
    lines.append(["held utility", "", _percent(_number(row.held_utility_after), None)])
    text = tabulate(
        lines,
        [f"{row.utility_name}, percent", "before", "after"],
        "simple",
        disable_numparse=True,
        colalign=("left", "right", "right"),
    )
    head = f"{row.task} {row.data} {row.model}, {row.attack}, {row.defense}, seed {row.seed}: {row.status} {row.error}".rstrip()
    counts = (
        f"n: {row.clean_tests} clean and {row.triggered_tests} triggered tests; trained on {row.trained_on}, {row.poisoned} "
        f"poisoned, {row.covered} cover; {row.clean_held} clean samples for the defense\n"
        f"victim {row.victim_seconds:.1f} s, defense {row.seconds:.1f} s, peak {row.peak_memory / 2**20:.0f} MiB, {row.device}"
    )
    out = [head, "", *([text, "", counts] if row.status == "done" else []), f"row {row.key}, victim {row.victim}"]
    if before is not None and before["status"] == "done":
        gaps = [abs((before[f"{n}_after"] or 0) - (_number(getattr(row, f"{n}_after")) or 0)) for n in names]
        stored = f"utility {_percent(before['utility_after'], None)}, ASR {_percent(before['asr_after'], None)}"
        out.append(f"stored before: {stored}; largest difference {100 * max(gaps):.2f} points")
    return "\n".join(out)


def _number(value: float) -> float | None:
    return None if value != value else value
