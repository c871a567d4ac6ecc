"""How well AdvrBD's partition ranks: the share of pairs of a poisoned and a clean sample in which the poisoned one moved less
(AUROC), for perturbations from one step to ten, on one warmed-up model an attack (its paper's settings).

500 poisoned samples against 3,000 clean ones, and against 500 clean ones of the target class; how many of the 350 that move
most are poisoned (they would be taken for clean), and of the 400 that move least (our remedy relearns such a tenth). An eighth
of the mixture is poison, so that neither end is as it would be in the training set. The truth is looked at: this is for
choosing defaults, not for defenders.

    python benchmarks/ranking.py --data DIR [--attacks badnets blend sig wanet] [--images 0] [--width 64] [--warmup 5]
        [--no-augment]
"""

import argparse
from pathlib import Path

import torch
from _measure import machine, markdown, seconds
from torch import Tensor

from bdray.attacks import Setting, poison
from bdray.bench import load
from bdray.defenses._partition import divergences
from bdray.defenses.advrbd import AdvrBD
from bdray.experiment import Experiment
from bdray.judge.truth import truth_of
from bdray.report.figures.divergences import auroc
from bdray.seeds import rng
from bdray.training import device, fit, silent

PERTURBATIONS = (
    {"steps": 1},
    {"steps": 3},
    {"steps": 10},
    {"steps": 3, "eps": 32.0},
    {"steps": 3, "radius": 0.25},
    {"steps": 3, "radius": 0.25, "eps": 64.0},
    {"steps": 1, "radius": 0.25, "eps": 64.0},
    {"steps": 3, "radius": 0.25, "masks": 3},
    {"steps": 3, "radius": 0.5, "eps": 8.0},
)
"""Beside the defaults."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--attacks", nargs="+", default=["badnets", "blend", "sig", "wanet"])
    parser.add_argument("--images", type=int, default=0, help="of the training set, 0 for all")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--warmup", type=int, default=5, help="epochs")
    parser.add_argument("--no-augment", action="store_true")
    options = parser.parse_args()
    print(machine())
    for attack in options.attacks:
        print(f"\n{ranked(attack, options)}", flush=True)


def ranked(attack: str, options: argparse.Namespace) -> str:
    """The table of one attack, and what its model had learnt."""
    model = {"name": "resnet18", "width": options.width}
    training = {"lr": 0.1, "schedule": "onecycle", "precision": "bfloat16", "augment": not options.no_augment}
    experiment = Experiment.of(
        {
            "task": {"name": "image", "data": {"name": "cifar10", "limit": options.images}, "model": model},
            "training": {**training, "epochs": options.warmup},
            "attack": {"name": attack, "preset": "advrbd"},
        }
    )
    task, splits = experiment.task, load(experiment.task.data, options.data)
    setting = Setting(task, splits, experiment.training, rng(0, "trigger"), silent)
    harm = poison(experiment.attack, experiment.attack.patterns(setting), setting._replace(rng=rng(0, "poison")))
    truth, train = truth_of(experiment, harm, splits), harm.apply(experiment.attack, splits.train).to(device())
    net = task.build(task.outline(splits), rng(0, "weights"))
    spent = seconds(lambda: fit(net, train, task, experiment.training, seed=0))
    right = task.predict(net, train) == truth.labels
    draw, bad = rng(0, "samples"), truth.poisoned
    mine = ~bad & (truth.labels == truth.target)
    groups = [some(bad, 500, draw), some(~bad, 3000, draw), some(mine, 500, draw)]
    lines = []
    for fields in PERTURBATIONS:
        defense = AdvrBD.model_validate(fields)
        how, moved = defense.perturbation(train), list[Tensor]()

        def work(how=how, moved=moved, masks=defense.masks) -> None:  # type: ignore[no-untyped-def]
            random = torch.Generator(device()).manual_seed(0)
            with experiment.training.forward():
                moved.append(divergences(net, train.take(torch.cat(groups).to(device())), task, how, random, masks))

        took = seconds(work)
        poisoned, clean, target = moved[0].split([len(group) for group in groups])
        order = torch.cat([poisoned, clean, target]).argsort()
        ratios = [auroc(poisoned.numpy(), other.numpy()) for other in (clean, target)]
        ends = [float((part < len(poisoned)).double().mean()) for part in (order[-350:], order[:400])]
        settings = (defense.steps, defense.eps, defense.radius, defense.masks)
        lines.append(
            [*(f"{value:g}" for value in settings), *(f"{value or 0:.3f}" for value in (*ratios, *ends)), f"{took:.1f}"]
        )
    counts = ", ".join(str(len(group)) for group in groups)
    learnt = f"right on {right[bad].double().mean():.3f} of the poison and {right[~bad].double().mean():.3f} of the rest"
    about = f"{attack}: {len(train)} samples, {options.warmup} epochs in {spent:.0f} s; {learnt}; n = {counts}"
    heads = ["steps", "eps", "radius", "masks", "AUROC", "in target", "poison in the top", "in the bottom", "s"]
    return f"{about}\n\n{markdown(heads, lines)}"


def some(where: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Positions of so many of the samples where it is true, drawn."""
    found = where.nonzero().flatten()
    return found[torch.randperm(len(found), generator=draw)[:count]]


if __name__ == "__main__":
    main()
