"""What the readers of videos share: the shape of a clip, UCF101's folders and lists, files decoded by PyAV."""

import functools
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, BinaryIO, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from bdray.data import Data, Published, Samples
from bdray.data._cache import Reading, read
from bdray.memory import whole_memory
from bdray.packages import need
from bdray.samples import Lines
from bdray.spec import Amount, Aside, BadInput, Config, Count, NonNegative

KINETICS_MEAN = (0.45, 0.45, 0.45)
KINETICS_STD = (0.225, 0.225, 0.225)
FORMATS = {".avi": "avi", ".mp4": "mov", ".m4v": "mov", ".mov": "mov"}
"""FFmpeg's readers by the end of a file's name. It knows many more, by a file's first bytes: a playlist would lead it to other
files, and of most formats nobody can tell that the end is lost."""
LARGEST = 2**26
"""Pixels of one frame; see bdray.imagefile."""
LOST = 0.9
"""Share of the packets in a file that must give frames: MPEG-4's packed ones come to a few fewer."""


class Videos(Data):
    """Class-labelled clips, uint8 [N, C, T, H, W], all of one size: one clip a video, from its middle. The shorter side of a
    frame becomes `size` pixels, and the middle square is kept."""

    modality: ClassVar[str] = "video"
    mean: ClassVar[tuple[float, ...]] = KINETICS_MEAN
    """Of pixels in 0..1, per channel: what the models subtract."""
    std: ClassVar[tuple[float, ...]] = KINETICS_STD
    flip: ClassVar[bool] = True
    """Whether a mirrored clip still shows its class."""
    suited_model: ClassVar[Config] = {"name": "conv3d"}

    frames: Count = 16
    """Frames of a clip."""
    stride: Amount = 0
    """Frames from one to the next; 0: evenly spaced from the first of the video to its last. Where the video is too short, its
    first and last frames are repeated."""
    size: Count = 112
    """Height and width in pixels."""

    cache: Annotated[NonNegative, Aside()] = 64.0
    """GiB that decoded clips may take below the user's cache folder, of all settings together; those used longest ago go. Where
    it is 0, clips are decoded into memory, by every process anew."""

    def clips(self, paths: Sequence[Path]) -> Tensor | Lines:
        """One clip of each path, in order. Raises BadInput that names the one that is damaged."""
        shape = (3, self.frames, self.size, self.size)
        setting = {"frames": self.frames, "stride": self.stride, "size": self.size}
        reading = Reading(
            *("clips", setting, [""] * len(paths), paths, shape, "uint8", os.cpu_count() or 1),
            one=lambda at: self._clip(paths[at]),
            all=lambda: self._in_memory(paths),
        )
        return read(self, self.cache, reading)

    def _in_memory(self, paths: Sequence[Path]) -> np.ndarray:
        """The same as one array."""
        shape = (len(paths), 3, self.frames, self.size, self.size)
        needed, most = 3 * len(paths) * self.frames * self.size**2, whole_memory()
        if needed > most:
            raise BadInput(
                f"{self.name}.frames: {len(paths)} clips of {self.frames} frames of {self.size}x{self.size} pixels take "
                f"{needed / 2**30:.3g} GiB, more than the {most / 2**30:.3g} GiB of memory here; lower frames or size"
            )
        out = np.empty(shape, dtype=np.uint8)

        def fill(at: int) -> None:
            out[at] = self._clip(paths[at])

        quiet = None if len(paths) > 1000 else True
        with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(None, "reading videos", len(paths), False, disable=quiet) as bar:
            for _ in pool.map(fill, range(len(paths))):
                bar.update()
        return out

    def decoded(self, path: Path) -> Sequence[np.ndarray]:
        """The frames of one clip, `frames` of uint8 [H, W, 3]: of a file in one of FORMATS. A data set that keeps its clips
        otherwise says so here; what is raised makes a sentence with the path."""
        check_length(path)
        return frames(path, self.frames, self.stride)

    def _clip(self, path: Path) -> np.ndarray:
        """One clip as uint8 [3, T, H, W]."""
        try:
            return np.stack([self._square(frame) for frame in self.decoded(path)], axis=1)
        except BadInput:
            raise
        except OSError as error:
            if error.errno and type(error).__module__ == "builtins":  # of the disk, not of the decoder
                raise BadInput(f"cannot read the video {path} ({error.strerror}); mend that, or remove it") from None
            why = error.strerror or str(error) or type(error).__name__
        except Exception as error:  # what decoders raise on foreign bytes is no closed list
            why = str(error) or type(error).__name__
        raise BadInput(f"the video {path} is damaged ({why.splitlines()[0]}); {self.again(path)}")

    def again(self, path: Path) -> str:
        """How a damaged file of the data set is got anew."""
        return "fetch the data set again, or remove it"

    def _square(self, frame: np.ndarray) -> np.ndarray:
        """The middle square of a frame [H, W, 3], as uint8 [3, size, size]."""
        height, width = frame.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = frame[top : top + side, left : left + side]
        if side != self.size:
            square = np.asarray(Image.fromarray(square).resize((self.size, self.size), Image.Resampling.BILINEAR))
        return square.transpose(2, 0, 1)


def check_length(path: Path) -> None:
    """Raise ValueError for a file that is shorter than it says, of which a decoder may show what is left without a word, and
    for one that is in none of FORMATS."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"its name ends in {path.suffix!r}, expected {', '.join(FORMATS)}")
    with path.open("rb") as file:
        head, length = file.read(12), path.stat().st_size
        said = _boxes_end(file, length) if FORMATS[path.suffix.lower()] == "mov" else _avi_end(head, length)
    if length < said:
        raise ValueError(f"it is {length:,} bytes long, and its header says {said:,}")


def _avi_end(head: bytes, length: int) -> int:
    """Where an AVI ends by its first bytes; 0 in one that was written as a stream."""
    if head[:4] != b"RIFF" or head[8:] != b"AVI ":
        raise ValueError("it does not begin as an AVI does" if length else "it is empty")
    said = int.from_bytes(head[4:8], "little")
    return said and said + 8


def _boxes_end(file: BinaryIO, length: int) -> int:
    """Where the last of the boxes ends that an MP4 is made of, each of which says its length."""
    at = 0
    while at + 8 <= length:
        file.seek(at)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if not at and kind not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            raise ValueError("it does not begin as an MP4 does")
        if size == 0:  # to the end of the file
            return length
        size = int.from_bytes(head[8:], "big") if size == 1 else size
        if size < 8:
            raise ValueError("a box in it has no length")
        at += size
    if not at:
        raise ValueError("it is empty" if not length else "it does not begin as an MP4 does")
    return at


def frames(path: Path, count: int, stride: int) -> list[np.ndarray]:
    """`count` frames of a video's middle, uint8 [H, W, 3]. Raises what PyAV raises, and ValueError where frames are lost."""
    opened = functools.partial(need("av").open, str(path), format=FORMATS[path.suffix.lower()])
    with opened() as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("its codec is none that PyAV reads")
        if stream.width * stream.height > LARGEST:
            raise ValueError(f"its frames have {stream.width}x{stream.height} pixels, more than {LARGEST}")
        total = sum(packet.size > 0 for packet in container.demux(stream))
    wanted = positions(total, count, stride)
    found: dict[int, np.ndarray] = {}
    at = -1
    with opened() as container:
        for at, frame in enumerate(container.decode(video=0)):
            if at in wanted:
                found[at] = frame.to_ndarray(format="rgb24")
            if at >= wanted[-1]:
                break
            last = frame
    if at < wanted[-1]:
        if at + 1 < LOST * total or at < 0:
            raise ValueError(f"only {at + 1} of its {total} frames can be decoded")
        for missing in {place for place in wanted if place > at}:
            found[missing] = last.to_ndarray(format="rgb24")
    return [found[place] for place in wanted]


def positions(total: int, count: int, stride: int) -> list[int]:
    """Which of a video's `total` frames make a clip; see Videos.stride. Raises ValueError where there are none."""
    if not total:
        raise ValueError("it has no frames")
    if stride:
        first = (total - 1 - (count - 1) * stride) // 2
        places = [first + stride * number for number in range(count)]
    else:
        places = [(2 * number + 1) * total // (2 * count) for number in range(count)]
    return [min(max(place, 0), total - 1) for place in places]


def ucf(data: Videos, base: Path, split: int) -> Published:
    """A data set in UCF101's layout: UCF-101/<Class>/*.avi and the lists of ucfTrainTestlist below `base`. Labels are the
    folders' names: a file's own may spell its class otherwise. A group (gNN) of a class is a unit."""
    videos, lists = base / "UCF-101", base / "ucfTrainTestlist"
    for folder in (videos, lists):
        if not folder.is_dir():
            data.missing(folder)
    names = _classes(data, lists / "classInd.txt")
    numbers = {name: number for number, name in enumerate(names)}
    listed: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    for part, found in listed.items():
        file = lists / f"{part}list{split:02d}.txt"
        for line, text in _lines(data, file):
            clip, _, label = text.partition(" ")
            name = clip.partition("/")[0]
            if name not in numbers:
                data.missing(file, f"names the class {name!r} in line {line}, which classInd.txt lacks")
            if label and label != str(numbers[name] + 1):
                data.missing(file, f"says class {label!r} in line {line}, but classInd.txt numbers {name} {numbers[name] + 1}")
            if not (videos / clip).is_file():
                data.missing(videos / clip, f"is listed in {file.name}, line {line}, but is not there")
            found.append((videos / clip, numbers[name]))
    if twice := {path for path, _ in listed["train"]} & {path for path, _ in listed["test"]}:
        data.missing(lists, f"names {min(twice).name} both to train and to test in split {split}")
    train, test = (
        Samples(data.clips([path for path, _ in part]), torch.tensor([label for _, label in part], dtype=torch.int64))
        for part in listed.values()
    )
    return Published(train, test, names, _groups(listed["train"]))


def _groups(listed: Sequence[tuple[Path, int]]) -> Tensor:
    """The number of each clip's group in its class, int64 [N]; a name without one is a group by itself."""
    names = []
    for path, label in listed:
        group = re.search(r"_(g\d+)_c\d+$", path.stem)
        names.append((label, group[1] if group else path.stem))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.int64)


def _classes(data: Videos, file: Path) -> list[str]:
    """The names of classInd.txt, whose numbers start at 1."""
    found: list[str] = []
    for line, text in _lines(data, file):
        number, _, name = text.partition(" ")
        if number != str(len(found) + 1) or not name:
            data.missing(file, f"has {text!r} in line {line}, not the number {len(found) + 1} and the name of a class")
        found.append(name)
    return found


def _lines(data: Videos, file: Path) -> list[tuple[int, str]]:
    """The lines of a list with their numbers, of any line end, without empty ones."""
    if not file.is_file():
        data.missing(file)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise BadInput(f"cannot read the list {file} ({error}); {data.again(file)}") from None
    found = [(number, text.strip()) for number, text in enumerate(lines, start=1) if text.strip()]
    if not found:
        data.missing(file, "is empty")
    return found
