"""Cells without Ray, on one machine that may lack it: several processes take them from a list. By itself the list is AdvrBD's
eight attacks at full size (CIFAR-10, ResNet-18, its paper's attack settings) against `none`, AdvrBD, NFT, fine-tuning, AdvrBD
with our remedy and ABL, in that order as far as the minutes reach. The same command goes on where it stopped.

Every row is written to the store at once, and all of them to one Parquet file; the table gives clean accuracy, images a second
of the victim's training, and the seconds of each of AdvrBD's stages.

    python benchmarks/full.py --store DIR --data DIR --out rows.parquet [--minutes 25] [--processes 1] [--images 0] [--width 64]
        [--epochs 10] [--batch 512] [--defenses none advrbd] [--attacks blend badnets]
    python benchmarks/full.py --store DIR --data DIR --out rows.parquet --sweep NAME --cells FILE

FILE holds an experiment's dict as JSON a line; a sweep of the same NAME finds its cells done.

One process a GPU is best: several wait for each other there, and one with batches of 512 keeps it busy.
"""

import argparse
import json
import multiprocessing
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import pyarrow.parquet as pq
from _measure import machine, markdown, stages

from bdray.bench import load
from bdray.experiment import Experiment
from bdray.run import run
from bdray.spec import BadInput, Config
from bdray.store.refusal import Refused
from bdray.store.row import Row, to_table
from bdray.store.store import Store

ATTACKS = ("badnets", "blend", "sig", "wanet", "physical", "tact", "adaptive_blend", "adaptive_patch")
ADVRBD: Config = {"name": "advrbd", "batch": 256}
"""The defaults, in fewer and larger steps; so is ABL, in epochs that fit."""
DEFENSES: dict[str, Config] = {
    "none": {"name": "none"},
    "advrbd": ADVRBD,
    "nft": {"name": "nft"},
    "fine_tuning": {"name": "fine_tuning"},
    "remedy": {**ADVRBD, "preset": "remedy"},
    "abl": {"name": "abl", "batch": 512, "finetuning_epochs": 15, "finetuning_drop": 10},
}


def grid(options: argparse.Namespace) -> list[Config]:
    """The cells by themselves. The recipe is one whose accuracy is known in the field: SGD, one cycle, crop and mirror; the
    rate goes with the batch."""
    rate = 0.1 * options.batch / 128
    training = {"epochs": options.epochs, "batch": options.batch, "lr": rate, "schedule": "onecycle", "precision": "bfloat16"}
    model = {"name": "resnet18", "width": options.width}
    task = {"name": "image", "data": {"name": "cifar10", "limit": options.images}, "model": model}
    return [
        {"task": task, "training": training, "attack": {"name": attack, "preset": "advrbd"}, "defense": DEFENSES[defense]}
        for defense in options.defenses
        for attack in options.attacks
    ]


def work(config: Config, store: str, data: Path, sweep: str) -> tuple[Row | None, str]:
    """One cell in a process of its own, whose data its parent has read: the row, and what is to be said of it."""
    import torch

    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    experiment = Experiment.of(config)
    said = f"{experiment.attack.name} {config['defense']}"
    try:
        row = run(experiment, Store(store), data, sweep)
    except Refused:
        raise
    except (RuntimeError, ArithmeticError, BadInput) as error:  # of this cell: its failed row is in the store
        return None, f"{said}: {type(error).__name__}: {error}"
    scores = f"utility {row.utility_after:.4f} ASR {row.asr_after:.4f} target {row.target_utility_after:.4f}"
    return row, f"{said}: {row.status} {row.error} {scores} flagged {row.flag_recall:.3f} {row.false_alarm:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="a Parquet file of all rows")
    parser.add_argument("--minutes", type=float, default=25, help="none is begun that would end later")
    parser.add_argument("--sweep", default="advrbd_full", help="the rows' folder")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--cells", type=Path, help="a file of experiments, one a line, instead")
    parser.add_argument("--images", type=int, default=0, help="of the training set, 0 for all")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=ATTACKS)
    parser.add_argument("--defenses", nargs="+", default=list(DEFENSES), choices=list(DEFENSES))
    options = parser.parse_args()
    started = time.monotonic()
    cells = grid(options)
    if options.cells:
        cells = [Experiment.of(json.loads(line)).config() for line in options.cells.read_text().splitlines()]
    for data in {Experiment.of(cell).task.data for cell in cells}:
        load(data, options.data)  # read once, before the processes are forked
    rows = taken(cells, options, started)
    print(table(rows, Store(options.store)))


def taken(cells: list[Config], options: argparse.Namespace, started: float) -> list[Row]:
    """The rows of the cells that could be done in time, in the order of their ends."""
    waiting, running, rows = list(cells), dict[Future[tuple[Row | None, str]], tuple[str, float]](), list[Row]()
    longest = dict[str, float]()
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("fork")) as pool:
        print(pool.submit(machine).result(), flush=True)
        while waiting or running:
            while waiting and len(running) < options.processes:
                cell = waiting.pop(0)
                kind = json.dumps(cell["defense"], sort_keys=True)
                expected = longest.get(kind, max(longest.values(), default=0.0))
                if time.monotonic() - started + expected <= 60 * options.minutes:
                    running[pool.submit(work, cell, options.store, options.data, options.sweep)] = kind, time.monotonic()
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                kind, began = running.pop(future)
                row, said = future.result()
                # What was in the store took no time now; a row of `none` is its victim.
                known = 0.0 if row is None else max(row.seconds, row.victim_seconds)
                longest[kind] = max(longest.get(kind, 0.0), known, time.monotonic() - began)
                print(f"{time.monotonic() - started:.0f} s {said}", flush=True)
                if row is not None:
                    rows.append(row)
                    pq.write_table(to_table(rows), options.out)
    return rows


def table(rows: list[Row], store: Store) -> str:
    """What was asked, a line a row."""
    lines = []
    for row in rows:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages(store.table("curves", row.key)).items())
        scores = (row.utility_before, row.asr_before, row.utility_after, row.asr_after, row.target_utility_after)
        curve = store.table("curves", row.victim)
        times = [line["value"] for line in (curve.to_pylist() if curve else []) if line["metric"] == "seconds"]
        spent, epochs = times[-1] if times else row.victim_seconds, json.loads(row.spec)["training"]["epochs"]
        images = f"{row.trained_on * epochs / spent:,.0f}"
        name = f"{row.defense} (remedy)" if json.loads(row.spec)["defense"].get("balanced") else row.defense
        lines.append([row.attack, name, *(f"{100 * v:.2f}" for v in scores), images, f"{row.seconds:.1f}", parts])
    heads = [
        "attack",
        "defense",
        "accuracy",
        "ASR",
        "accuracy after",
        "ASR after",
        "target after",
        "images/s",
        "s",
        "stages, s",
    ]
    return markdown(heads, lines)


if __name__ == "__main__":
    main()
