"""Fig. 6 of AdvrBD (arXiv 2405.12719): utility and ASR of the enhanced model along the iterations.

bdray figure enhancement SWEEP --out FILE.png
"""

from typing import Any

import pyarrow.compute as pc

from bdray.report.figures import Figure, _panels
from bdray.report.figures._groups import ends, groups_of, read
from bdray.store.store import Store

DEFENSE = "advrbd"
METRICS = {
    "utility": "utility",
    "asr": "ASR",
    "target_utility": "target",
    "clean_precision": "precision",
    "clean_recall": "recall",
}
"""Of a curve of the truth: of the enhanced model, and of the samples taken for clean so far."""


def figure(rows: list[dict[str, Any]], store: Store) -> Figure:
    """From the curves of the truth, which are judged on a part of the test set: a panel a group. Step 0 is the model
    after the warm-up; a step beyond the iterations is another model."""
    curves, notes = read("curves", rows, store)
    records, drawn = [], []
    for group in groups_of([row for row in rows if row["key"] in curves]):
        found: dict[str, dict[float, list[float]]] = {name: {} for name in METRICS}
        for row in group.rows:
            last = row["config"]["defense"]["iterations"]
            for point in curves[row["key"]].filter(pc.field("step") <= last).to_pylist():
                if point["metric"] in METRICS and point["value"] == point["value"]:
                    found[point["metric"]].setdefault(point["step"], []).append(point["value"])
        for step in sorted({step for series in found.values() for step in series}):
            values = {name: series.get(step, []) for name, series in found.items()}
            records.append({"group": group.name, "iteration": step, "n": max(map(len, values.values())), **ends(values)})
        drawn.append((f"{group.name} (n = {group.size})", {METRICS[name]: series for name, series in found.items()}))
    about = (
        "percent, mean [least, most] over n seeds: utility, ASR and utility of the target class of the enhanced model, on a "
        "part of the test set; precision and recall of the samples taken for clean so far"
    )
    heads = {"group": "attack", "iteration": "iteration", "n": "n", **METRICS}
    return Figure(about, heads, records, notes, lambda: _panels.lines(drawn, "iteration", ["%"]))
