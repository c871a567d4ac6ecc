"""Writers of tiny image data sets in the real on-disk formats, traps included, for the tests of the readers.

Each returns what a reader must find: the pictures [H, W, 3] and labels of the training and the test part, in order.
"""

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

# The ten classes of Imagenette.
NUMBERS = (1440764, 2102040, 2979186, 3000684, 3028079, 3394916, 3417042, 3425413, 3445777, 3888257)
WNIDS = [f"n{number:08d}" for number in NUMBERS]


class Part(NamedTuple):
    pictures: list[np.ndarray]
    labels: list[int]

    def add(self, picture: np.ndarray, label: int) -> np.ndarray:
        self.pictures.append(picture)
        self.labels.append(label)
        return picture


class Expected(NamedTuple):
    train: Part
    test: Part


def nothing() -> Expected:
    return Expected(Part([], []), Part([], []))


def picture(number: int, size: int = 32) -> np.ndarray:
    """A smooth ramp that no other number gives, different along both axes and in every channel."""
    y, x = np.mgrid[0:size, 0:size] / size
    start = np.random.default_rng(number).integers(20, 120, 3)
    return (start + np.stack([100 * x, 90 * y, 50 * x + 50 * y], axis=-1)).astype(np.uint8)


LIKE_IT = {"JPEG": {"quality": 97, "subsampling": 0}, "WEBP": {"lossless": True}}
"""What makes the lossy formats show the picture."""


def encode(image: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, **LIKE_IT.get(kind, {}))
    return out.getvalue()


def write(path: Path, content: bytes | str | np.ndarray, kind: str = "PPM") -> None:
    """Make the folders, then the file; an array is encoded as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_bytes(content.encode())
    else:
        path.write_bytes(encode(content, kind) if isinstance(content, np.ndarray) else content)


class _Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes bytes as Python 2 wrote its str, which is what the CIFAR files hold."""

    def string(self, value: bytes) -> None:
        self.write(b"T" + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, bytes: string}  # type: ignore[attr-defined]


def python2(value: Any) -> bytes:
    """A protocol 2 pickle as Python 2 and NumPy 1 wrote it."""
    out = io.BytesIO()
    _Python2(out, 2).dump(value)
    return out.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def batch(pictures: list[np.ndarray], **more: Any) -> dict[bytes, Any]:
    """The dict of a CIFAR batch: rows of 1,024 red, then green, then blue."""
    rows = np.stack([p.transpose(2, 0, 1).reshape(3072) for p in pictures])
    names = [b"picture_%d.png" % i for i in range(len(pictures))]
    return {b"data": rows, b"filenames": names, **{key.encode(): value for key, value in more.items()}}


def cifar10(root: Path) -> Expected:
    expected = nothing()
    for number, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        part = expected.test if name == "test_batch" else expected.train
        pictures = [part.add(picture(10 * number + i), (3 * number + i) % 10) for i in range(2)]
        content = batch(pictures, labels=part.labels[-2:], batch_label=b"batch")
        write(root / "cifar-10-batches-py" / name, python2(content))
    write(root / "cifar-10-batches-py/batches.meta", python2({b"label_names": [b"airplane"]}))
    write(root / "cifar-10-batches-py/readme.html", "<html>")
    return expected


def cifar10_parquet(root: Path) -> Expected:
    """Rows of the two splits interleaved, and a column and a split nobody asked for."""
    expected, rows = nothing(), []
    for number in range(6):
        split, part = [("train", expected.train), ("test", expected.test), ("extra", Part([], []))][number % 3]
        image = part.add(picture(number), 9 - number)
        rows.append({"image": encode(image, "JPEG"), "label": 9 - number, "split": split, "path": f"{number}.jpg"})
    pq.write_table(pa.Table.from_pylist(rows), root / "cifar10_jpeg.parquet")
    return expected


def cifar100(root: Path) -> Expected:
    expected, folder = nothing(), root / "cifar-100-python"
    for name, part, labels in (("train", expected.train, [99, 0, 42]), ("test", expected.test, [7, 99])):
        pictures = [part.add(picture(label), label) for label in labels]
        content = batch(pictures, fine_labels=labels, coarse_labels=[n // 5 for n in labels], batch_label=b"training")
        write(folder / name, python2(content))
    fine = [b"fine_%02d" % i for i in range(100)]
    write(folder / "meta", python2({b"fine_label_names": fine, b"coarse_label_names": [b"coarse"] * 20}))
    write(folder / "file.txt~", "")
    return expected


def gtsrb(root: Path, training: str = "GTSRB/Final_Training/Images", truth: str = "GT-final_test.csv") -> Expected:
    """43 classes of one or two tracks of a PPM each, test images whose list is not in the order of their names."""
    expected, head = nothing(), "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2"
    for label in range(43):
        folder = root / training / f"{label:05d}"
        lines = [f"{head};ClassId"]
        for track in range(1 + label % 2):
            name = f"0000{track}_00000.ppm"
            write(folder / name, expected.train.add(picture(100 * label + track), label))
            lines.append(f"{name};32;32;5;5;27;27;{label}")
        write(folder / f"GT-{label:05d}.csv", "\r\n".join(lines) + "\r\n")
    write(root / "GTSRB/Readme-Images.txt", "about")
    images, lines = root / "GTSRB/Final_Test/Images", []
    for name, label in (("00002.ppm", 42), ("00000.ppm", 16), ("00001.ppm", 1)):
        write(images / name, expected.test.add(picture(9000 + label), label))
        lines.append(f"{name};32;32;6;5;27;26")
    write(images / "GT-final_test.test.csv", "\r\n".join([head, *lines]) + "\r\n")
    labelled = [f"{line};{label}" for line, label in zip(lines, expected.test.labels, strict=True)]
    write(root / truth, "\r\n".join([f"{head};ClassId", *labelled]) + "\r\n")
    return expected


def image_folder(root: Path, test: str = "test") -> Expected:
    """Three classes whose creation order is not the sorted one; a format each, nested folders, and litter."""
    expected = nothing()
    files = {
        "train": ["Zebra/b.bmp", "Zebra/a.PNG", "ant/c.ppm", "cat/deep/er/e.png", "cat/d.webp", "cat/deep/d.tiff"],
        test: ["cat/f.png", "ant/g.png", "Zebra/h.png"],
    }
    kinds = {"bmp": "BMP", "png": "PNG", "ppm": "PPM", "webp": "WEBP", "tiff": "TIFF"}
    for split, part in (("train", expected.train), (test, expected.test)):
        for name in sorted(files[split], key=lambda n: (str(Path(n).parent), n)):
            image = picture(hash_of(split + name), 64)
            part.add(image, ["Zebra", "ant", "cat"].index(name.split("/")[0]))
            write(root / "pets" / split / name, image, kinds[name.rpartition(".")[2].lower()])
    for litter in (".DS_Store", "Thumbs.db", "cat/Thumbs.db", "cat/._d.png", "cat/.hidden.png", "cat/notes.txt"):
        write(root / "pets/train" / litter, b"\0\1")
    for hidden in ("_old/x.png", ".cache/x.png", "cat/_thumbs/x.png", "cat/.git/x.png"):
        write(root / "pets/train" / hidden, picture(0))
    return expected


def hash_of(text: str) -> int:
    return sum(ord(letter) * (at + 1) for at, letter in enumerate(text))


def imagenette(root: Path, folder: str = "imagenette2") -> Expected:
    """JPEGs, of which one is grey and one CMYK, and the list of noisy labels beside them."""
    expected = nothing()
    for split, part in (("train", expected.train), ("val", expected.test)):
        for label, wnid in enumerate(WNIDS):
            image = part.add(picture(label + len(split), 128), label)
            write(root / folder / split / wnid / f"{wnid}_{label}.JPEG", image, "JPEG")
    path = root / folder / "train"
    grey, cmyk = (picture(number, 128) for number in (77, 78))
    grey[:] = grey[..., :1]
    Image.fromarray(grey[..., 0]).save(path / WNIDS[0] / "n01440764_1.JPEG", quality=97)
    Image.fromarray(cmyk).convert("CMYK").save(path / WNIDS[0] / "n01440764_2.JPEG", quality=97)
    expected.train.pictures[1:1] = [grey, cmyk]
    expected.train.labels[1:1] = [0, 0]
    write(root / folder / "noisy_imagenette.csv", "path,noisy_labels_0\n")
    write(root / folder / "train/.DS_Store", b"")
    return expected


def tiny_imagenet(root: Path, val: str = "flat") -> Expected:
    """Three classes, listed in another order than the sorted one; `val` is flat as published, "images" or "bare"."""
    expected, folder = nothing(), root / "tiny-imagenet-200"
    listed, wnids = ["n03", "n01", "n02"], ["n01", "n02", "n03"]
    write(folder / "wnids.txt", "\n".join(listed) + "\n")
    write(
        folder / "words.txt",
        "n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tbee\nn03\tAfrican elephant, Loxodonta\n",
    )
    for label, wnid in enumerate(wnids):
        for number in range(2):
            image = expected.train.add(picture(10 * label + number, 64), label)
            write(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", image, "JPEG")
        write(folder / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t62\t63\r\n")
    lines = []
    for number, label in enumerate([2, 0, 1] if val == "flat" else [0, 1, 2]):
        image = expected.test.add(picture(500 + number, 64), label)
        place = {"flat": "images", "images": f"{wnids[label]}/images", "bare": wnids[label]}[val]
        write(folder / "val" / place / f"val_{number}.JPEG", image, "JPEG")
        lines.append(f"val_{number}.JPEG\t{wnids[label]}\t0\t32\t44\t62\r\n")
    write(folder / "val/val_annotations.txt", "".join(lines))
    write(folder / "test/images/test_0.JPEG", picture(0, 64), "JPEG")
    return expected
