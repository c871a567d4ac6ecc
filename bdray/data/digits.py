"""The 1,797 handwritten digits bundled with scikit-learn (Alpaydin and Kaynak 1998, UCI): real, nothing to download."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from bdray.data import Published
from bdray.data._images import Images
from bdray.samples import Samples
from bdray.seeds import rng
from bdray.spec import Config, Count


class Digits(Images):
    """8x8 grey images with 17 levels, enlarged to `size` and repeated over 3 channels. They come with no test set:
    a fixed random fifth is set aside as one. Which of the 13 writers drew which is not published with them, so that writers
    are on both sides of every split."""

    home: ClassVar[str] = "scikit-learn itself (sklearn.datasets.load_digits)"
    layout: ClassVar[str] = "nothing"
    mean: ClassVar[tuple[float, ...]] = (0.3,)
    std: ClassVar[tuple[float, ...]] = (0.35,)
    flip: ClassVar[bool] = False
    unit: ClassVar[str] = "a drawing"
    suited_model: ClassVar[Config] = {"name": "resnet18", "width": 8}

    size: Count = 16
    """Height and width in pixels."""

    def read(self, root: Path) -> Published:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self.check_memory(len(bunch.target), self.size, each=7)  # one float32, and three bytes
        grey = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32))[:, None] * (255 / 16)
        large = F.interpolate(grey, size=self.size, mode="bilinear", align_corners=False)
        inputs = large.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
        targets = torch.from_numpy(np.asarray(bunch.target, dtype=np.int64))
        order = torch.randperm(len(targets), generator=rng(0, "digits"))
        everything = Samples(inputs, targets)
        fifth = len(order) // 5
        return Published(everything.take(order[fifth:]), everything.take(order[:fifth]), [str(d) for d in range(10)])
