"""The smallest experiment that is still one: a made data set, a net of width 4, two epochs."""

from typing import Any

import torch
from torch import Tensor, nn

from bdray.experiment import Experiment
from bdray.spec import Config


def tiny(**changes: Any) -> Experiment:
    """The tiny experiment with some of its top-level fields changed; a quick recipe for the defense's own training."""
    return Experiment.of(tiny_config(**changes))


def tiny_config(**changes: Any) -> Config:
    """Its dict."""
    config: Config = {
        "task": {
            "name": "image",
            "data": {"name": "miniature", "per_class": 40, "held": 0.2},
            "model": {"name": "resnet18", "width": 4},
        },
        "attack": "blend",
        "training": {"epochs": 2, "batch": 32},
        "defense": "none",
    }
    return {**config, **changes}


QUICK: dict[str, Config] = {
    "advrbd": {"warmup": 1, "partition_rate": 0.2, "iterations": 2, "steps": 2, "lr": 0.05},
    "abl": {"tuning_epochs": 1, "isolation": 0.1, "finetuning_epochs": 2, "finetuning_drop": 1, "unlearning_epochs": 1},
    "clp": {"u": 1.0},
    "dbr": {"tuning_epochs": 1, "intra_epochs": 1, "removal_epochs": 1},
    "fine_tuning": {"epochs": 2, "shots": 2},
    "fine_pruning": {"epochs": 2, "shots": 2},
    "nft": {"steps": 4, "batch": 8, "shots": 2},
}
"""Settings that make a defense quick; one that is not here is run with its defaults."""


def quick(name: str, **changes: Any) -> Config:
    """A quick dict of a defense."""
    return {"name": name, **QUICK.get(name, {}), **changes}


class Line(nn.Module):
    """One weight; what it says of class 1 is the weight times the first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), self.weight * x[:, 0, 0, 0]], dim=1)
