"""The rows beside what a paper has published: one line an experiment, what our seeds showed and n next to the printed number,
and what was measured on other samples or on another scale. Imports no torch."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bdray.judge.validity import USUAL, Bounds, size
from bdray.layout import align, page, to_csv
from bdray.report.groups import FLAGS, LABELS, averages, flags
from bdray.report.papers import TRAINING_SAMPLES, WIDTHS, Cell, Paper
from bdray.report.table import legend, notes, others, scored, used
from bdray.spec import Config

OUTSIDE = "utility_after_outside_target"
"""Our accuracy after a defense without the samples of the target class."""
SCORES = ("utility_before", "utility_after", OUTSIDE, "asr_before", "asr_after")
COUNTS = ("trained_on", "clean_tests", "triggered_tests")
HEADS = {
    "utility_before": "accuracy before",
    "paper_utility_before": "paper's accuracy before",
    "utility_after": "accuracy after",
    OUTSIDE: "outside the target",
    "paper_utility_after": "paper's accuracy after",
    "asr_before": "ASR before",
    "paper_asr_before": "paper's ASR before",
    "asr_after": "ASR after",
    "paper_asr_after": "paper's ASR after",
}
"""Of the text; each of the paper's stands right of ours that it goes with."""
COLUMNS = (
    *LABELS,
    "data",
    "model",
    "n",
    "victims",
    "planted",
    *FLAGS,
    "rate",
    "paper_rate",
    "paper_table",
    *(column for name in HEADS for column in ((name,) if name.startswith("paper") else (name, f"{name}_spread"))),
    "width",
    "epochs",
    *COUNTS,
    "paper_tests_before",
    "paper_tests_after",
)
"""Of a line, and of the CSV."""


class Published:
    """The cells of a paper, found by an experiment's dict."""

    def __init__(self, paper: Paper) -> None:
        self.cells, self._own = paper.cells(), paper.own
        self._alike: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
        for cell in self.cells:
            self._alike[cell.data, cell.model, cell.attack].append(cell)

    def beside(self, config: Config) -> Cell | None:
        """The cell with the same data set, model, attack and defense, of the nearest poison rate; an attack of rate 0 is
        none, and a defense with a remedy of ours is not the published one."""
        task, attack, defense = config["task"], config["attack"], config["defense"]
        if any(defense.get(name, value) != value for name, value in self._own.get(defense["name"], {}).items()):
            return None
        rate = attack.get("rate", 0.0)
        alike = self._alike.get((task["data"]["name"], task["model"]["name"], attack["name"] if rate else "none"), [])
        fits = [cell for cell in alike if cell.defense == defense["name"] and cell.setting.items() <= defense.items()]
        return min(fits, key=lambda cell: (round(abs(cell.rate - rate), 9), cell.rate), default=None)

    def undefended(self, cell: Cell) -> Cell | None:
        """The same victim's cell without a defense, if that was published."""
        alike = self._alike[cell.data, cell.model, cell.attack]
        return next((other for other in alike if other.defense == "none" and other.rate == cell.rate), None)


@dataclass(frozen=True)
class Comparison:
    """One record with COLUMNS each, in the order of the paper. Ours are 0 to 1, the paper's texts in percent, as printed; None
    where there is none."""

    records: list[dict[str, Any]]
    lacking: list[dict[str, Any]]
    """Published experiments that none of ours stands beside; n is 0."""
    unpublished: int
    """Experiments of ours that the paper does not have."""
    published: int


def compare(rows: pa.Table, paper: Paper, bounds: Bounds = USUAL) -> Comparison:
    """Every experiment of the finished rows that the paper has, too; victims that did not plant apart."""
    published = Published(paper)
    order = {id(cell): place for place, cell in enumerate(published.cells)}
    done = rows.filter(pc.field("status") == "done")
    specs = dict(zip(done["setting"].to_pylist(), done["spec"].to_pylist(), strict=True))
    shared = [setting for setting, spec in specs.items() if published.beside(json.loads(spec)) is not None]
    done = done.append_column(OUTSIDE, pa.array(outside_target(done), pa.float64()))
    done = done.filter(pc.is_in(done["setting"], pa.array(shared, pa.string())))
    found, used = [], set()
    for config, ours in averages(done, (*SCORES, "trained_on"), bounds):
        cell = published.beside(config)
        assert cell is not None
        record = _published(paper, cell, published.undefended(cell))
        record |= {name: ours[name] for name in (*LABELS, "n", "victims", "counts", "planted", *FLAGS)}
        record["values"] = {}
        for name in SCORES if cell.defense != "none" else ("utility_before", "asr_before"):
            record |= {name: ours[name], f"{name}_spread": ours[f"{name}_spread"]}
            record["values"][name] = ours["values"][name]
        record |= {name: round(ours[name]) for name in COUNTS}
        record |= {"rate": config["attack"].get("rate"), "epochs": config["training"]["epochs"]}
        record["width"] = config["task"]["model"].get("width")
        found.append((order[id(cell)], record))
        used |= {id(cell), id(published.undefended(cell))}
    lacking = [_published(paper, cell, published.undefended(cell)) for cell in published.cells if id(cell) not in used]
    found.sort(key=lambda item: (item[0], *(item[1][name] for name in LABELS), item[1]["planted"] is False))
    return Comparison([record for _, record in found], lacking, len(specs) - len(shared), len(published.cells))


def _published(paper: Paper, cell: Cell, undefended: Cell | None) -> dict[str, Any]:
    """The line of a published cell, ours still empty."""
    record: dict[str, Any] = {**dict.fromkeys(COLUMNS), "values": {}, "counts": []}
    fields = [f"{path}={json.dumps(value)}" for path, value in cell.setting.items()]
    record |= {"victim": f"{cell.data}/{cell.model}", "attack": cell.attack, "defense": " ".join([cell.defense, *fields])}
    record |= {"data": cell.data, "model": cell.model, "n": 0, "paper_rate": cell.rate, "paper_table": cell.table}
    before, after = paper.tests.get(cell.data, (None, None))
    if undefended is not None:
        record |= {"paper_utility_before": undefended.accuracy, "paper_asr_before": undefended.asr}
        record["paper_tests_before"] = before
    if cell is not undefended:
        record |= {"paper_utility_after": cell.accuracy, "paper_asr_after": cell.asr, "paper_tests_after": after}
    return record


def outside_target(rows: pa.Table) -> list[float | None]:
    """Of each row the accuracy after the defense on the clean test samples outside the target class.

    That class has as many as there are clean tests without a triggered one, where the attack counts every sample outside it;
    one that counts those of its source class has as many as another attack on the same data and target.
    """
    columns = ("setting", "spec", "utility_after", "target_utility_after", "clean_tests", "triggered_tests")
    values = rows.select(columns).to_pylist()
    places, counts = {}, {}
    for row in values:
        if row["setting"] not in places:
            config = json.loads(row["spec"])
            place = (json.dumps(config["task"]["data"], sort_keys=True), config["attack"].get("target"))
            places[row["setting"]] = place
            if "source" not in config["attack"]:
                counts[place] = row["clean_tests"] - row["triggered_tests"]
    out: list[float | None] = []
    for row in values:
        whole, inside = row["utility_after"], row["target_utility_after"]
        tests, count = row["clean_tests"], counts.get(places[row["setting"]])
        known = None not in (whole, inside, count) and tests > count
        out.append((whole * tests - inside * count) / (tests - count) if known else None)
    return out


def render(rows: pa.Table, paper: Paper, lacking: bool = False, form: str = "text", bounds: Bounds = USUAL) -> str:
    """Text, markdown (both in percent) or CSV (0 to 1, full precision). `lacking`: also what none of ours stands beside."""
    found = compare(rows, paper, bounds)
    records = found.records + (found.lacking if lacking else [])
    if form == "csv":
        return to_csv(COLUMNS, [[_share(name, record[name]) for name in COLUMNS] for record in records])
    top = f"{paper.title} (arXiv {paper.arxiv}), {paper.tables}; the paper's numbers are as printed"
    victims = {record["victim"] for record in records}
    ours = f"{min(victims)}; " if len(victims) == 1 else ""
    named, texts = legend(records)
    body = _lines(records, texts, paper, form) if records else ""
    said = [*notes(found.records, bounds, by_interval=False), *_notes(found, paper, lacking), *others(rows)]
    said += used(named, [list(text.values()) for text in texts])
    return page(form, [top, f"{ours}percent; tests: clean, triggered"], body, said)


def _lines(records: list[dict[str, Any]], texts: list[dict[str, str]], paper: Paper, form: str) -> str:
    """The table itself."""
    labels = LABELS if len({r["victim"] for r in records}) > 1 else LABELS[1:]
    shown = [name for name in HEADS if any(r[name] is not None for r in records) and (name != OUTSIDE or paper.drops_target)]
    flagged = any(_flags(r) for r in records)
    heads = [*labels, "n", "rate", "paper's rate", *(HEADS[name] for name in shown), "tests", *(["flags"] if flagged else [])]
    lines = [
        [
            *(text[label] for label in labels),
            size(r["counts"]),
            *("" if r[name] is None else f"{r[name]:g}" for name in ("rate", "paper_rate")),
            *(r[name] or "" if name.startswith("paper") else scored(r, name) if name in r["values"] else "" for name in shown),
            f"{r['clean_tests']}, {r['triggered_tests']}" if r["n"] else "",
            *([_flags(r)] if flagged else []),
        ]
        for r, text in zip(records, texts, strict=True)
    ]
    aligns = ["left"] * len(labels) + ["right"] * (len(heads) - len(labels) - flagged) + ["left"] * flagged
    return align(heads, lines, form, aligns, len(labels))


def _flags(record: dict[str, Any]) -> str:
    """What speaks against ours; nothing does where there is none."""
    return flags(record) if record["n"] else ""


def _notes(found: Comparison, paper: Paper, all_shown: bool) -> Iterator[str]:
    """On what scale and on which samples the two were measured, and what is not beside one another."""
    for ours in {record["victim"]: record for record in found.records}.values():
        width, samples = WIDTHS.get(ours["model"]), TRAINING_SAMPLES.get(ours["data"])
        yield (
            f"{ours['victim']}: {ours['epochs']} epochs on {ours['trained_on']} training samples"
            + (f" of {samples} published" if samples else "")
            + (f", width {ours['width']} of {width} published" if width and ours["width"] else "")
        )
    outside = ", those outside the target class, as ours under 'outside the target'" if paper.drops_target else ""
    for data in dict.fromkeys(record["data"] for record in found.records if record["data"] in paper.tests):
        before, after = paper.tests[data]
        yield f"{data}: the paper's numbers fit fractions of {before} tests before a defense and of {after} after it{outside}"
    if found.records:
        yield from paper.notes
    more = "; --all shows them" if found.lacking and not all_shown else ""
    yield (
        f"{len(found.records)} of our {len(found.records) + found.unpublished} experiments are in the paper; "
        f"{len(found.lacking)} of the paper's {found.published} are not among ours{more}"
    )


def _share(name: str, value: Any) -> Any:
    """Of a score that was printed in percent; anything else as it is."""
    return round(float(value) / 100, 6) if name in HEADS and isinstance(value, str) else value
