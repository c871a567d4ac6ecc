"""Training a victim: images per second and peak memory of `bdray.training.fit`, against the field's usual loop.

The field's: a torchvision-style data set of PIL images made from uint8 arrays, RandomCrop(32, padding=4),
RandomHorizontalFlip, ToTensor and Normalize in a DataLoader of 2 workers, contiguous tensors. Both: the same ResNet-18, the
same images, batches of 128 shuffled, SGD with momentum 0.9 and weight decay 5e-4 on a cosine, float32, torch's own number of
threads. Whole epochs are timed as a person waits for them, the start of the workers included, after one epoch untimed.

    python benchmarks/training.py [--widths 8 16 64] [--rounds 5] [--epochs 2] [--images 0]
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _measure import PeakMemory, alone, images, in_turns, machine, markdown, ratio, seconds
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bdray.experiment import Experiment
from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.training import device, fit

IMAGES = {8: 3840, 16: 1920, 64: 256}
"""An epoch of each width takes a few seconds on two cores."""


class Pictures(Dataset):
    """As torchvision's CIFAR10: an array at rest, a PIL image an item."""

    def __init__(self, pixels: Any, targets: Any, transform: Callable[..., Any]) -> None:
        self.data, self.targets, self.transform = pixels.permute(0, 2, 3, 1).numpy(), targets.tolist(), transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def field(net: nn.Module, pixels: Any, targets: Any, experiment: Experiment, epochs: int) -> None:
    """The field's usual loop."""
    data = experiment.task.data
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    loader = DataLoader(Pictures(pixels, targets, transform), batch_size=128, shuffle=True, num_workers=2)
    net = net.to(device()).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for x, y in loader:
            x, y = x.to(device()), y.to(device())
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        schedule.step()


def variants(width: int, count: int) -> dict[str, Callable[[int], None]]:
    """Each trains a fresh net of that width for some epochs."""
    model = {"name": "resnet18", "width": width}
    experiment = Experiment.of({"task": {"name": "image", "data": "cifar10", "model": model}})
    pixels, targets = images(count)
    samples = Samples(pixels, targets)
    splits = Splits(samples, samples, samples, tuple("0123456789"))

    def ours(epochs: int) -> None:
        recipe = experiment.training.model_copy(update={"epochs": epochs})
        fit(experiment.task.build(experiment.task.outline(splits), rng(0)), samples, experiment.task, recipe, seed=0)

    def theirs(epochs: int) -> None:
        net: Any = experiment.task.build(experiment.task.outline(splits), rng(0))
        field(net.net, pixels, targets, experiment, epochs)

    return {"bdray": ours, "field": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=list(IMAGES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=0, help="of an epoch; 0: as many as take a few seconds")
    parser.add_argument("--memory", nargs=2, metavar=("VARIANT", "WIDTH"), help="print the peak memory of one variant alone")
    options = parser.parse_args()
    if options.memory:
        train = variants(int(options.memory[1]), 384)[options.memory[0]]
        with PeakMemory() as peak:
            train(1)
        print(peak.mib)
        return
    print(machine())
    lines = []
    for width in options.widths:
        count = options.images or IMAGES[width]
        trains = variants(width, count)
        for train in trains.values():
            train(1)
        clocks = {name: lambda t=train: seconds(lambda: t(options.epochs)) for name, train in trains.items()}
        found = in_turns(clocks, options.rounds)
        speeds = {name: count * options.epochs / statistics.median(found[name]) for name in trains}
        middle, least, most = ratio(found, "field", "bdray")
        memory = {name: float(alone("--memory", name, str(width))) for name in trains}
        lines.append(
            [
                str(width),
                f"{options.rounds} x {options.epochs} epochs of {count}",
                *(f"{speeds[name]:.0f}" for name in trains),
                f"{middle:.2f} ({least:.2f} to {most:.2f})",
                *(f"{memory[name]:.0f}" for name in trains),
            ]
        )
    heads = ["ResNet-18 width", "n", "bdray, images/s", "field, images/s", "times faster: median (least to most)"]
    print(markdown([*heads, "bdray, peak MiB", "field, peak MiB with its workers"], lines))


if __name__ == "__main__":
    main()
