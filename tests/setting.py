"""What the tests of attacks share: a made data set of each modality, quick settings, a seed's trigger."""

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdray.attacks import Attack, Patterns, Setting
from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.spec import Config
from bdray.task import Task
from bdray.training import Training, silent

MADE: dict[str, Config] = {
    "image": {"name": "miniature", "per_class": 25, "held": 0.0},
    "video": {"name": "moving_shapes", "limit": 100, "test_limit": 40, "held": 0.0},
    "points": {"name": "solids", "points": 64, "limit": 100, "test_limit": 40, "held": 0.0},
    "text": {"name": "reviews", "count": 100, "tests": 40, "held": 0.0},
    "translation": {"name": "phrases", "count": 100, "tests": 40, "held": 0.0},
    "detection": {"name": "drawn_shapes", "count": 100, "tests": 20, "held": 0.0},
}
"""The made data set of each modality: 100 training samples."""
_FOLDER = tempfile.TemporaryDirectory(prefix="bdray-made-")
"""Of those that are written to disk, for one process of tests."""
QUICK: dict[str, Config] = {
    "label_consistent": {"steps": 2, "surrogate_epochs": 1},
    "tact": {"rate": 0.1, "cover": 0.1},
    "adaptive_blend": {"rate": 0.1, "cover": 0.1},
    "adaptive_patch": {"rate": 0.1, "cover": 0.1},
    "uat": {"trigger_steps": 2, "steps": 2, "surrogate_epochs": 1},
    "pcba": {"steps": 5, "surrogate_width": 4, "surrogate_epochs": 1},
    "pointcba": {"target": 1, "steps": 2, "surrogate_width": 4, "surrogate_epochs": 1},
}
"""Settings that make an attack quick, and rates that poison and cover some of 100 samples; one that is not here has its
defaults."""

PAIRS = [(name, modality) for name in Attack.names() for modality in sorted(Attack.member(name).modalities & MADE.keys())]
"""Every attack on every made data set of its modalities."""
IMAGES = [name for name, modality in PAIRS if modality == "image"]


def attack_of(name: str, **fields: Any) -> Attack:
    return Attack.of({"name": name, **QUICK.get(name, {}), **fields})


@lru_cache(maxsize=8)
def made(modality: str) -> tuple[Task, Splits]:
    task = Task.of({"name": modality, "data": MADE[modality]})
    return task, task.data.splits(Path(_FOLDER.name))


def setting(modality: str, seed: int = 0, purpose: str = "poison") -> Setting:
    task, splits = made(modality)
    return Setting(task, splits, Training(epochs=1, batch=50), rng(seed, purpose), silent)


def of(x: Tensor) -> Samples:
    """Images of four classes in turn."""
    return Samples(x, torch.arange(len(x)) % 4)


def stamped(attack: Attack, x: Tensor, seed: int = 0) -> Tensor:
    """Images stamped with the trigger that this seed draws for their shape."""
    samples, (task, _) = of(x), made("image")
    where = Setting(task, Splits(samples, samples, samples, "abcd"), Training(), rng(seed, "trigger"), silent)
    return stamp(attack, x, attack.patterns(where))


def stamp(attack: Attack, x: Tensor, patterns: Patterns) -> Tensor:
    """Images as they are triggered at test time."""
    return attack.stamp(of(x), patterns, 0).samples.inputs


def plant(attack: Attack, x: Tensor, patterns: Patterns, where: Setting) -> Tensor:
    """Images as they stand in poisoned samples."""
    return attack.plant(of(x), patterns, where).inputs


def disguise(attack: Attack, x: Tensor, patterns: Patterns, where: Setting) -> Tensor:
    """Images as they stand in cover samples."""
    return attack.disguise(of(x), patterns, where).inputs
