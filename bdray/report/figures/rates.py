"""Fig. 7 of AdvrBD (arXiv 2405.12719): utility and ASR after the defense over its partition rate.

bdray figure rates SWEEP --out FILE.png
"""

from typing import Any

from bdray.report.figures import Figure, _panels
from bdray.report.figures._groups import ends, groups_of
from bdray.store.store import Store

DEFENSE = "advrbd"


def figure(rows: list[dict[str, Any]], store: Store) -> Figure:
    """From the rows: a line a group. The number of iterations may go with the rate, as where their product is held."""
    pairs = {(row["config"]["defense"]["partition_rate"], row["config"]["defense"]["iterations"]) for row in rows}
    tied = len(pairs) == len({rate for rate, _ in pairs})
    records: list[dict[str, Any]] = []
    drawn: dict[str, dict[str, dict[float, list[float]]]] = {"utility_after": {}, "asr_after": {}}
    for group in groups_of(rows, ("partition_rate", "iterations") if tied else ("partition_rate",)):
        for rate in sorted({row["config"]["defense"]["partition_rate"] for row in group.rows}):
            alike = [row for row in group.rows if row["config"]["defense"]["partition_rate"] == rate]
            values = {name: [row[name] for row in alike if row[name] is not None] for name in drawn}
            for name, panel in drawn.items():
                panel.setdefault(group.name, {})[rate] = values[name]
            record = {"group": group.name, "rate": rate, "iterations": alike[0]["config"]["defense"]["iterations"]}
            records.append({**record, "n": len(alike), **ends(values)})
    heads = {"group": "attack", "rate": "partition rate", "iterations": "iterations", "n": "n"}
    titles = {"utility_after": "utility", "asr_after": "ASR"}
    both = [(titles[name], series) for name, series in drawn.items()]
    return Figure(
        "percent after the defense, mean [least, most] over n seeds",
        heads | titles,
        records,
        [],
        lambda: _panels.lines(both, "partition rate", ["utility after, %", "ASR after, %"], log=True),
    )
