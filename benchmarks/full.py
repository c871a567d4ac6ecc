"""AdvrBD's eight attacks at full size on one accelerator, without Ray: CIFAR-10, ResNet-18, its paper's attack settings,
against `none`, AdvrBD, NFT, fine-tuning and ABL, in that order as far as the minutes reach. The same command goes on where it
stopped.

Every row is written to the store at once, and all of them to one Parquet file; the table gives clean accuracy, images a second
of the victim's training, and the seconds of each of AdvrBD's stages.

    python benchmarks/full.py --store DIR --data DIR --out rows.parquet [--minutes 25] [--images 0] [--width 64] [--epochs 30]
"""

import argparse
import time
from pathlib import Path

import pyarrow.parquet as pq
from _measure import machine, markdown, stages

from bdray.experiment import Experiment, run
from bdray.results import Row, to_table
from bdray.spec import Config
from bdray.store import Store

ATTACKS = ("badnets", "blend", "sig", "wanet", "physical", "tact", "adaptive_blend", "adaptive_patch")
DEFENSES = ("none", "advrbd", "nft", "fine_tuning", "abl")


def config(attack: str, defense: str, options: argparse.Namespace) -> Config:
    """One cell. The recipe is the one whose accuracy is known in the field: SGD, one cycle, crop and mirror."""
    return {
        "task": {
            "name": "image",
            "data": {"name": "cifar10", "limit": options.images},
            "model": {"name": "resnet18", "width": options.width},
        },
        "training": {"epochs": options.epochs, "lr": 0.1, "schedule": "onecycle", "precision": "bfloat16"},
        "attack": {"name": attack, "preset": "advrbd"},
        "defense": defense,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="a Parquet file of all rows")
    parser.add_argument("--minutes", type=float, default=25, help="none is begun that would end later")
    parser.add_argument("--images", type=int, default=0, help="of the training set, 0 for all")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    store, started, longest, rows = Store(options.store), time.monotonic(), dict.fromkeys(DEFENSES, 0.0), list[Row]()
    print(machine(), flush=True)
    for defense in DEFENSES:
        for attack in ATTACKS:
            expected = longest[defense] or max(longest.values())
            if time.monotonic() - started + expected > 60 * options.minutes:
                continue
            experiment = Experiment.of(config(attack, defense, options))
            try:
                row = run(experiment, store, options.data, "full")
            except (RuntimeError, ArithmeticError) as error:  # of this cell: its failed row is in the store
                print(f"{attack} {defense}: {error}", flush=True)
                continue
            rows.append(row)
            longest[defense] = max(longest[defense], row.seconds + (row.victim_seconds if defense == "none" else 0))
            pq.write_table(to_table(rows), options.out)
            print(
                f"{attack} {defense}: {row.status} {row.error} utility {row.utility_after:.4f} ASR {row.asr_after:.4f}",
                flush=True,
            )
    print(table(rows, store, options.epochs))


def table(rows: list[Row], store: Store, epochs: int) -> str:
    """What was asked, a line a row."""
    lines = []
    for row in rows:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages(store.table("curves", row.key)).items())
        scores = (row.utility_before, row.asr_before, row.utility_after, row.asr_after, row.target_utility_after)
        curve = store.table("curves", row.victim)
        times = [line["value"] for line in (curve.to_pylist() if curve else []) if line["metric"] == "seconds"]
        spent = times[-1] if times else row.victim_seconds
        images = f"{row.trained_on * epochs / spent:,.0f}"
        lines.append([row.attack, row.defense, *(f"{100 * v:.2f}" for v in scores), images, f"{row.seconds:.1f}", parts])
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
