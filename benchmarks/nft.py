"""Neural mask fine-tuning: seconds a step and peak memory of `bdray.defenses.nft`, against the way of the authors' code.

The authors': every weight keeps requires_grad, so a gradient is computed for it and added up, and never used; the optimizer
holds the masks alone; a masked BatchNorm calls F.batch_norm with weight * mask; contiguous tensors. Both: the same ResNet-18,
the same batches of 128 (augmented, then mixed) of 500 clean images, float32, torch's own number of threads. Making the
batches is part of a step. At the end the masks of both must be the same.

    python benchmarks/nft.py [--widths 8 16 64] [--rounds 5] [--steps 0]
"""

import argparse
import copy
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _measure import PeakMemory, alone, images, in_turns, machine, markdown, ratio, seconds
from torch import Tensor, nn

from bdray.defenses import Evidence
from bdray.experiment import Experiment
from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.training import device, place, silent

STEPS = {8: 30, 16: 15, 64: 3}


class MaskedBatchNorm(nn.BatchNorm2d):
    """As in the authors' code: the mask multiplies the scale."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features)
        self.load_state_dict(norm.state_dict())
        self.neuron_mask = nn.Parameter(torch.ones(norm.num_features))

    def forward(self, x: Tensor) -> Tensor:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        scale = self.weight * self.neuron_mask
        return F.batch_norm(x, self.running_mean, self.running_var, scale, self.bias, True, self.momentum, self.eps)


def authors(model: nn.Module, clean: Samples, experiment: Experiment) -> list[Tensor]:
    """The loop of the authors' code on our batches; the masks."""
    nft: Any = experiment.defense
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not (name == "bn1" and isinstance(module, type(model.net))):
                setattr(module, name, MaskedBatchNorm(child))
    model = model.to(device(), memory_format=torch.contiguous_format).train()
    masks = [p for name, p in model.named_parameters() if "neuron_mask" in name]
    optimizer = torch.optim.SGD(masks, nft.lr, momentum=nft.momentum)
    for batch in nft.draws(clean, experiment.task, rng(0, "draws")):
        outputs = model(batch.inputs.contiguous())
        mixed = batch.weight * F.cross_entropy(outputs, batch.targets)
        mixed += (1 - batch.weight) * F.cross_entropy(outputs, batch.partner)
        loss = mixed + nft.eta * 10 / len(clean) * torch.stack([(1 - mask).abs().sum() for mask in masks]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for number, mask in enumerate(masks, start=1):
                mask.clamp_(nft.alpha * math.exp(-nft.beta * number), 1)
    return [mask.detach().cpu() for mask in masks]


def variants(width: int, steps: int) -> dict[str, Callable[[], list[Tensor]]]:
    """Each cleans a copy of one net of that width; the masks."""
    task = {"name": "image", "data": "cifar10", "model": {"name": "resnet18", "width": width}}
    experiment = Experiment.of({"task": task, "defense": {"name": "nft", "steps": steps, "lr_every": steps}})
    pixels, targets = images(500)
    clean = Samples(pixels.to(device()), targets.to(device()))
    splits = Splits(clean, clean, clean, tuple("0123456789"))
    victim = experiment.task.build(experiment.task.outline(splits), rng(0))

    def ours() -> list[Tensor]:
        evidence = Evidence(
            model=place(copy.deepcopy(victim)),
            train=None,
            clean=clean,
            outline=experiment.task.outline(splits),
            training=None,
            truth=None,
        )
        table = experiment.defense.defend(evidence, experiment.task, rng(0, "draws"), silent).tables["masks"]
        return [torch.tensor(table["mask"].to_pylist())]

    return {"bdray": ours, "authors": lambda: authors(copy.deepcopy(victim), clean, experiment)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of a round; 0: as many as take a few seconds")
    parser.add_argument("--memory", nargs=2, metavar=("VARIANT", "WIDTH"), help="print the peak memory of one variant alone")
    options = parser.parse_args()
    if options.memory:
        clean = variants(int(options.memory[1]), 3)[options.memory[0]]
        with PeakMemory() as peak:
            clean()
        print(peak.mib)
        return
    print(machine())
    lines = []
    for width in options.widths:
        steps = options.steps or STEPS[width]
        gap = max(abs(a - b) for a, b in zip(*(torch.cat(f()).tolist() for f in variants(width, 2).values()), strict=True))
        assert gap < 1e-4, f"the masks of the two differ by {gap}"
        cleans = variants(width, steps)
        found = in_turns({name: lambda c=clean, n=steps: seconds(c) / n for name, clean in cleans.items()}, options.rounds)
        middle, least, most = ratio(found, "authors", "bdray")
        memory = {name: float(alone("--memory", name, str(width))) for name in cleans}
        lines.append(
            [
                str(width),
                f"{options.rounds} x {steps} steps",
                *(f"{statistics.median(found[name]):.3f}" for name in cleans),
                f"{middle:.2f} ({least:.2f} to {most:.2f})",
                *(f"{memory[name]:.0f}" for name in cleans),
            ]
        )
    heads = ["ResNet-18 width", "n", "bdray, s/step", "authors' way, s/step", "times faster: median (least to most)"]
    print(markdown([*heads, "bdray, peak MiB", "authors' way, peak MiB"], lines))


if __name__ == "__main__":
    main()
