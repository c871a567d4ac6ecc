"""The rows as a table: attack x defense, what their seeds showed, n, and what speaks against them. Imports no torch: it answers
at once."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from bdray.judge.validity import (
    CLASS_LOST,
    NOT_PLANTED,
    SEPARATED,
    UNSEPARATED,
    USUAL,
    UTILITY_LOST,
    Bounds,
    interval,
    shown,
    size,
)
from bdray.layout import align, page, percent, prose, safe, to_csv
from bdray.report.groups import COLUMNS, COUNTED, LABELS, SCORES, flags, flat, groups, marked, spoilt
from bdray.report.query import select
from bdray.spec import BadInput, unknown
from bdray.store.row import STATUSES, Row

HEADS = {
    "asr_before": "ASR before",
    "asr_after": "ASR after",
    "der": "DER",
    "target_utility_after": "target class",
    "held_utility_after": "held utility",
    "target_false_alarm": "false alarm in target",
    "seconds": "seconds",
}
"""Of the columns that are not called what they are."""
PRINTED = (*LABELS, "n", *SCORES, "seconds", "flags")
"""Of the text, where all are asked for."""
SHOWN = (*LABELS, "n", "utility_before", "utility_after", "asr_before", "asr_after", "target_utility_after", "flags")
"""Of the text, where none are named."""
_NAMED = re.compile(r"(\S+/\S+ width=\S+|\S+)(?: (.*))?", re.DOTALL)
"""A label: the name, and the fields that tell it from others of this name."""
_NUMBERS = re.compile(r"\d+\.?\d*|\D+")


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
    *,
    columns: Sequence[str] = (),
    wide: bool = False,
) -> str:
    """The table as text, markdown or LaTeX (all in percent), or CSV (0 to 1, full precision), with these columns, or all if it
    is `wide`. Raises BadInput for a column that there is not.

    A model that lost the target class, or all of its utility, has a high DER: by that column such groups come last."""
    records = groups(rows, bounds)
    for name in (*columns, *([sort.removeprefix("-")] if sort else [])):
        if name not in (*COLUMNS, "flags"):
            raise BadInput(unknown("column", name, (*COLUMNS, "flags")))
    by_fields, texts = legend(records)
    pairs = list(zip(records, texts, strict=True))
    asked = (sort or "").removeprefix("-")
    if sort:
        values = {id(r): flags(r) if asked == "flags" else r[asked] for r in records}
        known = [pair for pair in pairs if values[id(pair[0])] is not None]
        known.sort(key=lambda pair: values[id(pair[0])], reverse=sort.startswith("-"))
        pairs = known + [pair for pair in pairs if values[id(pair[0])] is None]
        if asked == "der":
            pairs.sort(key=lambda pair: spoilt(pair[0]))
    if form == "csv":
        names = columns or (*COLUMNS, "flags")
        return to_csv(names, [[flags(r) if name == "flags" else r[name] for name in names] for r, _ in pairs])
    if not records:
        return page(form, ["no finished row"], "", others(rows))
    common = len({r["victim"] for r in records}) == 1
    names = columns or [name for name in PRINTED if _wanted(name, records, wide, asked) and not (common and name == "victim")]
    lines = [[text[name] if name in LABELS else _cell(r, name, intervals) for name in names] for r, text in pairs]
    keys = next((at for at, name in enumerate(names) if name not in LABELS), len(names))
    body = align([head(name) for name in names], lines, form, [_side(name) for name in names], max(1, keys))
    said = [*used(by_fields, lines), *notes(records, bounds, intervals, asked), *others(rows)]
    return page(form, [_top(rows, records)], body, said)


def matrix(rows: pa.Table, value: str, form: str = "text", bounds: Bounds = USUAL) -> str:
    """One value of every attack, a line each, against every defense, a column each, in the forms of `render`. Raises BadInput
    for a value that there is not."""
    if value not in (*SCORES, "n", "seconds"):
        raise BadInput(unknown("value", value, (*SCORES, "n", "seconds")))
    records = groups(rows, bounds)
    if not records and form != "csv":
        return page(form, ["no finished row"], "", others(rows))
    by_fields, texts = legend(records)
    if form == "csv":
        texts = [{name: record[name] for name in LABELS} for record in records]
    labels = ("attack",) if len({r["victim"] for r in records}) == 1 else ("victim", "attack")
    defenses = sorted({text["defense"] for text in texts}, key=_natural)
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for r, text in zip(records, texts, strict=True):
        place = (*(text[name] for name in labels), NOT_PLANTED if r["planted"] is False else "")
        star = " *" if r["class_lost"] or r["utility_lost"] else ""
        found.setdefault(place, {})[text["defense"]] = r[value] if form == "csv" else _cell(r, value) + star
    keys = len(labels) + any(place[-1] for place in found)
    heads = [*labels, "flags"][:keys] + defenses
    lines = [[*place[:keys], *(cells.get(name, "") for name in defenses)] for place, cells in found.items()]
    if form == "csv":
        return to_csv(heads, lines)
    body = align(heads, lines, form, ["left"] * keys + ["right"] * len(defenses), keys)
    any_lost = any(text.endswith("*") for line in lines for text in line)
    lost = ["*: the target class, or the utility, was lost: the ASR of such a model says nothing"] if any_lost else []
    said = [*used(by_fields, [heads, *lines]), *lost, *notes(records, bounds), *others(rows)]
    return page(form, [f"{head(value)} by attack and defense; {_top(rows, records)}"], body, said)


def head(name: str) -> str:
    """What stands above a column; no two have the same."""
    return HEADS.get(name, name.replace("_", " "))


def _side(name: str) -> str:
    return "left" if name in (*LABELS, "flags") else "right"


def _wanted(name: str, records: list[dict[str, Any]], wide: bool, asked: str) -> bool:
    """Whether a column is shown where none are named: the DER, for one, says nothing that its four columns do not."""
    if name in SHOWN or name == asked:
        return True
    return wide and any(record[name] is not None for record in records)


def _cell(record: dict[str, Any], name: str, intervals: bool = False) -> str:
    """A value as a person reads it, shares in percent."""
    if name == "n":
        return size(record["counts"])
    if name == "flags":
        return flags(record)
    if name in SCORES:
        return scored(record, name, intervals)
    value = record[name]
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if name.startswith("seconds"):
        return f"{value:.1f}"
    return percent(value) if isinstance(value, float) else str(value)


def _top(rows: pa.Table, records: list[dict[str, Any]]) -> str:
    """Whose numbers these are, and of what."""
    victims = {r["victim"] for r in records}
    utility = " or ".join(sorted(set(rows["utility_name"].to_pylist())))
    return "; ".join([*(victims if len(victims) == 1 else ()), "percent", f"utility is {utility}"])


def legend(records: list[dict[str, Any]]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Of each record the labels, with a number for the fields that differ, and these fields by such a label: `nft #1` is
    `lr=0.1`. The numbers follow the order of the fields' values, however the records are sorted."""
    fields_of: dict[str, str] = {}
    texts: list[dict[str, str]] = [{} for _ in records]
    for label in LABELS:
        short, fields = numbered(record[label] for record in records)
        fields_of |= fields
        for record, text in zip(records, texts, strict=True):
            text[label] = short[record[label]]
    return fields_of, texts


def numbered(labels: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Of each label its name, with a number where fields follow it; and the fields by the former."""
    short: dict[str, str] = {}
    fields_of: dict[str, str] = {}
    counts = Counter[str]()
    for whole in sorted(set(labels), key=_natural):
        match = _NAMED.fullmatch(whole)
        name, fields = match.groups() if match else (whole, None)
        short[whole] = name
        if fields:
            counts[name] += 1
            short[whole] = f"{name} #{counts[name]}"
            fields_of[short[whole]] = fields
    return short, fields_of


def _natural(text: str) -> list[tuple[bool, float, str]]:
    """A key by which 2 comes before 10."""
    return [(not p[0].isdecimal(), float(p) if p[0].isdecimal() else 0.0, p) for p in _NUMBERS.findall(text)]


def used(by_label: dict[str, str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A legend, of what is shown."""
    shown_ones = {text for line in lines for text in line}
    return [f"{label}: {fields}" for label, fields in by_label.items() if label in shown_ones]


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
    said = ", ".join(map(flags, records))
    budget = f"fell by more than {100 * bounds.class_budget:g} points"
    for words, meaning in (
        (NOT_PLANTED, f"ASR before below {100 * bounds.planted:g} %, so that there is nothing to clean; a group of its own"),
        (CLASS_LOST, f"utility on the target class {budget}: an ASR of such a model says nothing; k/n: in so many rows"),
        (UTILITY_LOST, f"utility {budget}"),
        (UNSEPARATED, f"what the filter takes for poison lies less than {SEPARATED:g} apart from the rest, a guess"),
    ):
        if words in said:
            found.append(f"{words}: {meaning}")
    if asked == "der" and any(map(spoilt, records)):
        found.append("sorted by DER, with what did not plant or lost a class or utility last: the DER takes it for clean")
    return found


def others(rows: pa.Table) -> list[str]:
    """A line on the rows that are not in the table."""
    statuses = rows["status"].to_pylist()
    found = [f"{statuses.count(s)} {s}" for s in STATUSES if s != "done" and s in statuses]
    return [f'not shown: {", ".join(found)}; their reasons: --sql "SELECT key, status, error FROM rows"'] if found else []


def query(rows: pa.Table, sql: str, form: str = "text", bounds: Bounds = USUAL) -> str:
    """The answer of DuckDB to one SELECT over the table `rows`, which also has the columns `planted`, `class_lost`,
    `utility_lost` and `unseparated`. Raises BadInput: see `select`."""
    table = select(marked(rows, bounds), sql)
    heads = table.column_names
    columns = [_values(name, column) for name, column in zip(heads, table.columns, strict=True)]
    if form == "csv":
        return to_csv(heads, [list(line) for line in zip(*columns, strict=True)])
    numbers = [all(isinstance(v, int | float | None) for v in column) for column in columns]
    texts = [["" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in column] for column in columns]
    return align(heads, [list(line) for line in zip(*texts, strict=True)], form, ["right" if n else "left" for n in numbers])


def _values(name: str, column: pa.ChunkedArray) -> list[Any]:
    """As Python's. Raises BadInput for what Python has not, such as a date in the year 290000."""
    try:
        return list(column.to_pylist())
    except (pa.ArrowException, ArithmeticError, ValueError) as error:
        raise BadInput(f"the column {name!r} of the answer: {error}; write {name}::text in the query") from None


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
    what = f"{row.task} {row.data} {row.model}, {row.attack}, {row.defense}, seed {row.seed}: {row.status} {row.error}".rstrip()
    counts = [
        f"n: {row.clean_tests} clean and {row.triggered_tests} triggered tests; trained on {row.trained_on}, {row.poisoned} "
        f"poisoned, {row.covered} cover; {row.clean_held} clean samples for the defense",
        f"victim {row.victim_seconds:.1f} s, defense {row.seconds:.1f} s, peak {row.peak_memory / 2**20:.0f} MiB, {row.device}",
    ]
    speaks = USUAL.flags(vars(row))
    flagged = [f"flags: {', '.join(speaks)}"] if speaks else []
    shown_ones = [text, *flagged, "", *map(prose, counts)] if row.status == "done" else []
    out = [prose(what), "", *shown_ones, f"row {safe(row.key)}, victim {safe(row.victim)}"]
    if before is not None and before["status"] == "done":
        gaps = [abs((before[f"{n}_after"] or 0) - (_number(getattr(row, f"{n}_after")) or 0)) for n in names]
        stored = f"utility {percent(before['utility_after'])}, ASR {percent(before['asr_after'])}"
        out.append(f"stored before: {stored}; largest difference {100 * max(gaps):.2f} points")
    return "\n".join(out)


def _number(value: float) -> float | None:
    return None if value != value else value
