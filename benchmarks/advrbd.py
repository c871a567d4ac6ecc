"""AdvrBD: samples per second of its partition, batched against one sample at a time, and what the whole costs.

The partition, with AdvrBD's defaults (a fresh patch a sample, one step of ascent from a random start): ours, which takes all
samples at once and folds BatchNorm first; and the model as it stands, handed batches of ours' size, or, as Algorithm 1 is
written, one sample after another. A ResNet-18 with random weights and noise, in digits' shape and in CIFAR's, float32, torch's
own number of threads.

The whole: an experiment with the defense advrbd, against the training of its victim, by the same recipe on the same samples;
and the share of each of its stages, from what it reports. What is left is isolation, moving and building. Each round is
another seed.

    python benchmarks/advrbd.py [--wide] [--rounds 5] [--samples 0] [--alone 32] [--whole 3] [--quick] [--data DIR]
        [task.data=cifar10 defense.warmup=10 ...]          # of the whole, as for `bdray run`; by default digits and blend
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _measure import in_turns, machine, markdown, ratio, seconds, stages
from torch import nn

from bdray.defenses._partition import AT_ONCE, Perturbation, divergences, patches, perturb
from bdray.defenses.advrbd import AdvrBD
from bdray.experiment import Experiment
from bdray.overrides import experiment_config
from bdray.run import run
from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.store.row import Row
from bdray.store.store import Store
from bdray.task import Task
from bdray.training import device, place

SIZES = {"digits": 16, "cifar10": 32}
SAMPLES = {("digits", 8): 2048, ("cifar10", 8): 2048, ("digits", 64): 128, ("cifar10", 64): 64}
"""Handed over at once in a round on a CPU, 3 to 15 seconds on two cores; on a GPU 16 times as many."""
QUICK = ["training.epochs=3", "defense.warmup=3", "defense.iterations=3", "defense.lr=0.01"]


def plain(model: nn.Module, samples: Samples, task: Task, how: Perturbation, draw: torch.Generator) -> None:
    """What `divergences` does with samples that fit in one batch, on the model as it stands."""
    x = task.collate(samples).inputs.to(device())
    with torch.no_grad():
        known = F.log_softmax(model(x).float(), 1)
    moved = perturb(model, x, known, patches(len(x), x.shape[-2], x.shape[-1], how.radius, draw), how, draw)
    with torch.no_grad():
        F.kl_div(F.log_softmax(model(moved).float(), 1), known, reduction="none", log_target=True).sum(1).cpu()


def partition(data: str, width: int) -> Callable[[str, int], None]:
    """Finds the divergences of so many samples: `ours`, `batches` or `alone`."""
    task = Experiment.of({"task": {"name": "image", "data": data, "model": {"name": "resnet18", "width": width}}}).task
    draw, defense = rng(0, "noise"), AdvrBD()
    pixels = torch.randint(256, (1, 3, SIZES[data], SIZES[data]), generator=draw, dtype=torch.uint8)
    one = Samples(pixels, torch.zeros(1, dtype=torch.int64))
    model = place(task.build(task.outline(Splits(one, one, one, tuple("0123456789"))), rng(0))).eval()
    how, random = defense.perturbation(one), torch.Generator(device()).manual_seed(0)

    def work(way: str, count: int) -> None:
        noise = torch.randint(256, (count, *pixels.shape[1:]), generator=draw, dtype=torch.uint8)
        samples = Samples(noise, torch.zeros(count, dtype=torch.int64)).to(device())
        if way == "ours":
            divergences(model, samples, task, how, random)
            return
        for part in torch.arange(count).split(AT_ONCE if way == "batches" else 1):
            plain(model, samples.take(part.to(device())), task, how, random)

    return work


def partitions(widths: list[int], rounds: int, count: int, alone: int) -> list[list[str]]:
    """A line for each data set and width."""
    lines = []
    for data in SIZES:
        for width in widths:
            work = partition(data, width)
            many = count or SAMPLES[data, width] * (16 if torch.cuda.is_available() else 1)
            counts = {"ours": many, "batches": many, "alone": alone}
            speeds: dict[str, Callable[[], float]] = {
                way: lambda work=work, way=way, n=n: n / seconds(lambda: work(way, n))  # type: ignore[misc]
                for way, n in counts.items()
            }
            for way, n in counts.items():
                work(way, min(n, AT_ONCE))
            found = in_turns(speeds, rounds)
            lines.append(
                [
                    f"{data}, {width}",
                    f"{rounds} x {many} and {alone}",
                    *(f"{statistics.median(found[way]):.1f}" for way in speeds),
                    *("{:.2f} ({:.2f} to {:.2f})".format(*ratio(found, "ours", way)) for way in ("batches", "alone")),
                ]
            )
    return lines


def shares(store: Store, row: Row) -> dict[str, float]:
    """Seconds of each stage / seconds of the whole; what is left is the last."""
    found = stages(store.table("curves", row.key))
    found["the rest"] = row.seconds - sum(found.values())
    return {stage: value / row.seconds for stage, value in found.items()}


def whole(words: list[str], seeds: int, data: Path) -> str:
    """A line a stage, and one of all of them."""
    times, parts, clean = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for seed in range(seeds):
            row = run(Experiment.of(experiment_config(["defense=advrbd", *words, f"seed={seed}"])), store, data)
            flags = store.table("flags", row.key)
            assert flags is not None
            flagged = sum(line["flagged_poisoned"] + line["flagged_clean"] for line in flags.to_pylist())
            clean.append(1 - flagged / row.trained_on)
            times.append((row.seconds, row.victim_seconds))
            parts.append(shares(store, row))
    print(
        f"\n{row.data}/{row.model}, {row.trained_on} training samples; of them isolated as clean: "
        f"{', '.join(f'{100 * share:.0f} %' for share in clean)}\n"
    )
    lines = [["the whole", str(seeds), _spread([mine / plain for mine, plain in times], ".2f")]]
    for stage in parts[0]:
        per_plain = [part[stage] * mine / plain for part, (mine, plain) in zip(parts, times, strict=True)]
        share = statistics.median(part[stage] for part in parts)
        lines.append([f"{stage}: {100 * share:.0f} % of it", str(seeds), _spread(per_plain, ".2f")])
    middle = statistics.median(plain for _, plain in times)
    heads = ["stage", "n", f"multiples of one plain training ({middle:.1f} s): median (least to most)"]
    return markdown(heads, lines)


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="path=value of the whole's experiment")
    parser.add_argument("--wide", action="store_true", help="the partition also on a net of width 64")
    parser.add_argument("--rounds", type=int, default=5, help="of the partition")
    parser.add_argument("--samples", type=int, default=0, help="handed over at once; 0: as many as take some seconds")
    parser.add_argument("--alone", type=int, default=32, help="samples handed over one after another")
    parser.add_argument("--whole", type=int, default=3, help="seeds of the whole; 0: none")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the data folder")
    parser.add_argument("--quick", action="store_true", help="one round, fewer samples, and one whole of a few epochs")
    options = parser.parse_args()
    print(machine())
    rounds, alone = (1, 8) if options.quick else (options.rounds, options.alone)
    lines = partitions([8, 64] if options.wide else [8], rounds, options.samples or (256 if options.quick else 0), alone)
    speeds = [f"{way}, samples/s" for way in ("ours", "batches", "one at a time")]
    times = ["ours / batches: median (least to most)", "ours / one at a time"]
    print(markdown(["ResNet-18 on, of width", "n", *speeds, *times], lines))
    seeds = min(options.whole, 1) if options.quick else options.whole
    if seeds:
        print(whole([*(QUICK if options.quick else []), *options.words], seeds, options.data))


if __name__ == "__main__":
    main()
