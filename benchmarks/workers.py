"""What two CPUs are worth: to one victim as two data-parallel workers, and to a sweep as two cells at a time.

A victim: ResNet-18 of width 16 on 32x32 images, batches of 128; seconds an epoch after the first, of one process with one
thread, one with two, and two with one each (training.workers=2), in turns. A sweep: cells of 20 NFT steps each on such a
victim, in a Ray of one CPU and in one of two; the whole launch with Ray running, and the cells alone, from the first row to
the last.

    python benchmarks/workers.py [--rounds 2] [--epochs 4] [--images 2000] [--cells 12] [--quick]
"""

import argparse
import contextlib
import functools
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
import torch
from _measure import in_turns, machine, markdown, ratio
from ray import tune

from bdray.experiment import Experiment
from bdray.launch import Sweep, launch, plan
from bdray.launch.connect import connected
from bdray.launch.victims import train_victims
from bdray.launch.watch.watch import Watch
from bdray.launch.work import Work
from bdray.needs import Needs
from bdray.spec import Config
from bdray.store.store import Store
from bdray.victim import backdoor

CLASSES, HELD = 4, 0.1
WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}


def victim(images: int, epochs: int, workers: int = 1) -> Config:
    """One that is trained on so many images."""
    data = {"name": "miniature", "size": 32, "per_class": round(images / CLASSES / (1 - HELD)), "held": HELD, "test_limit": 200}
    return {
        "task": {"name": "image", "data": data, "model": {"name": "resnet18", "width": 16}},
        "attack": "badnets",
        "training": {"epochs": epochs, "workers": workers},
    }


def epoch(config: Config, cpus: int) -> float:
    """Seconds of an epoch, trained on Ray Train: the median, without the first."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        experiment, store = Experiment.of(config), Store(folder)
        work = Work("victim", "benchmark", folder, folder, os.getcwd(), f"{folder}/ray", cpus=cpus)
        watch = Watch("victim", 0, stream=io.StringIO())
        with connected(None, store, Path(folder)) as resources:
            assert not train_victims(
                {experiment.victim_key(): experiment}, work, store, lambda _: Needs(cpus), resources, watch
            )
        table = store.table("curves", experiment.victim_key())
    assert table is not None
    ends = [row["value"] for row in table.to_pylist() if row["metric"] == "seconds"]
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def swept(images: int, cells: int, cpus: int) -> tuple[float, float]:
    """Seconds of a launch on so many CPUs, and of a cell from the first row to the last."""
    nft = {"name": "nft", "steps": 20, "clean": 0.05, "batch": 128, "seed": tune.grid_search(list(range(cells)))}
    sweep = Sweep(name="cores", space={**victim(images, 1), "defense": nft})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, running(cpus):
        store = Store(folder)
        backdoor(Experiment.of(victim(images, 1)), store, Path(folder))
        found, began = plan(sweep, store, Path(folder)), time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            assert launch(found, store, Path(folder)) == 0
        took = time.perf_counter() - began
        rows = sorted(stamp.timestamp() for stamp in store.rows("cores", ["time"])["time"].to_pylist())
    assert len(rows) == cells
    return took, (rows[-1] - rows[0]) / (cells - 1)


@contextlib.contextmanager
def running(cpus: int) -> Iterator[None]:
    """A Ray of so many CPUs."""
    ray.init(num_cpus=cpus, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=2000, help="of an epoch")
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="one round of 2 epochs of 256 images, 4 cells")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.epochs, options.images, options.cells = 1, 2, 256, 4
    torch.set_num_threads(1)
    print(machine())
    with running(2):
        ways: dict[str, Callable[[], float]] = {
            name: functools.partial(epoch, victim(options.images, options.epochs, workers), threads)
            for name, (workers, threads) in WAYS.items()
        }
        found = in_turns(ways, options.rounds)
    first = next(iter(WAYS))
    n = f"{options.rounds} x {options.epochs - 1} epochs of {options.images} images"
    lines = []
    for name, took in found.items():
        middle, least, most = ratio(found, first, name)
        lines.append([name, n, f"{statistics.median(took):.2f}", f"{middle:.2f} ({least:.2f} to {most:.2f})"])
    print(markdown(["one victim", "n", "s an epoch", "times faster: median (least to most)"], lines))
    cores = {cpus: swept(options.images, options.cells, cpus) for cpus in (1, 2)}
    lines = []
    for cpus, (whole, each) in cores.items():
        times = [f"{cores[1][at] / value:.2f}" for at, value in enumerate((whole, each))]
        lines.append([f"{cpus} CPUs", f"1 x {options.cells} cells", f"{whole:.1f}", times[0], f"{each:.2f}", times[1]])
    heads = ["one sweep", "n", "the launch, s", "times faster", "a cell, s", "times faster"]
    print("\n" + markdown(heads, lines))


if __name__ == "__main__":
    main()
