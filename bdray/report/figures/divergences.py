"""Fig. 5 of AdvrBD (arXiv 2405.12719): how far poisoned and clean samples move at the first partition.

bdray figure divergences SWEEP --out FILE.png
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bdray.report.figures import Figure, _panels
from bdray.report.figures._groups import groups_of, read, spread
from bdray.store.store import Store

DEFENSE = "advrbd"


def figure(rows: list[dict[str, Any]], store: Store) -> Figure:
    """From the tables of divergences: a panel a group, the samples of all its seeds together."""
    tables, notes = read("divergences", rows, store)
    records, drawn = [], []
    for group in groups_of([row for row in rows if row["key"] in tables]):
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
        told = f"AUROC {spread(group, [record['auroc'] for record in found])}"
        in_target = spread(group, [record["target_auroc"] for record in found])
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
    return Figure(about, heads, records, notes, lambda: _panels.histograms(drawn))


def _parts(table: pa.Table, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The divergences of poisoned, of clean, and of the clean samples of the target class; cover samples are clean."""
    moved, poisoned = table["divergence"].to_numpy(), table["truth_poisoned"].to_numpy()
    return moved[poisoned], moved[~poisoned], moved[~poisoned & (table["label"].to_numpy() == target)]


def auroc(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> float | None:
    """How well a threshold tells two groups apart: the share of pairs in which the one of `low` is the smaller, a tie counted
    half. 1: all of them, 0.5: as by chance; None where a group is empty."""
    if not len(low) or not len(high):
        return None
    others = np.sort(np.asarray(high, dtype=float))
    below, up_to = (np.searchsorted(others, low, side).mean() for side in ("left", "right"))
    return float(1 - (below + up_to) / 2 / len(others))
