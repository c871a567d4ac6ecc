"""The reader of UCF101, on a miniature in its layout with that layout's traps, and on the real lists and clips."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import av
import numpy as np
import pytest
import torch
import video_miniatures as made
from PIL import Image

from bdray.data import Data, Published
from bdray.data._videos import Videos, positions
from bdray.samples import dense
from bdray.spec import BadInput

OFFICIAL = {1: (9_537, 3_783), 2: (9_586, 3_734), 3: (9_624, 3_696)}


def read(root: Path, **fields: object) -> Published:
    return Data.of({"name": "ucf101", "frames": 8, "size": 16, **fields}).read(root)


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("split", [1, 2, 3])
@pytest.mark.parametrize("below", [".", "ucf101"])
def test_ucf101(tmp_path: Path, split: int, end: str, below: str) -> None:
    videos = made.ucf101(tmp_path / below, end)
    found = read(tmp_path, split=split)
    assert tuple(found.classes) == made.CLASSES
    tests = [path for path in videos if f"_g{split:02d}_" in path]
    for part, paths in ((found.train, [path for path in videos if path not in tests]), (found.test, tests)):
        assert part.inputs.dtype == torch.uint8
        assert part.targets.tolist() == [made.CLASSES.index(path.split("/")[0]) for path in paths]
        assert np.array_equal(dense(part.inputs).numpy(), np.stack([videos[path].transpose(3, 0, 1, 2) for path in paths]))
    assert found.units is not None
    assert found.units.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_a_group_is_held_out_whole(tmp_path: Path) -> None:
    made.ucf101(tmp_path)
    data = Data.of({"name": "ucf101", "frames": 8, "size": 16, "held": 0.3})
    units, splits = data.read(tmp_path).units, data.splits(tmp_path)
    assert units is not None
    assert sorted(splits.held.targets.tolist()) == sorted(splits.train.targets.tolist()) == [0, 0, 1, 1, 2, 2]
    assert not {*units[splits.held.at].tolist()} & {*units[splits.train.at].tolist()}


@pytest.mark.parametrize(
    ("total", "count", "stride", "places"),
    [
        (16, 16, 0, list(range(16))),
        (8, 4, 0, [1, 3, 5, 7]),
        (100, 2, 0, [25, 75]),
        (3, 6, 0, [0, 0, 1, 1, 2, 2]),
        (11, 3, 4, [1, 5, 9]),
        (10, 3, 1, [3, 4, 5]),
        (4, 4, 2, [0, 0, 2, 3]),  # too short: its ends again
        (1, 3, 5, [0, 0, 0]),
    ],
)
def test_which_frames_make_a_clip(total: int, count: int, stride: int, places: list[int]) -> None:
    assert positions(total, count, stride) == places


def test_frames_and_stride_of_a_file(tmp_path: Path) -> None:
    video = made.frames(1, 11)
    file = made.write(tmp_path / "a.avi", video)
    data = Data.of({"name": "ucf101", "frames": 3, "stride": 4, "size": 16})
    assert isinstance(data, Videos)
    assert np.array_equal(dense(data.clips([file]))[0].numpy(), video[[1, 5, 9]].transpose(3, 0, 1, 2))


def test_the_middle_square_is_kept_and_resized(tmp_path: Path) -> None:
    video = np.zeros((2, 16, 48, 3), dtype=np.uint8)
    video[:, :, 16:32] = 200  # the middle third
    data = Data.of({"name": "ucf101", "frames": 2, "size": 8})
    assert isinstance(data, Videos)
    clip = dense(data.clips([made.write(tmp_path / "a.avi", video)]))
    assert clip.shape == (1, 3, 2, 8, 8)
    assert (clip == 200).all()


def test_mpeg4_as_the_real_ones_are(tmp_path: Path) -> None:
    video = made.smooth(1)
    data = Data.of({"name": "ucf101", "frames": 8, "size": 32})
    assert isinstance(data, Videos)
    clip = dense(data.clips([made.write(tmp_path / "a.avi", video, "mpeg4", "yuv420p")]))[0].numpy().transpose(1, 2, 3, 0)
    assert np.abs(clip.astype(int) - video[:, :, 8:40]).mean() < 12


@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "bgr0"), ("mpeg4", "yuv420p")])
@pytest.mark.parametrize("share", [0.99, 0.8, 0.4, 0.01, 0.0])
def test_a_truncated_video_is_damaged(tmp_path: Path, codec: str, pixels: str, share: float) -> None:
    """A decoder shows what is left of an MPEG-4 one without a word."""
    made.ucf101(tmp_path)
    file = made.write(tmp_path / "UCF-101/YoYo/v_YoYo_g02_c01.avi", made.smooth(1, 30), codec, pixels)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadInput, match=r"the video .*v_YoYo_g02_c01\.avi is damaged \(.*\); fetch the data set again"):
        read(tmp_path)


MP4 = {"codec": "mpeg4", "pixels": "yuv420p"}
FRONT, PARTS = "faststart", "frag_keyframe+empty_moov"
"""Its table of frames is at the front, or in every part of it."""


@pytest.mark.parametrize("name", ["a.mp4", "a.m4v", "a.MP4", "a.mov"])
@pytest.mark.parametrize("flags", ["", FRONT, PARTS])
def test_mp4(tmp_path: Path, name: str, flags: str) -> None:
    video = made.smooth(1)
    data = Data.of({"name": "ucf101", "frames": 8, "size": 32})
    assert isinstance(data, Videos)
    file = made.write(tmp_path / name.lower(), video, **MP4, **({"movflags": flags} if flags else {}))
    clip = dense(data.clips([file.rename(tmp_path / name)]))[0].numpy().transpose(1, 2, 3, 0)
    assert np.abs(clip.astype(int) - video[:, :, 8:40]).mean() < 12


@pytest.mark.parametrize("flags", ["", FRONT, PARTS])
@pytest.mark.parametrize("share", [0.99, 0.9, 0.5, 0.1, 0.002, 0.0])
def test_a_truncated_mp4_is_damaged(tmp_path: Path, flags: str, share: float) -> None:
    file = made.write(tmp_path / "a.mp4", made.smooth(1, 30), **MP4, **({"movflags": flags} if flags else {}))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    data = Data.of({"name": "ucf101", "frames": 8, "size": 16})
    assert isinstance(data, Videos)
    with pytest.raises(BadInput, match=r"the video .*a\.mp4 is damaged \(.*(header says|empty|begin|lost|no video)"):
        data.clips([file])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.webm", b"", r"its name ends in '\.webm', expected \.avi, \.mp4"),
        ("a.mp4", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n", "it does not begin as an MP4 does"),
        ("a.mp4", bytes.fromhex("00000004") + b"ftyp" + bytes(8), "a box in it has no length"),
        ("a.mp4", bytes.fromhex("00000010") + b"ftypisom" + bytes(4), r"."),
    ],
)
def test_what_is_no_video(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    """A playlist would lead the decoder to other files."""
    file = tmp_path / name
    file.write_bytes(content)
    data = Data.of({"name": "ucf101", "frames": 8, "size": 16})
    assert isinstance(data, Videos)
    with pytest.raises(BadInput, match=rf"the video .*{name} is damaged \({told}"):
        data.clips([file])


class Stills(Videos):
    """Clips as folders of images."""

    def read(self, root: Path) -> Published:
        raise NotImplementedError

    def decoded(self, path: Path) -> list[np.ndarray]:
        files = sorted(path.glob("*.png"))
        return [np.asarray(Image.open(files[at])) for at in positions(len(files), self.frames, self.stride)]


def test_clips_that_are_no_files(tmp_path: Path) -> None:
    video = made.frames(1, 4)
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    data = Stills(frames=4, size=16)
    assert np.array_equal(dense(data.clips([tmp_path]))[0].numpy(), video.transpose(3, 0, 1, 2))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty is damaged \(it has no frames\)"):
        data.clips([tmp_path / "empty"])
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"is damaged \(cannot identify image"):
        data.clips([tmp_path])


def test_a_header_without_a_length_is_read(tmp_path: Path) -> None:
    """As programs write it that cannot go back in what they write."""
    made.ucf101(tmp_path)
    file = tmp_path / "UCF-101/YoYo/v_YoYo_g02_c01.avi"
    whole = file.read_bytes()
    before = dense(read(tmp_path).train.inputs)
    file.write_bytes(whole[:4] + bytes(4) + whole[8:])
    assert torch.equal(dense(read(tmp_path).train.inputs), before)


class Short:
    """An opened video of which only some frames can be decoded."""

    def __init__(self, container: Any, count: int) -> None:
        self.container, self.count = container, count
        self.streams, self.demux = container.streams, container.demux

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def decode(self, **stream: int) -> Any:
        return itertools.islice(self.container.decode(**stream), self.count)


@pytest.mark.parametrize("count", [0, 8, 9, 10])
def test_frames_that_are_lost_are_told(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few are what a packed MPEG-4 lacks: the last one stands for them."""
    video = made.frames(1, 10)
    file = made.write(tmp_path / "a.avi", video)
    opener = SimpleNamespace(open=lambda path, **how: Short(av.open(path, **how), count))
    monkeypatch.setattr("bdray.data._videos.need", lambda name: opener)
    data = Data.of({"name": "ucf101", "frames": 10, "size": 16, "cache": 0})  # which knows the file, but not the decoder
    assert isinstance(data, Videos)
    if count < 9:
        with pytest.raises(BadInput, match=rf"a\.avi is damaged \(only {count} of its 10 frames can be decoded\)"):
            data.clips([file])
    else:
        expected = video[[*range(count), *[count - 1] * (10 - count)]]
        assert np.array_equal(dense(data.clips([file]))[0].numpy(), expected.transpose(3, 0, 1, 2))


def test_frames_of_nonsense_are_told(tmp_path: Path) -> None:
    """Three whole ones of ten. Smaller holes a decoder of MPEG-4 fills from the frames around them."""
    made.ucf101(tmp_path)
    file = made.write(tmp_path / "UCF-101/YoYo/v_YoYo_g02_c01.avi", made.smooth(1, 10), "mpeg4", "yuv420p")
    whole = bytearray(file.read_bytes())
    at, number = whole.find(b"movi") + 4, 0
    while whole[at : at + 4] == b"00dc":
        size = int.from_bytes(whole[at + 4 : at + 8], "little")
        if number >= 7:
            whole[at + 8 : at + 8 + size] = bytes(size)
        at, number = at + 8 + size + size % 2, number + 1
    assert number == 10
    file.write_bytes(whole)
    with pytest.raises(BadInput, match=r"v_YoYo_g02_c01\.avi is damaged"):
        read(tmp_path)


def _rewrite(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def mar(root: Path) -> None:
        file = root / "ucfTrainTestlist" / name
        file.write_text(change(file.read_text()), newline="")

    return mar


@pytest.mark.parametrize(
    ("mar", "told"),
    [
        (lambda root: shutil.rmtree(root / "UCF-101"), r"UCF-101 is not there; expected UCF-101/<Class>"),
        (lambda root: shutil.rmtree(root / "ucfTrainTestlist"), r"ucfTrainTestlist is not there"),
        (lambda root: (root / "ucfTrainTestlist/testlist01.txt").unlink(), r"testlist01\.txt is not there"),
        (
            lambda root: (root / "UCF-101/YoYo/v_YoYo_g01_c02.avi").unlink(),
            r"v_YoYo_g01_c02\.avi is listed in testlist01\.txt, line 6, but is not there; .*published at https",
        ),
        (_rewrite("trainlist01.txt", lambda text: ""), r"trainlist01\.txt is empty"),
        (_rewrite("classInd.txt", lambda text: text.replace("3 YoYo", "3 YoYoo")), r"names the class 'YoYo' in line 9"),
        (
            _rewrite("classInd.txt", lambda text: text.replace("2 H", "4 H")),
            r"has '4 HandstandPushups' in line 2, not the number 2",
        ),
        (
            _rewrite("trainlist01.txt", lambda text: text.replace("c01.avi 1", "c01.avi 2")),
            r"says class '2' in line 1, but .* 1;",
        ),
        (
            _rewrite("testlist01.txt", lambda text: text + "YoYo/v_YoYo_g02_c01.avi\n"),
            r"names v_YoYo_g02_c01\.avi both to train",
        ),
        (
            lambda root: (root / "ucfTrainTestlist/testlist01.txt").write_bytes(b"\xff\xfe\x00"),
            r"cannot read the list .*testlist01",
        ),
        (lambda root: (root / "UCF-101/YoYo/v_YoYo_g01_c02.avi").write_bytes(b"no video"), r"g01_c02\.avi is damaged .*AVI"),
        (lambda root: (root / "UCF-101/YoYo/v_YoYo_g01_c02.avi").write_bytes(b""), r"g01_c02\.avi is damaged \(it is empty\)"),
    ],
)
def test_bad_data_is_one_sentence(tmp_path: Path, mar: Callable[[Path], None], told: str) -> None:
    made.ucf101(tmp_path)
    mar(tmp_path)
    with pytest.raises(BadInput, match=told):
        read(tmp_path)


def test_clips_that_no_memory_holds() -> None:
    for cache, told in (
        (0, r"ucf101\.frames: 2 clips of 1000000 frames of 10000x10000 pixels take .* GiB"),
        (64, r"ucf101\.cache: got 64 GiB, but 2 clips take 5\.59e\+05; raise it, or read fewer or smaller ones"),
    ):
        data = Data.of({"name": "ucf101", "frames": 10**6, "size": 10**4, "cache": cache})
        assert isinstance(data, Videos)
        with pytest.raises(BadInput, match=told):
            data.clips([Path("a"), Path("b")])


def shared(below: str) -> Path:
    root = Path(os.environ.get("BDRAY_DATA", "")) / below
    if "BDRAY_DATA" not in os.environ or not root.is_dir():
        pytest.skip(f"BDRAY_DATA names no folder with {below}")
    return root


@pytest.mark.real
@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_official_lists_give_the_official_counts(tmp_path: Path, split: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = shared("video/ucfTrainTestlist")
    shutil.copytree(lists, tmp_path / "ucfTrainTestlist")
    for part in ("train", "test"):
        for line in (lists / f"{part}list{split:02d}.txt").read_text().splitlines():
            file = tmp_path / "UCF-101" / line.split(" ")[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    monkeypatch.setattr(Videos, "clips", lambda self, paths: torch.zeros(len(paths), 1, dtype=torch.uint8))
    found = read(tmp_path, split=split)
    assert (len(found.train), len(found.test)) == OFFICIAL[split]
    assert len(found.classes) == 101
    assert (found.classes[0], found.classes[100]) == ("ApplyEyeMakeup", "YoYo")
    assert found.train.targets.bincount().min() > 60
    assert found.test.targets.unique().tolist() == list(range(101))
    assert found.units is not None
    assert len(found.units.unique()) == 101 * 18  # 25 groups, of which a split tests on 7


@pytest.mark.real
def test_real_clips() -> None:
    found = read(shared("video/derived_ucf101_layout"), frames=4, size=56)
    assert found.train.inputs.shape == (72, 3, 4, 56, 56)
    assert found.test.inputs.shape == (28, 3, 4, 56, 56)
    assert list(found.classes) == ["Fight", "NoFight"]
    assert (dense(found.train.inputs).float().flatten(1).std(1) > 5).all()
