"""A made miniature of UCF101: 16 frames of a shape that moves or changes its size in one of 6 ways, as .avi files."""

from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

from bdray.data import Published
from bdray.data._made import made, own_folder
from bdray.data._videos import Videos, ucf
from bdray.packages import need
from bdray.seeds import rng
from bdray.spec import BadInput, Config, Count

SIZE, LENGTH = 32, 16
MOTIONS = {
    "MoveRight": (1, 0, 0),
    "MoveLeft": (-1, 0, 0),
    "MoveDown": (0, 1, 0),
    "MoveUp": (0, -1, 0),
    "Grow": (0, 0, 1),
    "Shrink": (0, 0, -1),
}
"""Columns, rows and radius, times the speed, a frame."""
GROUPS, CLIPS, TESTED = 20, 4, 5
"""Of each class, of each group; the groups that a split tests on."""
FOLDER = "moving_shapes-1"
"""The number changes with what is written, so that no older miniature is taken for it."""
FINE = 16
"""Places and radii are whole sixteenths of a pixel, so that a clip is the same to the bit on every machine."""


class MovingShapes(Videos):
    """Only the motion tells the class: shape, colours, background, size and speed are drawn. The files are written on first
    use, below the data folder or the user's cache folder, in UCF101's layout with its traps (CRLF, classes from 1, no
    labels in the test lists, a class whose files spell it otherwise), and read as UCF101's are. Their codec is lossless, so
    that the clips are the same to the bit whatever decodes them."""

    home: ClassVar[str] = "bdray itself (bdray/data/moving_shapes.py)"
    layout: ClassVar[str] = "nothing, or what it wrote itself"
    unit: ClassVar[str] = "a group"
    flip: ClassVar[bool] = False
    suited_model: ClassVar[Config] = {"name": "conv3d", "width": 8}

    frames: Count = LENGTH
    size: Count = SIZE

    def read(self, root: Path) -> Published:
        return ucf(self, made(root, FOLDER, write), 1)

    def again(self, path: Path) -> str:
        return f"remove the folder {own_folder(path, FOLDER)}, and it is made again"

    def missing(self, folder: Path, problem: str = "is not there") -> NoReturn:
        raise BadInput(f"{self.name}: {folder} {problem}; {self.again(folder)}")


def write(base: Path) -> None:
    """The whole miniature, below an empty folder."""
    lists = base / "ucfTrainTestlist"
    lists.mkdir()
    _list(lists / "classInd.txt", [f"{number} {name}" for number, name in enumerate(MOTIONS, start=1)])
    names = {
        name: [f"v_{name}_g{g:02d}_c{c:02d}.avi" for g in range(1, GROUPS + 1) for c in range(1, CLIPS + 1)] for name in MOTIONS
    }
    names["MoveUp"] = [name.replace("MoveUp", "Moveup") for name in names["MoveUp"]]
    for split in (1, 2, 3):
        tested = slice((split - 1) * TESTED * CLIPS, split * TESTED * CLIPS)
        train, test = [], []
        for number, (name, clips) in enumerate(names.items(), start=1):
            test += [f"{name}/{clip}" for clip in clips[tested]]
            train += [f"{name}/{clip} {number}" for clip in clips if clip not in clips[tested]]
        _list(lists / f"trainlist{split:02d}.txt", train)
        _list(lists / f"testlist{split:02d}.txt", test)
    for name, clips in names.items():
        folder = base / "UCF-101" / name
        folder.mkdir(parents=True)
        for number, clip in enumerate(clips):
            _encode(folder / clip, drawn(name, number // CLIPS, number % CLIPS))


def _list(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\r\n" for line in lines), newline="")


def drawn(motion: str, group: int, clip: int) -> Tensor:
    """One clip, uint8 [T, H, W, 3]. A group has one scene: shape, colours and background."""
    scene, draw = rng(0, "moving_shapes", motion, group), rng(0, "moving_shapes", motion, group, clip)

    def among(generator: torch.Generator, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    kind, bright = among(scene, 0, 2), among(scene, 0, 1)
    dark, contrast = among(scene, 20, 100, 3), among(scene, 90, 135, 3)
    blocks = among(scene, -12, 12, SIZE // 4, SIZE // 4, 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
    across, down, bigger = MOTIONS[motion]
    steps = torch.arange(LENGTH) * 2 - (LENGTH - 1)  # from the middle of the clip, in half frames
    middle = SIZE * FINE // 2 + among(draw, -3 * FINE, 3 * FINE, 2)
    speed = among(draw, FINE // 2, FINE)
    column, row = middle[0] + across * speed * steps // 2, middle[1] + down * speed * steps // 2
    radius = among(draw, 5 * FINE, 6 * FINE) + bigger * (speed // 2) * steps // 2
    grid = torch.arange(SIZE) * FINE + FINE // 2
    x = (grid[None, None, :] - column[:, None, None]).abs().expand(-1, SIZE, -1)
    y = (grid[None, :, None] - row[:, None, None]).abs().expand(-1, -1, SIZE)
    far = (torch.maximum(x, y) * 9 // 8, x * x + y * y, (x + y) * 3 // 4)[int(kind)]
    reach = radius[:, None, None]
    inside = far <= (reach * reach if kind == 1 else reach)
    light, shade = dark + contrast, dark
    shape, background = (light, shade) if bright else (shade, light)
    pixels = torch.where(inside[..., None], shape, background + blocks)
    return pixels.clamp(0, 255).to(torch.uint8)


def _encode(file: Path, clip: Tensor) -> None:
    av = need("av")
    with av.open(str(file), "w", format="avi") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "bgr0"
        for frame in np.ascontiguousarray(clip.numpy()):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
