"""The readers of image data sets, each on a miniature in its real format with that format's traps."""

import os
from collections.abc import Iterator
from pathlib import Path

import image_miniatures as made
import numpy as np
import pytest
import torch
from PIL import Image

from bdray.data import Data, Published
from bdray.data._images import decode
from bdray.samples import Samples
from bdray.spec import Config

# The litter in the miniature is told of: see test_image_folders.py.
pytestmark = pytest.mark.filterwarnings("ignore:image_folder. skipped")

EXACT, JPEG, CMYK = 0, 6, 20
GTSRB_WAYS = [
    ("", "GTSRB/Final_Training/Images", "GT-final_test.csv"),
    ("", "GTSRB/Final_Training/Images", "GTSRB/GT-final_test.csv"),
    ("gtsrb", "GTSRB/Training", "GT-final_test.csv"),  # torchvision's
]


def assert_same(found: Samples, expected: made.Part, tolerance: int) -> None:
    assert found.inputs.dtype == torch.uint8
    assert found.inputs.is_contiguous()
    assert found.targets.dtype == torch.int64
    assert found.targets.tolist() == expected.labels
    pixels, pictures = found.inputs.permute(0, 2, 3, 1).numpy().astype(int), np.stack(expected.pictures)
    assert pixels.shape == pictures.shape
    difference = np.abs(pixels - pictures).max()
    assert difference <= tolerance


def check(config: Config | str, root: Path, expected: made.Expected, tolerance: int = EXACT) -> Published:
    """Read twice, the same both times, and as written."""
    found, again = (Data.of(config).read(root) for _ in range(2))
    for part in ("train", "test"):
        assert_same(getattr(found, part), getattr(expected, part), tolerance)
        assert torch.equal(getattr(found, part).inputs, getattr(again, part).inputs)
        assert torch.equal(getattr(found, part).targets, getattr(again, part).targets)
    return found


def test_cifar10_batches(tmp_path: Path) -> None:
    found = check("cifar10", tmp_path, made.cifar10(tmp_path))
    assert found.classes[:2] == ("airplane", "automobile")
    assert len(found.classes) == 10


def test_cifar10_parquet(tmp_path: Path) -> None:
    check("cifar10", tmp_path, made.cifar10_parquet(tmp_path), JPEG)


def test_cifar10_prefers_the_lossless_batches(tmp_path: Path) -> None:
    made.cifar10_parquet(tmp_path)
    check("cifar10", tmp_path, made.cifar10(tmp_path))


@pytest.mark.real
def test_cifar10_as_it_is() -> None:
    root = Path(os.environ.get("BDRAY_DATA", ""))
    if not (root / "cifar10_jpeg.parquet").is_file():
        pytest.skip("BDRAY_DATA names no folder with cifar10_jpeg.parquet")
    train, test, *_ = Data.of("cifar10").read(root)
    assert train.inputs.shape == (50_000, 3, 32, 32)
    assert test.inputs.shape == (10_000, 3, 32, 32)
    assert train.targets.bincount().tolist() == [5_000] * 10
    assert test.targets.bincount().tolist() == [1_000] * 10


def test_cifar100(tmp_path: Path) -> None:
    found = check("cifar100", tmp_path, made.cifar100(tmp_path))
    assert found.classes == [f"fine_{i:02d}" for i in range(100)]


@pytest.mark.parametrize(("below", "training", "truth"), GTSRB_WAYS)
def test_gtsrb(tmp_path: Path, below: str, training: str, truth: str) -> None:
    found = check("gtsrb", tmp_path, made.gtsrb(tmp_path / below, training, truth))
    assert len(set(found.classes)) == 43
    assert (found.classes[0], found.classes[8]) == ("speed limit 20 km/h", "speed limit 120 km/h")
    assert (found.classes[6], found.classes[14]) == ("end of speed limit 80 km/h", "stop")
    assert (found.classes[17], found.classes[38], found.classes[40]) == ("no entry", "keep right", "roundabout")


def test_gtsrb_holds_out_tracks(tmp_path: Path) -> None:
    """Frames of a track are alike, whatever its number is called in another class."""
    made.gtsrb(tmp_path)
    for label, track, frames in ((0, 0, 4), (0, 1, 5), (0, 2, 5), (7, 1, 3)):
        for frame in range(1, frames):
            number = 1000 * label + 100 * track + frame
            name = f"{label:05d}/{track:05d}_{frame:05d}.ppm"
            made.write(tmp_path / "GTSRB/Final_Training/Images" / name, made.picture(number))
    data = Data.of({"name": "gtsrb", "held": 0.3})
    found, units = data.splits(tmp_path), data.read(tmp_path).units
    assert units is not None
    assert units[:12].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert units.max() + 1 == 43 + 21 + 2
    assert len(found.train) + len(found.held) == len(units)
    counts = found.held.targets.bincount(minlength=43)
    assert counts[0] in (4, 5), "one of its three tracks"
    assert counts[7] in (1, 3)
    assert counts[8::2].sum() == 0, "they have one track each, which is learnt"


def test_gtsrb_prefers_the_full_training_set(tmp_path: Path) -> None:
    made.gtsrb(tmp_path, "GTSRB/Training")
    for image in (tmp_path / "GTSRB/Training").rglob("*.ppm"):
        image.write_bytes(b"not read")
    check("gtsrb", tmp_path, made.gtsrb(tmp_path))


def test_gtsrb_resizes_photos_of_any_shape(tmp_path: Path) -> None:
    made.gtsrb(tmp_path)
    tall = np.zeros((60, 20, 3), dtype=np.uint8)
    tall[30:] = 200
    made.write(tmp_path / "GTSRB/Final_Training/Images/00000/00000_00000.ppm", tall)
    found = Data.of({"name": "gtsrb", "size": 8}).read(tmp_path)
    assert found.train.inputs.shape == (64, 3, 8, 8)
    assert found.train.inputs[0, :, :3].max() == 0
    assert found.train.inputs[0, :, 5:].min() == 200


@pytest.mark.parametrize("test", ["test", "val"])
def test_image_folder(tmp_path: Path, test: str) -> None:
    expected = made.image_folder(tmp_path, test)
    for path in ("pets", str(tmp_path / "pets")):
        found = check({"name": "image_folder", "path": path}, tmp_path, expected)
        assert found.classes == ["Zebra", "ant", "cat"]


def test_image_folder_does_not_depend_on_the_order_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, iterdir, walk = made.image_folder(tmp_path), Path.iterdir, os.walk
    monkeypatch.setattr(Path, "iterdir", lambda folder: sorted(iterdir(folder), reverse=True))
    monkeypatch.setattr(os, "walk", lambda folder, **options: backwards(walk(folder, **options)))

    def backwards(steps: Iterator[tuple[str, list[str], list[str]]]) -> Iterator[tuple[str, list[str], list[str]]]:
        for here, folders, files in steps:
            folders.sort(reverse=True)
            yield here, folders, sorted(files, reverse=True)

    found = check({"name": "image_folder", "path": "pets"}, tmp_path, expected)
    assert found.classes == ["Zebra", "ant", "cat"]


def test_image_folder_orders_as_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    made.image_folder(tmp_path)
    for folder in ("_old", ".cache", "cat/_thumbs", "cat/.git"):  # which torchvision does not skip
        (tmp_path / "pets/train" / folder / "x.png").unlink()
        (tmp_path / "pets/train" / folder).rmdir()
    for hidden in ("._d.png", ".hidden.png"):
        (tmp_path / "pets/train/cat" / hidden).unlink()
    theirs = ImageFolder(tmp_path / "pets/train")
    ours = Data.of({"name": "image_folder", "path": "pets"}).read(tmp_path)
    assert ours.classes == theirs.classes
    assert ours.train.targets.tolist() == theirs.targets
    for pixels, (image, _) in zip(ours.train.inputs, theirs, strict=True):
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))


def test_image_folder_takes_val_where_test_has_no_labels(tmp_path: Path) -> None:
    expected = made.image_folder(tmp_path, "val")
    made.write(tmp_path / "pets/test/unlabelled.png", made.picture(0), "PNG")
    check({"name": "image_folder", "path": "pets"}, tmp_path, expected)


@pytest.mark.parametrize("folder", ["imagenette2", "imagenette2-320", "imagenette2-160"])
def test_imagenette(tmp_path: Path, folder: str) -> None:
    found = check("imagenette", tmp_path, made.imagenette(tmp_path, folder), CMYK)
    assert (found.classes[0], found.classes[9]) == ("tench", "parachute")
    grey = found.train.inputs[1]
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize("val", ["flat", "images", "bare"])
def test_tiny_imagenet(tmp_path: Path, val: str) -> None:
    found = check("tiny_imagenet", tmp_path, made.tiny_imagenet(tmp_path, val), JPEG)
    assert found.classes == ["goldfish", "bee", "African elephant"]


def test_tiny_imagenet_with_windows_line_ends(tmp_path: Path) -> None:
    expected = made.tiny_imagenet(tmp_path)
    for name in ("wnids.txt", "words.txt"):
        path = tmp_path / "tiny-imagenet-200" / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check("tiny_imagenet", tmp_path, expected, JPEG).classes == ["goldfish", "bee", "African elephant"]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_decode_keeps_the_order(count: int) -> None:
    images = [np.full((3, 5, 3), number, dtype=np.uint8) for number in range(count)]
    found = decode([made.encode(image, "PPM") for image in images], None)
    assert found.shape == (count, 3, 3, 5)
    assert found[:, 0, 0, 0].tolist() == list(range(count))


def test_decode_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(made.picture(1)).quantize(16)
    image.save(tmp_path / "palette.png", transparency=bytes(range(16)))
    np.testing.assert_array_equal(decode([tmp_path / "palette.png"], None)[0].permute(1, 2, 0), image.convert("RGB"))
