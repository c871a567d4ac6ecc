"""What the readers of image data sets share: the shape of one, finding files, decoding them into one uint8 tensor."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from bdray.data import Data, Samples
from bdray.imagefile import opened
from bdray.spec import BadInput

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
CHUNK = 64  # images a thread takes at a time: one by one, small images cost more to hand over than to decode


class Images(Data):
    """Class-labelled images, uint8 [N, C, H, W], all of one size."""

    modality: ClassVar[str] = "image"
    mean: ClassVar[tuple[float, ...]] = IMAGENET_MEAN
    """Of pixels in 0..1, per channel: what the models subtract."""
    std: ClassVar[tuple[float, ...]] = IMAGENET_STD
    flip: ClassVar[bool] = True
    """Whether a mirrored image still shows its class."""

    def class_folders(self, folders: Sequence[Path], size: int) -> Samples:
        """The images below each class's folder, at any depth; class c is the c-th folder. An empty one is BadInput."""
        paths: list[Path] = []
        targets: list[int] = []
        for number, folder in enumerate(folders):
            if not folder.is_dir():
                self.missing(folder)
            found = image_files(folder)
            if not found:
                self.missing(folder, "holds no images")
            paths += found
            targets += [number] * len(found)
        return Samples(decode(paths, size), torch.tensor(targets, dtype=torch.int64))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones and those that start with an underscore."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "_")))


def image_files(folder: Path) -> list[Path]:
    """Every image below a folder, sorted by folder, then by name, without hidden files and what `subfolders` skips."""
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        found += [(here, name) for name in files if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
    return [Path(here, name) for here, name in sorted(found)]


def decode(encoded: Sequence[Path] | Sequence[bytes], size: int | None, names: Sequence[str] | None = None) -> Tensor:
    """RGB images as uint8 [N, 3, H, W], resized to `size` x `size` (bilinear, antialiased) unless None.

    Raises BadInput with the file's name where one is damaged, or where sizes differ and `size` is None.
    """

    def name(at: int) -> str:
        source = encoded[at]
        if names is not None:
            return names[at]
        return f"number {at}" if isinstance(source, bytes) else str(source)

    def one(at: int) -> np.ndarray:
        try:
            return _pixels(encoded[at], size)
        except Exception as error:  # what decoders raise on foreign bytes is no closed list
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise BadInput(f"the image {name(at)} is damaged ({why}); fetch the data set again or remove it") from None

    count = len(encoded)
    first = one(0)
    out = np.empty((count, *first.shape), dtype=np.uint8)

    def fill(start: int) -> int:
        chunk = range(start, min(start + CHUNK, count))
        for at in chunk:
            pixels = one(at)
            if pixels.shape != first.shape:
                got, expected = (f"{p.shape[2]}x{p.shape[1]}" for p in (pixels, first))
                raise BadInput(f"the image {name(at)} is {got}, expected {expected} as the first one")
            out[at] = pixels
        return len(chunk)

    quiet = None if count > 5000 else True
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(None, "reading images", count, False, disable=quiet) as bar:
        for done in pool.map(fill, range(0, count, CHUNK)):
            bar.update(done)
    return torch.from_numpy(out)


def _pixels(source: Path | bytes, size: int | None) -> np.ndarray:
    """One image as uint8 [3, H, W]."""
    with opened(source) as image:
        if image.mode[0] in "IF":  # Pillow would clip them to white
            raise ValueError(f"its pixels are {image.mode}, expected 8 bits a channel")
        # A palette with shades of transparency goes through RGBA, or Pillow warns.
        rgb = (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
        if size is not None and rgb.size != (size, size):
            rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(rgb).transpose(2, 0, 1)
