"""What the readers of image data sets share: the shape of one, finding files, decoding them into one uint8 tensor."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from bdray.data import Data
from bdray.imagefile import opened
from bdray.memory import whole_memory
from bdray.samples import Samples
from bdray.spec import BadInput

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
UNREAD = (".gif", ".jfif", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".svg", ".psd", ".dcm", ".npy")
"""Images or arrays that the readers of folders do not take."""
CHUNK = 64  # images a thread takes at a time: one by one, small images cost more to hand over than to decode


class Images(Data):
    """Class-labelled images, uint8 [N, C, H, W], all of one size."""

    modality: ClassVar[str] = "image"
    mean: ClassVar[tuple[float, ...]] = IMAGENET_MEAN
    """Of pixels in 0..1, per channel: what the models subtract."""
    std: ClassVar[tuple[float, ...]] = IMAGENET_STD
    flip: ClassVar[bool] = True
    """Whether a mirrored image still shows its class."""

    def check_memory(self, count: int, size: int, lower: str = "size", each: int = 3) -> None:
        """Raise BadInput for so many images of this height and width that no memory here holds them, `each` bytes a pixel."""
        needed, most = count * size * size * each, whole_memory()
        if needed > most:
            raise BadInput(
                f"{self.name}.{lower}: got {count} images of {size}x{size} pixels, which take {needed / 2**30:.3g} GiB, more "
                f"than the {most / 2**30:.3g} GiB of memory here; lower it"
            )

    def class_folders(self, folders: Sequence[Path], size: int) -> Samples:
        """The images below each class's folder, at any depth; class c is the c-th folder. An empty one is BadInput; what was
        skipped although it looks like images is a warning."""
        paths: list[Path] = []
        targets: list[int] = []
        skipped: list[str] = []
        for number, folder in enumerate(folders):
            if not folder.is_dir():
                self.missing(folder)
            found, odd = images_and_skipped(folder)
            skipped += odd
            if not found:
                self.missing(folder, f"holds no images{f' but {odd[0]}' if odd else ''}")
            paths += found
            targets += [number] * len(found)
        self.tell(skipped)
        self.check_memory(len(paths), size)
        return Samples(decode(paths, size), torch.tensor(targets, dtype=torch.int64))

    def tell(self, skipped: Sequence[str]) -> None:
        """Warn of what was not read."""
        if skipped:
            more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
            told = f"{', '.join(skipped[:3])}{more}"
            warnings.warn(f"{self.name}: skipped {told}; rename or convert what belongs to the data set", stacklevel=2)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones, those that start with an underscore, and links to folders
    that the folder itself is in."""
    return [Path(entry.path) for entry in _entries(folder) if not _skips(entry) and _is_dir(entry) and not _is_above(entry)]


def skipped_folders(folder: Path) -> list[str]:
    """What `subfolders` leaves out although there are images in it, in words."""
    found = []
    for entry in _entries(folder):
        if not entry.name.startswith("."):
            if _is_dir(entry) and _is_above(entry):
                found.append(f"the link {entry.path}, which leads to a folder above it")
            elif _is_dir(entry) and _skips(entry) and image_files(Path(entry.path)):
                found.append(f"the folder {entry.path}, whose name starts with an underscore")
            elif entry.is_symlink() and not os.path.exists(entry.path):
                found.append(f"the link {entry.path}, which leads nowhere")
            elif _is_file(entry) and entry.name.lower().endswith(EXTENSIONS):
                found.append(f"the image {entry.path}, which is in no class folder")
    return found


def image_files(folder: Path) -> list[Path]:
    """Every image below a folder, sorted by folder, then by name, without hidden files and what `subfolders` skips."""
    return images_and_skipped(folder)[0]


def images_and_skipped(folder: Path) -> tuple[list[Path], list[str]]:
    """The images of `image_files`, and in words what was left out although it looks like images. Links are followed, but not to
    a folder that they are in."""
    found: list[tuple[str, str]] = []
    skipped: list[str] = []
    others = 0
    left: list[tuple[str, tuple[str, ...]]] = [(os.fspath(folder), (os.path.realpath(folder.parent),))]
    while left:
        here, jumps = left.pop()
        for entry in _entries(here):
            name = entry.name.lower()
            if name.startswith("."):
                continue
            if _is_dir(entry):
                if _is_above(entry, *jumps):
                    skipped.append(f"the link {entry.path}, which leads to a folder above it")
                elif _skips(entry):
                    skipped.append(f"the folder {entry.path}, whose name starts with an underscore")
                else:
                    jumps_then = (*jumps, os.path.realpath(here)) if entry.is_symlink() else jumps
                    left.append((entry.path, jumps_then))
            elif name.endswith(EXTENSIONS):
                if not _is_file(entry):
                    raise BadInput(f"the image {entry.path} is a link to nothing, a pipe or a device; remove or mend it")
                found.append((here, entry.name))
            elif name.endswith(UNREAD):
                others += 1
                example = entry.path
    if others:
        skipped.append(f"{others} file{'s' * (others > 1)} of other formats than {' '.join(EXTENSIONS)}, such as {example}")
    return [Path(here, name) for here, name in sorted(found)], skipped


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name. Raises BadInput where it cannot be listed, which is not to be taken for empty."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise BadInput(f"cannot read the folder {folder} ({error.strerror}); make it readable, or move it away") from None


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or leads to one; a link to itself, or to where nobody may look, leads to none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """The same of a file."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _skips(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith((".", "_"))


def _is_above(entry: os.DirEntry[str], *jumps: str) -> bool:
    """Whether it is a link to a folder that the link itself lies in, or one of the folders whose links led to it: below it
    everything comes again, without an end."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    places = (os.path.realpath(os.path.dirname(entry.path)), *jumps)
    return any(os.path.commonpath([target, place]) == target for place in places)


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
            if isinstance(error, OSError) and error.errno:  # of the disk, not of the decoder
                raise BadInput(f"cannot read the image {name(at)} ({error.strerror}); mend that, or remove it") from None
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
