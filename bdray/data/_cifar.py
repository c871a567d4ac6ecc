"""What CIFAR-10 and CIFAR-100 share: the batches of their Python distributions."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from bdray.data._images import Images
from bdray.data._unpickle import arrays
from bdray.samples import Samples


class Cifar(Images):
    """32x32 colour images in pickled batches. Some are near duplicates of others, of the test set's too (3 % of its images in
    CIFAR-10, 10 % in CIFAR-100: Barz and Denzler 2020); which ones is not published with them."""

    unit: ClassVar[str] = "an image"

    def _batch(self, path: Path, key: str, classes: int) -> Samples:
        """The images and labels of one batch file; `key` is where it keeps the labels."""
        if not path.is_file():
            self.missing(path)
        found = arrays(path)
        pixels, labels = found.get("data"), found.get(key)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
            self.missing(path, "has no `data` of uint8 rows of 3,072")
        if not isinstance(labels, list) or len(labels) != len(pixels):
            self.missing(path, f"has no list `{key}` for its {len(pixels):,} images")
        if wrong := [label for label in labels if type(label) is not int or not 0 <= label < classes]:
            self.missing(path, f"has the label {wrong[0]!r} in `{key}`, outside 0 to {classes - 1}")
        return Samples(torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy()), torch.tensor(labels, dtype=torch.int64))
