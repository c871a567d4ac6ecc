"""Wall seconds of the whole command `bdray table` over a store of 20,000 rows, process start included.

The rows are those of a search: 4 attacks at 2 rates, 500 settings of a defense, 5 seeds, with real specs. They stand in one
compacted file, as a finished sweep leaves them, or in 20,000 single files, as one that was cut off does (--singles).

    python benchmarks/table.py [--rows 20000] [--repeats 3] [--singles]
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime

from _measure import machine, markdown, seconds

from bdray.experiment import Experiment
from bdray.spec import key_of
from bdray.store.row import Row, setting_of, to_table
from bdray.store.store import Store


def rows(count: int) -> list[Row]:
    """Rows with scores drawn at random."""
    rng, found = random.Random(0), []
    for draw in range(count):
        seed, rest = draw % 5, draw // 5
        attack = {"name": ("badnets", "blend", "sig", "wanet")[rest % 4], "rate": (0.05, 0.1)[rest // 4 % 2]}
        setting = random.Random(rest // 8)
        nft = {
            "name": "nft",
            "lr": 10 ** setting.uniform(-2.5, -0.5),
            "alpha": setting.random(),
            "shots": setting.choice((0, 1)),
        }
        task = {"name": "image", "data": {"name": "cifar10", "limit": 13334}, "model": {"name": "resnet18", "width": 8}}
        experiment = Experiment.of({"task": task, "attack": attack, "defense": nft if rest // 8 else "none", "seed": seed})
        config = experiment.config()
        names = ("utility", "asr", "recovery", "target_utility")
        scores = {f"{name}_{when}": rng.random() for name in names for when in ("before", "after")}
        found.append(
            Row(
                key=key_of(config),
                setting=setting_of(config),
                victim=experiment.victim_key(),
                sweep="search",
                status="done",
                task="image",
                data="cifar10",
                model="resnet18",
                attack=experiment.attack.name,
                defense=experiment.defense.name,
                seed=seed,
                utility_name="accuracy",
                **scores,
                held_utility_after=rng.random(),
                clean_tests=10000,
                triggered_tests=9000,
                clean_held=120,
                trained_on=12001,
                poisoned=1200,
                victim_seconds=300 * rng.random(),
                seconds=30 * rng.random(),
                peak_memory=rng.randrange(2**30),
                device="cpu x1",
                host=f"node{rng.randrange(8)}",
                bdray_version="0.1.0",
                torch_version="2.11.0",
                python_version="3.11.7",
                commit="0123456789ab",
                time=datetime.now(UTC),
                spec=json.dumps(config, sort_keys=True),
            )
        )
    assert len({row.key for row in found}) == count
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--singles", action="store_true", help="also over single files")
    options = parser.parse_args()
    print(machine())
    made = rows(options.rows)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        one, many = Store(f"{folder}/one"), Store(f"{folder}/many")
        one.files.put_table("rows/search.0.parquet", to_table(made))
        commands = [(one, "1", []), (one, "1", ["--csv"]), (one, "1", ["attack=blend", "--sort", "asr_after"])]
        if options.singles:
            os.fsync = lambda _: None  # only while the rows are made here: 20,000 of them take minutes otherwise
            for row in made:
                many.put_row(row)
            commands.append((many, f"{len(made):,}", []))
        for store, files, words in commands:
            call = [sys.executable, "-m", "bdray", "table", *words, "--store", store.uri]
            found = [seconds(lambda: subprocess.run(call, stdout=subprocess.PIPE, check=True)) for _ in range(options.repeats)]  # noqa: B023
            spread = f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            lines.append([" ".join(["bdray table", *words]), f"{len(made):,}", files, str(len(found)), spread])
        if options.singles:
            took = seconds(lambda: many.compact("search"))
            lines.append(["(making one file of them)", f"{len(made):,}", f"{len(made):,}", "1", f"{took:.2f}"])
    print(markdown(["command", "rows", "files", "n", "seconds, median (least to most)"], lines))


if __name__ == "__main__":
    main()
