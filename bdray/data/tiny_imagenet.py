"""Tiny ImageNet (Stanford CS231n 2015): 100,000 + 10,000 photographs of 64x64 in 200 ImageNet classes."""

from pathlib import Path
from typing import ClassVar

import torch

from bdray.data import Published
from bdray.data._images import Images, decode
from bdray.samples import Samples
from bdray.spec import BadInput, Count

FOLDER, ANNOTATIONS = "tiny-imagenet-200", "val_annotations.txt"


class TinyImagenet(Images):
    """The published `val` is the test set, flat with its annotations or re-arranged into class folders; `test` has no
    labels and is ignored. Classes are numbered by sorted WordNet id, as most code does, not as in wnids.txt."""

    unit: ClassVar[str] = "a photograph"
    home: ClassVar[str] = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    layout: ClassVar[str] = f"{FOLDER} with wnids.txt, words.txt, train/<wnid>/images and val/images, val/{ANNOTATIONS},"
    mean: ClassVar[tuple[float, ...]] = (0.4802, 0.4481, 0.3975)
    std: ClassVar[tuple[float, ...]] = (0.2770, 0.2691, 0.2821)

    size: Count = 64
    """Height and width in pixels."""

    def read(self, root: Path) -> Published:
        folder = root / FOLDER
        if not folder.is_dir():
            self.missing(folder)
        ids = sorted({line.strip() for line in self._lines(folder / "wnids.txt")})
        words = dict(line.split("\t", 1) for line in self._lines(folder / "words.txt") if "\t" in line)
        if unnamed := next((wnid for wnid in ids if wnid not in words), None):
            self.missing(folder / "words.txt", f"has no line for {unnamed} of wnids.txt")
        train = self.class_folders([folder / "train" / wnid for wnid in ids], self.size)
        if any((folder / "val" / wnid).is_dir() for wnid in ids):
            test = self.class_folders([folder / "val" / wnid for wnid in ids], self.size)
        else:
            test = self._annotated(folder / "val", ids)
        return Published(train, test, [words[wnid].split(",")[0].strip() for wnid in ids])

    def _annotated(self, folder: Path, ids: list[str]) -> Samples:
        """The flat `val`: file name, WordNet id and a box a line, between tabs."""
        number = {wnid: at for at, wnid in enumerate(ids)}
        paths, targets = [], []
        for line in self._lines(folder / ANNOTATIONS):
            name, wnid = [*line.split("\t"), ""][:2]
            if wnid not in number:
                self.missing(folder / ANNOTATIONS, f"gives {name} the class {wnid!r}, which wnids.txt does not list")
            paths.append(folder / "images" / name)
            targets.append(number[wnid])
        there = {path.name for path in (folder / "images").iterdir()} if (folder / "images").is_dir() else set()
        if absent := next((path for path in paths if path.name not in there), None):
            self.missing(absent, f"is listed in {ANNOTATIONS} but is not there")
        return Samples(decode(paths, self.size), torch.tensor(targets, dtype=torch.int64))

    def _lines(self, path: Path) -> list[str]:
        if not path.is_file():
            self.missing(path)
        try:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeError as error:
            raise BadInput(f"the file {path} is damaged ({error}); fetch the data set again") from None
        if not lines:
            self.missing(path, "is empty")
        return lines
