"""Clips and clouds: how fast an epoch's batches come from the cache of decoded ones (bdray/data/_cache.py), against the obvious
way: a DataLoader of two workers that decodes each clip, or samples each mesh, whenever it is asked for.

Clips of 320x240 pixels, MPEG-4 in .avi, are written for it, as UCF101's are, and meshes in ModelNet's layout by `solids`. Both
ways give the same batches, ready for a model; `training` is an epoch of a narrow one over them. Then an epoch over a cache
that is larger than the memory that the process may use, against the same without the bound (root, and cgroups of version 1).

    python benchmarks/loading.py [--clips 64] [--rounds 3] [--large 4]
"""

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import PeakMemory, alone, in_turns, machine, markdown, ratio, seconds
from torch.utils.data import DataLoader, Dataset

from bdray.experiment import Experiment
from bdray.packages import need
from bdray.samples import Lines, Samples, Splits
from bdray.seeds import rng
from bdray.task import Task
from bdray.training import batches, device, place

LIMIT = 1536
"""MiB that the process with a bound may use."""
GROUP = Path("/sys/fs/cgroup/memory/bdray-loading")


class Obvious(Dataset[tuple[torch.Tensor, int]]):
    """Each sample from its file, whenever it is asked for."""

    def __init__(self, one: Callable[[int], np.ndarray], count: int) -> None:
        self.one, self.count = one, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        torch.set_num_threads(1)
        return torch.from_numpy(self.one(at).copy()), at % 2


def write_clips(folder: Path, count: int) -> list[Path]:
    """Clips of 75 frames of moving noise, about 150 kB each."""
    av, draw = need("av"), np.random.default_rng(0)
    for number in range(count):
        scene = draw.integers(0, 255, (30, 40, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
        with av.open(str(folder / f"{number:03d}.avi"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 400_000
            for at in range(75):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(scene[at : at + 240, at : at + 320]), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return sorted(folder.glob("*.avi"))


def epoch(task: Task, parts: Iterable[Samples], model: Any = None) -> None:
    """Every batch as a model takes it, and where there is one a step of it."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01) if model else None
    for part in parts:
        batch = task.collate(part).to(device())
        if optimizer:
            optimizer.zero_grad()
            task.loss(model, batch).backward()
            optimizer.step()


def compared(kind: str, task: Task, stored: Lines, one: Callable[[int], np.ndarray], rounds: int) -> list[list[str]]:
    """Samples a second, both ways, with and without a model, and the memory of each."""
    count = len(stored)
    samples = Samples(stored, torch.arange(count) % 2)
    loader = DataLoader(Obvious(one, count), 16, shuffle=True, num_workers=2)
    splits = Samples(stored[torch.tensor([0, 1])].dense(), torch.tensor([0, 1]))
    net = place(task.build(task.outline(Splits(splits, splits, splits, ["a", "b"])), rng(0, "weights")))

    def ours() -> Iterator[Samples]:
        return batches(samples, 16, rng(0, "order"))

    def obvious() -> Iterator[Samples]:
        return (Samples(x, y) for x, y in loader)

    found, lines = {}, []
    for what, model in (("loading", None), ("training", net)):
        ways = {
            "cache": lambda model=model: count / seconds(lambda: epoch(task, ours(), model)),
            "obvious": lambda model=model: count / seconds(lambda: epoch(task, obvious(), model)),
        }
        found = in_turns(ways, rounds)
        with PeakMemory() as mine:
            epoch(task, ours(), model)
        with PeakMemory() as other:
            epoch(task, obvious(), model)
        middle, least, most = ratio(found, "cache", "obvious")
        speeds = [f"{sorted(found[way])[rounds // 2]:.0f}" for way in ways]
        lines.append(
            [f"{kind}, {what}", *speeds, f"{middle:.1f} ({least:.1f} to {most:.1f})", f"{mine.mib:.0f}", f"{other.mib:.0f}"]
        )
    return lines


def larger(bound: bool) -> None:
    """An epoch over a file of clips, with the bound or without; prints seconds and MiB as JSON."""
    task = Experiment.of({"task": "video"}).task
    path = Path(os.environ["BDRAY_LARGE"])
    shape = (3, 16, 112, 112)
    count = path.stat().st_size // int(np.prod(shape))
    if bound:
        (GROUP / "tasks").write_text(str(os.getpid()))
    stored = Lines(torch.from_numpy(np.memmap(path, np.uint8, "c", shape=(count, *shape))), torch.arange(count))
    samples = Samples(stored, torch.arange(count) % 2)
    took = seconds(lambda: epoch(task, batches(samples, 16, rng(0, "order"))))
    status = Path("/proc/self/status").read_text().splitlines()
    own = {line.split()[0]: int(line.split()[1]) / 1024 for line in status if line.startswith(("RssAnon", "VmHWM"))}
    print(json.dumps({"seconds": took, "clips": count, **own}))


def large(gib: float) -> list[str]:
    """What an epoch over a file larger than the bound takes, as lines of text."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "lines").resolve()
        block = np.random.default_rng(0).integers(0, 256, 2**26, dtype=np.uint8).tobytes()
        with path.open("wb") as file:
            for _ in range(int(gib * 2**30 / 2**26)):
                file.write(block)
        os.environ["BDRAY_LARGE"] = str(path)
        lines = []
        try:
            GROUP.mkdir(exist_ok=True)
            (GROUP / "memory.limit_in_bytes").write_text(str(LIMIT * 2**20))
            ways = {"no bound": "free", f"at most {LIMIT} MiB": "bound"}
        except OSError as error:
            ways = {"no bound": "free"}
            lines.append(f"without a bound alone: no cgroup can be made here ({error.strerror})")
        for name, word in ways.items():
            with path.open("rb") as file:  # or the pages would be there already, and count for who wrote them
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            told = json.loads(alone(word))
            lines.append(
                f"{gib:g} GiB, {name}: {told['clips'] / told['seconds']:.0f} clips a second, {told['seconds']:.1f} s, "
                f"{told['RssAnon:']:.0f} MiB of its own, {told['VmHWM:']:.0f} with what is mapped"
            )
        with contextlib.suppress(OSError):
            GROUP.rmdir()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=float, default=4.0, help="GiB; 0: leave that out")
    parser.add_argument("way", nargs="?", choices=("free", "bound"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        larger(options.way == "bound")
        return
    print(machine())
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        clips = Path(folder, "clips-of-320x240")
        clips.mkdir()
        paths = write_clips(clips, options.clips)
        video: Any = Experiment.of({"task": {"name": "video", "data": "ucf101", "model": {"name": "conv3d", "width": 4}}}).task
        first = seconds(lambda: video.data.clips(paths))
        lines += compared("clips", video, video.data.clips(paths), lambda at: video.data._clip(paths[at]), options.rounds)
        points: Any = Experiment.of({"task": {"name": "points", "data": {"name": "solids", "points": 1024}}}).task
        base = Path(folder, "solids")
        points.data.read(base.parent)
        meshes = sorted(Path(folder).rglob("*.off"))
        stored = points.data.clouds(meshes, meshes[0].parents[2])

        def one(at: int) -> np.ndarray:
            return points.data._cloud(meshes[at], str(at)).astype(np.float32)

        lines += compared("clouds", points, stored, one, options.rounds)
    print(markdown(["samples a second", "cache", "obvious", "ratio", "MiB", "MiB"], lines))
    print(f"the first reading of {options.clips} clips: {first:.1f} s")
    for line in large(options.large) if options.large else []:
        print(line)


if __name__ == "__main__":
    main()
