"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 in 100 classes."""

from pathlib import Path
from typing import ClassVar

from bdray.data import Published
from bdray.data._cifar import Cifar
from bdray.data._unpickle import arrays

FOLDER = "cifar-100-python"


class Cifar100(Cifar):
    """Read from the published Python distribution, with the fine labels; the 20 superclasses are not used."""

    home: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar.html"
    layout: ClassVar[str] = f"{FOLDER}/train, test and meta"
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4865, 0.4409)
    std: ClassVar[tuple[float, ...]] = (0.2673, 0.2564, 0.2762)

    def read(self, root: Path) -> Published:
        folder = root / FOLDER
        if not folder.is_dir():
            self.missing(folder)
        classes = self._classes(folder / "meta")
        train, test = (self._batch(folder / part, "fine_labels", len(classes)) for part in ("train", "test"))
        return Published(train, test, classes)

    def _classes(self, path: Path) -> list[str]:
        if not path.is_file():
            self.missing(path)
        names = arrays(path).get("fine_label_names")
        if not isinstance(names, list) or len(names) != 100 or not all(isinstance(n, bytes | str) for n in names):
            self.missing(path, "has no `fine_label_names` of 100 classes")
        return [name.decode("ascii") if isinstance(name, bytes) else name for name in names]
