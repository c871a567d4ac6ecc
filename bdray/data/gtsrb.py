"""GTSRB, the German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012): 39,209 + 12,630 photos, 43 signs."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from bdray.data import Published
from bdray.data._images import Images, decode, image_files
from bdray.samples import Samples
from bdray.spec import BadInput, Count

TRUTH, UNLABELLED = "GT-final_test.csv", "GT-final_test.test.csv"
CLASSES = (
    *(f"speed limit {kmh} km/h" for kmh in (20, 30, 50, 60, 70, 80)),
    "end of speed limit 80 km/h",
    *(f"speed limit {kmh} km/h" for kmh in (100, 120)),
    "no passing",
    "no passing for trucks",
    "right of way at the next crossing",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "bend to the left",
    "bend to the right",
    "double bend",
    "uneven road",
    "slippery road",
    "road narrows",
    "road works",
    "traffic lights",
    "pedestrians",
    "children",
    "bicycles",
    "snow or ice",
    "wild animals",
    "end of all limits",
    "turn right",
    "turn left",
    "straight ahead",
    "straight ahead or right",
    "straight ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no passing",
    "end of no passing for trucks",
)


class Gtsrb(Images):
    """The benchmark's archives as unpacked, or what torchvision downloads, whose training archive is the smaller one of
    the competition (26,640 images); the full one wins where both are there. Photos are squeezed to `size` x `size`, not
    cropped to the sign. Training labels are the folders' names, test labels those of the list.

    Training photos come in tracks, most of 30 frames of one sign that a car drives by, told by the first number in a file's
    name; the test set has other tracks. A held-out track is held out whole, but a defender who is given some frames of it is
    judged on others of it too (`held_utility_after`, the proxies): trust the test set."""

    home: ClassVar[str] = "https://benchmark.ini.rub.de"
    layout: ClassVar[str] = (
        f"GTSRB with Final_Training/Images/00000..00042 (or Training) and Final_Test/Images, beside it {TRUTH}, all "
        "of it perhaps in a folder gtsrb,"
    )
    mean: ClassVar[tuple[float, ...]] = (0.3403, 0.3121, 0.3214)
    std: ClassVar[tuple[float, ...]] = (0.2724, 0.2608, 0.2669)
    flip: ClassVar[bool] = False
    unit: ClassVar[str] = "a track"

    size: Count = 32
    """Height and width in pixels."""

    def read(self, root: Path) -> Published:
        base = next((b for b in (root, root / "gtsrb") if (b / "GTSRB").is_dir()), None)
        if base is None:
            self.missing(root, "holds no GTSRB")
        folder = base / "GTSRB"
        training = next((t for t in (folder / "Final_Training/Images", folder / "Training") if t.is_dir()), None)
        if training is None:
            self.missing(folder, "holds neither Final_Training/Images nor Training")
        folders = [training / f"{number:05d}" for number in range(len(CLASSES))]
        train = self.class_folders(folders, self.size)
        return Published(train, self._test(base, folder / "Final_Test/Images"), CLASSES, _tracks(folders))

    def _test(self, base: Path, images: Path) -> Samples:
        if not images.is_dir():
            self.missing(images)
        places = (base, base / "GTSRB", base / "GTSRB/Final_Test", images)
        truth = next((p / TRUTH for p in places if (p / TRUTH).is_file()), None)
        if truth is None:
            decoy = next((p / UNLABELLED for p in places if (p / UNLABELLED).is_file()), None)
            needed = f"{TRUTH} of GTSRB_Final_Test_GT.zip"
            self.missing(decoy or base, f"has no ClassId, as {needed} has" if decoy else f"holds no {needed}")
        listed = self._labels(truth)
        there = {entry.name for entry in images.iterdir()}
        if absent := next((name for name, _ in listed if name not in there), None):
            self.missing(images / absent, f"is listed in {truth.name} but is not there")
        inputs = decode([images / name for name, _ in listed], self.size)
        return Samples(inputs, torch.tensor([label for _, label in listed], dtype=torch.int64))

    def _labels(self, path: Path) -> list[tuple[str, int]]:
        """File names and class numbers of the test images, in the order of the list."""
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file, delimiter=";", skipinitialspace=True)
                columns = rows.fieldnames or ()
                for column in ("Filename", "ClassId"):
                    if column not in columns:
                        self.missing(path, f"has no column {column} ({'; '.join(columns) or 'it is empty'})")
                listed = [(row["Filename"], self._label(path, rows.line_num, row["ClassId"])) for row in rows]
        except (UnicodeError, csv.Error) as error:
            raise BadInput(f"the file {path} is damaged ({error}); fetch the data set again") from None
        if not listed:
            self.missing(path, "lists no images")
        return listed

    def _label(self, path: Path, line: int, text: str | None) -> int:
        label = int(text) if text and text.strip().isascii() and text.strip().isdigit() else -1
        if not 0 <= label < len(CLASSES):
            self.missing(path, f"has the ClassId {text!r} in line {line}, outside 0 to {len(CLASSES) - 1}")
        return label


def _tracks(folders: Sequence[Path]) -> Tensor:
    """The number of each training photo's track, int64 [N], in the order of `class_folders`: its number is its class's own."""
    names = [(number, file.stem.partition("_")[0]) for number, folder in enumerate(folders) for file in image_files(folder)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.int64)
