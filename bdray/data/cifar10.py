"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 in 10 classes."""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from bdray.data import Published
from bdray.data._cifar import Cifar
from bdray.data._images import decode
from bdray.samples import Samples
from bdray.spec import BadInput

FOLDER, PARQUET = "cifar-10-batches-py", "cifar10_jpeg.parquet"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Cifar10(Cifar):
    """Read from the published Python batches or, where they are absent, from one Parquet file of JPEGs with the columns
    image, label and split (train, test)."""

    home: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar.html"
    layout: ClassVar[str] = f"{FOLDER}/data_batch_1..5 and test_batch, or {PARQUET},"
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)

    def read(self, root: Path) -> Published:
        folder = root / FOLDER
        if folder.is_dir():
            train = [self._batch(folder / f"data_batch_{i}", "labels", len(CLASSES)) for i in range(1, 6)]
            inputs, targets = torch.cat([b.inputs for b in train]), torch.cat([b.targets for b in train])
            return Published(Samples(inputs, targets), self._batch(folder / "test_batch", "labels", len(CLASSES)), CLASSES)
        if (root / PARQUET).is_file():
            return self._parquet(root / PARQUET)
        return self.missing(root, f"holds neither {FOLDER} nor {PARQUET}" if root.is_dir() else "is not there")

    def _parquet(self, path: Path) -> Published:
        try:
            table = pq.read_table(path, columns=["image", "label", "split"])
        except (pa.ArrowException, OSError, KeyError) as error:
            why = re.split(r"\n|\. ", str(error))[0]
            raise BadInput(
                f"the file {path} is damaged or has no columns image, label, split ({why}); fetch it again"
            ) from None
        labels = table["label"]
        if not pa.types.is_binary(table["image"].type) or not pa.types.is_integer(labels.type) or labels.null_count:
            types = f"{table['image'].type} and {labels.type}"
            self.missing(path, f"holds {types}, expected bytes as `image` and whole numbers as `label`")
        if len(table) and not 0 <= pc.min(labels).as_py() <= pc.max(labels).as_py() < len(CLASSES):
            self.missing(path, f"has labels outside 0 to {len(CLASSES) - 1}")
        parts = []
        for split in ("train", "test"):
            part = table.filter(pc.equal(table["split"], split))
            if not len(part):
                self.missing(path, f"has no rows with split {split!r}")
            names = [f"{i} of split {split} in {path}" for i in range(len(part))]
            images = decode(part["image"].to_pylist(), None, names)
            parts.append(Samples(images, torch.from_numpy(part["label"].to_numpy().astype(np.int64))))
        return Published(parts[0], parts[1], CLASSES)
