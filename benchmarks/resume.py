"""Going on with a sweep of 20,000 cells: seconds until `bdray.launch.plan` has decided what is missing.

The rows are those that the sweep's own experiments would leave, without scores: 10 attacks x 20 seeds x 100 draws of NFT, 200
victims in the store. complete: all rows in one file, as a finished launch leaves them. killed: the last 500 rows are single
files, since a launch makes one file of them every 500 cells, and 500 rows are not there. new: no row is there, so that every
cell is checked. never compacted: every row a file of its own. Each plan is made in a process of its own, whose imports are not
counted, with the files in the page cache.

    python benchmarks/resume.py [--draws 100] [--repeats 3] [--singles] [--quick]
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from _measure import alone, machine, markdown, seconds
from ray import tune

from bdray.launch import plan
from bdray.launch.cells import AT_ONCE
from bdray.launch.expand import expand
from bdray.launch.sweep import Sweep
from bdray.run import unfinished_row
from bdray.store.row import Row, to_table
from bdray.store.store import Store

ATTACKS, SEEDS = 10, 20


def sweep_of(draws: int) -> Sweep:
    """Of so many draws."""
    nft = {"name": "nft", "shots": 2, "lr": tune.loguniform(0.005, 0.5), "alpha": tune.uniform(0.0, 1.0)}
    space = {
        "task": {"name": "image", "data": {"name": "miniature", "held": 0.2}, "model": {"name": "resnet18", "width": 4}},
        "attack": tune.grid_search([{"name": "blend", "opacity": 0.1 + number / 100} for number in range(ATTACKS)]),
        "defense": nft,
        "seed": tune.grid_search(list(range(SEEDS))),
    }
    return Sweep(name="search", space=space, samples=draws)


def made(sweep: Sweep) -> list[Row]:
    """A row that says done of every experiment, in the order in which a launch would run them."""
    cells = sorted(expand(sweep), key=lambda cell: (cell.experiment.task.data.key(), cell.victim))
    return [dataclasses.replace(unfinished_row(cell.experiment, sweep.name, "done", "")) for cell in cells]


def put(store: Store, rows: list[Row], missing: int, singles: int) -> None:
    """All rows but the last few that are missing: one file, and single ones at the end; and every victim."""
    found = rows[: len(rows) - missing]
    with mock.patch("os.fsync"):  # only while the rows are made here: thousands of them take minutes otherwise
        if len(found) > singles:
            store.files.put_table("rows/search.0.parquet", to_table(found[: len(found) - singles]))
        for row in found[len(found) - singles :]:
            store.put_row(row)
        for key in {row.victim for row in rows}:
            store.put_victim(key, {"model": {"weight": torch.zeros(1)}}, {"key": key})


def planned(folder: str, draws: int) -> dict[str, Any]:
    """Seconds of one plan, and what it found."""
    store, sweep = Store(folder), sweep_of(draws)
    found = []
    took = seconds(lambda: found.append(plan(sweep, store, Path(folder))))
    return {"seconds": took, "done": len(found[0].done), "missing": len(found[0].missing), "victims": len(found[0].victims)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="of the defense; each is 200 cells")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--singles", action="store_true", help="also with every row a file of its own")
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws, once")
    parser.add_argument("--alone", nargs=2, metavar=("FOLDER", "DRAWS"), help="print the measurement of one plan, as JSON")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(planned(options.alone[0], int(options.alone[1]))))
        return
    draws, repeats = (max(5, options.draws // 10), 1) if options.quick else (options.draws, options.repeats)
    print(machine())
    rows = made(sweep_of(draws))
    cases = [("complete", 0, 0), ("killed", AT_ONCE, AT_ONCE), ("new", 0, len(rows))]
    cases += [("never compacted", len(rows), 0)] * options.singles
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (case, singles, missing) in enumerate(cases):
            store = Store(f"{folder}/{number}")
            put(store, rows, missing, singles)
            plans = [json.loads(alone("--alone", store.uri, str(draws))) for _ in range(repeats)]
            for found in plans:
                assert (found["done"], found["missing"], found["victims"]) == (len(rows) - missing, missing, 0), found
            took = [found["seconds"] for found in plans]
            spread = f"{statistics.median(took):.2f} ({min(took):.2f} to {max(took):.2f})"
            head = [case, f"{len(rows):,}", f"{len(rows) - missing:,}", f"{singles:,}"]
            lines.append([*head, f"{missing:,}", str(repeats), spread])
    heads = ["plan of a sweep", "cells", "rows", "of them single files", "missing", "n", "seconds, median (least to most)"]
    print(markdown(heads, lines))


if __name__ == "__main__":
    main()
