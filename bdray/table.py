"""The rows as a table: attack x defense, mean ± spread over seeds, and n. Imports no torch, so it answers at once."""

import csv
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bdray.results import Row
from bdray.spec import BadInput, Config, unknown

SCORES = (
    "utility_before",
    "utility_after",
    "asr_before",
    "asr_after",
    "der",
    "recovery_after",
    "target_utility_after",
    "held_utility_after",
    "flag_recall",
    "false_alarm",
    "target_false_alarm",
)
HEADS = {
    "utility_before": "utility",
    "utility_after": "after",
    "asr_before": "ASR",
    "asr_after": "after",
    "der": "DER",
    "recovery_after": "recovery",
    "target_utility_after": "target",
    "held_utility_after": "held",
    "flag_recall": "recall",
    "false_alarm": "alarm",
    "target_false_alarm": "in target",
}
FALLS = ["asr_before", "asr_after", "utility_before", "utility_after"]
"""What the DER is made of."""
LABELS = ("victim", "attack", "defense")
COLUMNS = (*LABELS, "n", *(column for name in (*SCORES, "seconds") for column in (name, f"{name}_spread")))
"""Of a group, and of the CSV."""


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
    rows = rows.append_column("der", pa.array([effectiveness(row) for row in rows.select(FALLS).to_pylist()], pa.float64()))
    records = [record for _, record in averages(rows, (*SCORES, "seconds"))]
    return sorted(records, key=lambda r: tuple(r[name] for name in LABELS))


def effectiveness(row: dict[str, Any]) -> float | None:
    """The defense effectiveness rating of Zhu et al. 2023 (FT-SAM, ICCV), 0 to 1: half of 1 + the fall of the ASR - the fall of
    the utility, where a rise counts as no fall. None where one of them was not measured."""
    falls = []
    for name in ("asr", "utility"):
        before, after = row[f"{name}_before"], row[f"{name}_after"]
        if before is None or after is None:
            return None
        falls.append(max(0.0, before - after))
    return (1 + falls[0] - falls[1]) / 2


def averages(rows: pa.Table, names: Sequence[str]) -> list[tuple[Config, dict[str, Any]]]:
    """As `groups`, of these columns and in no order, each with the dict of one of its experiments."""
    of_two = pc.VarianceOptions(ddof=1, min_count=2)
    wanted: list[tuple[Any, ...]] = [("key", "count"), ("spec", "min")]
    for name in names:
        wanted += [(name, "mean"), (name, "stddev", of_two)]
    found = rows.filter(pc.field("status") == "done").group_by("setting", use_threads=False).aggregate(wanted).to_pylist()
    configs = [json.loads(group["spec_min"]) for group in found]
    out = []
    for group, config, label in zip(found, configs, labels(configs), strict=True):
        record = {**label, "n": group["key_count"]}
        for name in names:
            record |= {name: group[f"{name}_mean"], f"{name}_spread": group[f"{name}_stddev"]}
        out.append((config, record))
    return out


def labels(configs: list[Config]) -> list[dict[str, str]]:
    """Of each experiment the names of its parts, and the fields in which it differs from others of the same name."""
    out: list[dict[str, str]] = [{} for _ in configs]
    for label, heads in {"victim": ("task", "training"), "attack": ("attack",), "defense": ("defense",)}.items():
        texts = [json.dumps([config.get(head) for head in heads]) for config in configs]
        parts = {text: _part(label, dict(zip(heads, json.loads(text), strict=True))) for text in set(texts)}
        written = _written(list(parts.values()))
        names = dict(zip(parts, written, strict=True))
        for record, text in zip(out, texts, strict=True):
            record[label] = names[text]
    return out


def _part(label: str, config: Config) -> tuple[str, dict[str, Any]]:
    """The name of a victim, attack or defense, and its fields without seeds."""
    fields = flat(config)
    if label != "victim":
        name = str(fields.pop(label))
        if "defense.clean" in fields:  # of the two ways to say how much clean data there is, the one that holds
            clean, shots = fields.pop("defense.clean"), fields.pop("defense.shots", 0)
            fields = {"clean": f"{shots}/class" if shots else f"{100 * clean:g}%", **fields}
        return name, {p.removeprefix(f"{label}."): v for p, v in fields.items() if p != "defense.seed"}
    fields.pop("task", None)
    name = "/".join(str(fields.pop(path, "")) for path in ("task.data", "task.model"))
    width = fields.pop("task.model.width", None)
    name += "" if width is None else f" width={width}"
    return name, {path.removeprefix("task."): value for path, value in fields.items()}


def _written(parts: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Each name with the fields in which those of this name differ; a field that some of them lack differs too."""
    members: dict[str, list[dict[str, Any]]] = {}
    for name, fields in parts:
        members.setdefault(name, []).append(fields)
    shown: dict[str, dict[str, dict[str, str]]] = {}
    for name, alike in members.items():
        shown[name] = {}
        for path in dict.fromkeys(path for fields in alike for path in fields):
            values = {repr(fields[path]): fields[path] for fields in alike if path in fields}
            if len(values) > 1 or any(path not in fields for fields in alike):
                shown[name][path] = _distinct(values)
    return [
        " ".join([name, *(f"{path}={texts[repr(fields[path])]}" for path, texts in shown[name].items() if path in fields)])
        for name, fields in parts
    ]


def _distinct(values: dict[str, Any]) -> dict[str, str]:
    """The values as short texts: of numbers three digits, or as many as tell them apart."""
    for digits in range(3, 18):
        texts = {key: f"{v:.{digits}g}" if isinstance(v, float) else str(v) for key, v in values.items()}
        if len(set(texts.values())) == len(values):
            break
    return texts


def render(rows: pa.Table, sort: str | None = None, form: str = "text") -> str:
    """The table as text, markdown (both in percent, mean ± spread) or CSV (0 to 1, full precision)."""
    records = groups(rows)
    if sort:
        column = sort.removeprefix("-")
        known = [name for name in COLUMNS if not name.endswith("_spread")]
        if column not in known:
            raise BadInput(unknown("column", column, known))
        measured = sorted((r for r in records if r[column] is not None), key=lambda r: r[column], reverse=sort.startswith("-"))
        records = measured + [r for r in records if r[column] is None]
    if form == "csv":
        return to_csv(COLUMNS, [list(record.values()) for record in records])
    if not records:
        return "\n".join(["no finished row", *others(rows)])
    asked = (sort or "").removeprefix("-")
    # The DER says nothing that its four columns do not: it is shown to who sorts by it, and in the CSV.
    shown = [n for n in SCORES if any(r[n] is not None for r in records) and (n != "der" or asked == n)]
    common = len({r["victim"] for r in records}) == 1
    labels = LABELS[1:] if common else LABELS
    heads = [*labels, "n", *(HEADS[name] for name in shown), "s"]
    lines = [
        [
            *(r[label] for label in labels),
            str(r["n"]),
            *(percent(r[name], r[f"{name}_spread"]) for name in shown),
            "" if r["seconds"] is None else f"{r['seconds']:.1f}",
        ]
        for r in records
    ]
    if form == "text" and sys.stdout.isatty():
        lines = wrapped(heads, lines, len(labels), shutil.get_terminal_size().columns)
    text = align(heads, lines, form, ["left"] * len(labels) + ["right"] * (len(shown) + 2))
    top = [f"{records[0]['victim']}; percent, mean ± spread over n seeds", ""] if common else []
    return "\n".join([*top, text, *others(rows)])


def wrapped(heads: list[str], lines: list[list[str]], labels: int, width: int) -> list[list[str]]:
    """The lines with labels broken at spaces, no more than it takes to fit into `width` where that is possible."""
    # tabulate pads a head by two, and puts two spaces between columns.
    widest = [max(len(head) + 2, *(len(line[at]) for line in lines)) for at, head in enumerate(heads)]
    free = width - sum(widest[labels:]) - 2 * (len(heads) - 1)
    limit = next((n for n in range(120, 20, -4) if sum(min(n, w) for w in widest[:labels]) <= free), 20)
    return [
        [
            *("\n".join(textwrap.wrap(text, limit, subsequent_indent="  ", break_on_hyphens=False)) for text in line[:labels]),
            *line[labels:],
        ]
        for line in lines
    ]


def align(heads: list[str], lines: list[list[str]], form: str, aligns: list[str]) -> str:
    """Text or markdown. Every cell is a text already: a key like 12345e67 is no number."""
    from tabulate import tabulate

    if form == "markdown":
        lines = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
    style = "github" if form == "markdown" else "simple"
    return str(tabulate(lines, heads, style, disable_numparse=True, colalign=aligns if lines else None))


def to_csv(heads: Iterable[str], lines: list[list[Any]]) -> str:
    """Lines under their heads as CSV."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return sink.getvalue().rstrip("\n")


def percent(mean: float | None, spread: float | None = None) -> str:
    """Of a share 0 to 1, with one digit; empty where there is none."""
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")


def others(rows: pa.Table) -> list[str]:
    """A line on the rows that are not in the table."""
    statuses = rows["status"].to_pylist()
    found = [f"{statuses.count(s)} {s}" for s in ("skipped", "failed") if s in statuses]
    return ["", f'not shown: {", ".join(found)}; their reasons: --sql "SELECT key, status, error FROM rows"'] if found else []


def query(rows: pa.Table, sql: str, form: str = "text") -> str:
    """The answer of DuckDB to a query over the table `rows`. Raises BadInput with DuckDB's first sentence."""
    import duckdb

    try:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("rows", rows)
            answer = connection.sql(sql)
            table = None if answer is None else answer.to_arrow_table()
    except duckdb.Error as error:
        sentence = " ".join(str(error).partition("LINE ")[0].split())
        raise BadInput(f"DuckDB cannot do that: {sentence}") from None
    if table is None:
        raise BadInput("the query gave no table; expected one SELECT over `rows`")
    heads, columns = table.column_names, [column.to_pylist() for column in table.columns]
    if form == "csv":
        return to_csv(heads, [list(line) for line in zip(*columns, strict=True)])
    numbers = [all(isinstance(v, int | float | None) for v in column) for column in columns]
    texts = [["" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in column] for column in columns]
    return align(heads, [list(line) for line in zip(*texts, strict=True)], form, ["right" if n else "left" for n in numbers])


def describe(row: Row, before: dict[str, Any] | None = None) -> str:
    """One row for a person: what it was, before and after, and on how many samples."""
    names = ("utility", "asr", "recovery", "target_utility")
    lines = [
        [
            name.replace("_", " ").replace("asr", "ASR"),
            *(percent(_number(getattr(row, f"{name}_{when}"))) for when in ("before", "after")),
        ]
        for name in names
    ]
    lines.append(["held utility", *(percent(_number(v)) for v in (row.held_utility_before, row.held_utility_after))])
    text = align([f"{row.utility_name}, percent", "before", "after"], lines, "text", ["left", "right", "right"])
    head = f"{row.task} {row.data} {row.model}, {row.attack}, {row.defense}, seed {row.seed}: {row.status} {row.error}".rstrip()
    counts = (
        f"n: {row.clean_tests} clean and {row.triggered_tests} triggered tests; trained on {row.trained_on}, {row.poisoned} "
        f"poisoned, {row.covered} cover; {row.clean_held} clean samples for the defense\n"
        f"victim {row.victim_seconds:.1f} s, defense {row.seconds:.1f} s, peak {row.peak_memory / 2**20:.0f} MiB, {row.device}"
    )
    out = [head, "", *([text, "", counts] if row.status == "done" else []), f"row {row.key}, victim {row.victim}"]
    if before is not None and before["status"] == "done":
        gaps = [abs((before[f"{n}_after"] or 0) - (_number(getattr(row, f"{n}_after")) or 0)) for n in names]
        stored = f"utility {percent(before['utility_after'])}, ASR {percent(before['asr_after'])}"
        out.append(f"stored before: {stored}; largest difference {100 * max(gaps):.2f} points")
    return "\n".join(out)


def _number(value: float) -> float | None:
    return None if value != value else value
