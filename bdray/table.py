"""The rows as a table: attack x defense, what their seeds showed, n, and what speaks against them. Imports no torch: it answers
at once."""

import csv
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from bdray.groups import COLUMNS, COUNTED, LABELS, SCORES, flags, flat, groups, marked
from bdray.results import Row
from bdray.spec import BadInput, unknown
from bdray.validity import CLASS_LOST, NOT_PLANTED, USUAL, UTILITY_LOST, Bounds, interval, shown, size

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


def render(
    rows: pa.Table,
    sort: str | None = None,
    form: str = "text",
    bounds: Bounds = USUAL,
    intervals: bool = False,
) -> str:
    """The table as text, markdown (both in percent) or CSV (0 to 1, full precision).

    A model that lost the target class, or all of its utility, has a high DER: by that column flagged groups come last."""
    records = groups(rows, bounds)
    if sort:
        column = sort.removeprefix("-")
        if column not in COLUMNS:
            raise BadInput(unknown("column", column, COLUMNS))
        measured = sorted((r for r in records if r[column] is not None), key=lambda r: r[column], reverse=sort.startswith("-"))
        records = measured + [r for r in records if r[column] is None]
        if column == "der":
            records.sort(key=lambda r: bool(flags(r)))
    if form == "csv":
        return to_csv(COLUMNS, [[record[name] for name in COLUMNS] for record in records])
    if not records:
        return "\n".join(["no finished row", *others(rows)])
    asked = (sort or "").removeprefix("-")
    # The DER says nothing that its four columns do not: it is shown to who sorts by it, and in the CSV.
    named = [n for n in SCORES if any(r[n] is not None for r in records) and (n != "der" or asked == n)]
    common = len({r["victim"] for r in records}) == 1
    labels = LABELS[1:] if common else LABELS
    flagged = any(flags(r) for r in records)
    heads = [*labels, "n", *(HEADS[name] for name in named), "s", *(["flags"] if flagged else [])]
    lines = [
        [
            *(r[label] for label in labels),
            size(r["counts"]),
            *(scored(r, name, intervals) for name in named),
            "" if r["seconds"] is None else f"{r['seconds']:.1f}",
            *([flags(r)] if flagged else []),
        ]
        for r in records
    ]
    if form == "text" and sys.stdout.isatty():
        lines = wrapped(heads, lines, len(labels), shutil.get_terminal_size().columns)
    aligns = ["left"] * len(labels) + ["right"] * (len(named) + 2) + ["left"] * flagged
    text = align(heads, lines, form, aligns)
    top = [f"{records[0]['victim']}; percent", ""] if common else []
    below = notes(records, bounds, intervals, asked)
    return "\n".join([*top, text, *(["", *below] if below else []), *others(rows)])


def scored(record: dict[str, Any], name: str, intervals: bool = False) -> str:
    """A score of a group: see `shown`; on request with the interval of its mean, where it is a share of tests."""
    text = shown(record["values"][name])
    low, high = (record[f"{name}_{end}"] if intervals and name in COUNTED else None for end in ("low", "high"))
    return text if low is None or high is None else f"{text} [{percent(low)}, {percent(high)}]"


def notes(
    records: list[dict[str, Any]], bounds: Bounds, intervals: bool = False, asked: str = "", by_interval: bool = True
) -> list[str]:
    """How the groups are to be read: what n and the values are, on how few tests they rest, and what the flags mean."""
    found = []
    if any(r["n"] > r["victims"] for r in records):
        found.append("n: victims x seeds of the defense")
    if any(r["victims"] >= 3 for r in records):
        found.append("±: standard deviation over the victims")
    if any(r["n"] > 1 and r["victims"] < 3 for r in records):
        found.append("fewer than 3 victims: their values, victims apart by /, seeds of the defense by a comma")
    tests = min((r["triggered_tests"] for r in records if r["triggered_tests"]), default=0)
    if tests:
        ends = [f"{percent(low)} to {percent(high)}" for low, high in (interval(share, tests) for share in (0.0, 0.5))]
        found.append(
            f"fewest triggered tests: {tests}; there an ASR of 0 means {ends[0]} %, one of 50 means {ends[1]} % (95 %, Wilson)"
            + ("" if intervals or not by_interval else "; --interval shows it for each")
        )
    if intervals:
        found.append("[ ]: 95 % interval of the mean on as many tests as one victim has; victims share their tests")
    said = {flag.partition(" lost")[0] for r in records for flag in flags(r).split(", ")}
    budget = f"fell by more than {100 * bounds.class_budget:g} points"
    for words, meaning in (
        (NOT_PLANTED, f"ASR before below {100 * bounds.planted:g} %, so that there is nothing to clean; a group of its own"),
        (CLASS_LOST, f"utility on the target class {budget}: an ASR of such a model says nothing; k/n: in so many rows"),
        (UTILITY_LOST, f"utility {budget}"),
    ):
        if words.partition(" lost")[0] in said:
            found.append(f"{words}: {meaning}")
    if asked == "der" and any(flags(r) for r in records):
        found.append("sorted by DER with the flagged last, which it cannot tell from clean models")
    return found


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
    found = [f"{statuses.count(s)} {s}" for s in ("skipped", "failed", "lost") if s in statuses]
    return ["", f'not shown: {", ".join(found)}; their reasons: --sql "SELECT key, status, error FROM rows"'] if found else []


def query(
    rows: pa.Table,
    sql: str,
    form: str = "text",
    bounds: Bounds = USUAL,
) -> str:
    """The answer of DuckDB to a query over the table `rows`, which also has the columns `planted`, `class_lost` and
    `utility_lost`. Raises BadInput with DuckDB's first sentence."""
    import duckdb

    try:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("rows", marked(rows, bounds))
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
    speaks = USUAL.flags(vars(row))
    flagged = [f"flags: {', '.join(speaks)}"] if speaks else []
    out = [head, "", *([text, *flagged, "", counts] if row.status == "done" else []), f"row {row.key}, victim {row.victim}"]
    if before is not None and before["status"] == "done":
        gaps = [abs((before[f"{n}_after"] or 0) - (_number(getattr(row, f"{n}_after")) or 0)) for n in names]
        stored = f"utility {percent(before['utility_after'])}, ASR {percent(before['asr_after'])}"
        out.append(f"stored before: {stored}; largest difference {100 * max(gaps):.2f} points")
    return "\n".join(out)


def _number(value: float) -> float | None:
    return None if value != value else value
