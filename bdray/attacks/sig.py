"""SIG (Barni, Kallas and Tondi 2019, arXiv 1902.11237): a sinusoid over the columns, in images of the target class only,
whose labels stay true."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from bdray.attacks import Patterns, ToClass
from bdray.attacks._frames import OverTime, check_over_time
from bdray.attacks._images import by_parts, to_uint8
from bdray.samples import Draw, Splits
from bdray.spec import Config, NonNegative, Share


class Sig(ToClass):
    """Adds delta * sin(2 pi j frequency / width) to column j. BackdoorBench's delta is 40, backdoor-toolbox's 30."""

    modalities: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    clean_label: ClassVar[bool] = True
    presets: ClassVar[dict[str, Config]] = {
        "advrbd": {"target": 1, "rate": 0.05},
        "backdoor_toolbox": {"target": 0, "rate": 0.02, "delta": 30.0, "frequency": 6.0},
    }

    rate: Share = 0.05
    """Of all training samples. A balanced ten-class set has room for less than 0.1."""
    delta: NonNegative = 40.0
    """Amplitude, of 255."""
    frequency: NonNegative = 6.0
    """Periods across the image."""
    over_time: OverTime = "static"
    """On clips. dynamic: the frequency grows evenly from frame to frame; its mean over the clip is `frequency`."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        check_over_time("sig", self.over_time, splits)

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        width = x.shape[-1]
        columns = torch.arange(width, dtype=torch.float64, device=x.device)
        frequency: float | Tensor = self.frequency
        if self.over_time == "dynamic":
            count = x.shape[-3]
            steps = torch.arange(1, count + 1, dtype=torch.float64, device=x.device)
            frequency = (self.frequency * 2 / (count + 1) * steps)[:, None, None]
        wave = self.delta * torch.sin(2 * math.pi * columns * frequency / width)
        return by_parts(lambda part: to_uint8(part.double() + wave), x)
