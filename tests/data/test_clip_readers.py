"""The readers of HMDB51 and of any folder of clips, on miniatures with their traps; and what is said of bad clips."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import video_miniatures as made
from torch import Tensor

from bdray.data import Data, Published
from bdray.samples import dense
from bdray.spec import BadInput, Config

SMALL: Config = {"frames": 8, "size": 16}
CLIPS: Config = {"name": "clip_folder", "path": "mine", **SMALL}


def hmdb(root: Path, **fields: object) -> Published:
    return Data.of({"name": "hmdb51", **SMALL, **fields}).read(root)


def folder(root: Path, **fields: object) -> Published:
    return Data.of({**CLIPS, **fields}).read(root)


def pixels(column: object) -> np.ndarray:
    found = dense(column)  # type: ignore[arg-type]
    assert isinstance(found, Tensor)
    return found.numpy()


def refusal(read: Callable[[Path], Published], root: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read(root)
    text = str(caught.value)
    assert "\n" not in text
    assert not text.endswith(".")
    return text


# HMDB51


@pytest.mark.parametrize("split", [1, 2, 3])
@pytest.mark.parametrize("below", [".", "hmdb51"])
def test_hmdb51(tmp_path: Path, split: int, below: str) -> None:
    videos = made.hmdb51(tmp_path / below)
    found = hmdb(tmp_path, split=split)
    assert list(found.classes) == ["brush_hair", "shoot_gun", "wave"]
    wanted: dict[str, list[tuple[str, int]]] = {"0": [], "1": [], "2": []}
    for number, (name, files) in enumerate(made.FILMS.items()):
        for at, file in enumerate(files):
            wanted[made.TAGS[split][at]].append((f"{name}/{file}", number))
    for part, tag in ((found.train, "1"), (found.test, "2")):
        assert part.targets.tolist() == [number for _, number in wanted[tag]]
        assert np.array_equal(pixels(part.inputs), np.stack([videos[path].transpose(3, 0, 1, 2) for path, _ in wanted[tag]]))
    assert len(wanted["0"]) == (split == 3)


def test_clips_of_one_film_are_a_unit(tmp_path: Path) -> None:
    made.hmdb51(tmp_path)
    found = hmdb(tmp_path, split=3)  # trains on the first two of each class
    assert found.units is not None
    assert found.units.tolist() == [0, 0, 1, 2, 3, 4]


def rewritten(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def mar(root: Path) -> None:
        file = root / "testTrainMulti_7030_splits" / name
        file.write_text(change(file.read_text()))

    return mar


WAVE = "wave_test_split1.txt"


@pytest.mark.parametrize(
    ("mar", "told"),
    [
        (lambda root: shutil.rmtree(root / "hmdb51_org"), "hmdb51_org is not there; expected hmdb51_org/<class>/*.avi and"),
        (lambda root: shutil.rmtree(root / "testTrainMulti_7030_splits"), "testTrainMulti_7030_splits is not there"),
        (
            lambda root: [file.unlink() for file in (root / "testTrainMulti_7030_splits").glob("*_test_split1.txt")],
            "testTrainMulti_7030_splits holds no *_test_split1.txt",
        ),
        (
            lambda root: (root / "hmdb51_org/wave/wave.avi").unlink(),
            "wave.avi is listed in wave_test_split1.txt, line 2, but is not there; ",
        ),
        (rewritten(WAVE, lambda text: ""), f"{WAVE} is empty"),
        (
            rewritten(WAVE, lambda text: text.replace("wave.avi 2", "wave.avi 3")),
            f"{WAVE} has 'wave.avi 3' in line 2, not a file",
        ),
        (rewritten(WAVE, lambda text: text.replace("wave.avi 2", "wave.avi")), "in line 2, not a file and 0, 1 or 2"),
        (rewritten(WAVE, lambda text: text + "wave.avi 1\n"), f"{WAVE} names 'wave.avi' again in line 5"),
        (
            lambda root: (root / "testTrainMulti_7030_splits" / WAVE).write_bytes(b"\xff\xfe"),
            "cannot read the list",
        ),
    ],
)
def test_bad_lists_of_hmdb51(tmp_path: Path, mar: Callable[[Path], object], told: str) -> None:
    made.hmdb51(tmp_path)
    mar(tmp_path)
    assert told in refusal(hmdb, tmp_path)


# A folder of clips


def own(root: Path) -> dict[str, np.ndarray]:
    """Two classes, a folder below one, names in capital letters, and litter."""
    videos = {}
    for number, name in enumerate(
        ["train/run/a.avi", "train/run/b c/z.AVI", "train/sit/#1.avi", "test/run/a.avi", "test/sit/b.avi", "test/sit/c.avi"]
    ):
        videos[name] = made.frames(50 + number)
        made.write(root / name.lower(), videos[name]).rename(root / name)
    for litter in ("train/run/.hidden.avi", "train/run/notes.txt", "train/_old/x.avi", "train/.git/x.avi", "test/sit/_x/y.avi"):
        (root / litter).parent.mkdir(parents=True, exist_ok=True)
        (root / litter).write_text("no video")
    return videos


@pytest.mark.parametrize("tests", ["test", "val"])
def test_a_folder_of_clips(tmp_path: Path, tests: str) -> None:
    videos = own(tmp_path / "mine")
    (tmp_path / "mine/test").rename(tmp_path / "mine" / tests)
    found = folder(tmp_path)
    assert list(found.classes) == ["run", "sit"]
    assert found.train.targets.tolist() == [0, 0, 1]
    assert found.test.targets.tolist() == [0, 1, 1]
    for part, half in ((found.train, "train/"), (found.test, "test/")):
        paths = [path for path in videos if path.startswith(half)]
        assert np.array_equal(pixels(part.inputs), np.stack([videos[path].transpose(3, 0, 1, 2) for path in paths]))


def test_videos_of_other_formats_are_told_of(tmp_path: Path) -> None:
    own(tmp_path / "mine")
    for name in ("train/sit/x.mkv", "train/run/y.WEBM"):
        (tmp_path / "mine" / name).touch()
    with pytest.warns(
        UserWarning, match=r"clip_folder: skipped 2 files of other formats than \.avi .*, such as .*y\.WEBM; conv"
    ):
        folder(tmp_path)
    (tmp_path / "mine/train/sit/#1.avi").unlink()
    assert "sit holds no videos but " in refusal(folder, tmp_path)


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("train", "train is not there; expected train/<class>/*.mp4"),
        ("test", "mine holds no test or val with class folders"),
        ("test/sit", "test/sit is not there, though "),
        ("train/sit", "train/sit is not there, though "),
        ("train/sit/#1.avi", "train/sit holds no videos; expected"),
    ],
)
def test_a_folder_that_lacks_something(tmp_path: Path, gone: str, told: str) -> None:
    own(tmp_path / "mine")
    path = tmp_path / "mine" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert told in refusal(folder, tmp_path)


def test_a_class_whose_name_cannot_be_shown(tmp_path: Path) -> None:
    own(tmp_path / "mine")
    for part in ("train", "test"):
        (tmp_path / "mine" / part / "sit").rename(tmp_path / "mine" / part / "s\x1b[31mit")
    assert "expected UTF-8 without control characters; rename it" in refusal(folder, tmp_path)


def test_no_path() -> None:
    with pytest.raises(BadInput, match=r"clip_folder\.path: got an empty text, expected a folder"):
        Data.of({**CLIPS, "path": " "})


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdray.data import clip_folder

    def denied(top: Path, onerror: Callable[[OSError], None]) -> list[object]:
        onerror(PermissionError(13, "Permission denied", str(top)))
        return []

    own(tmp_path / "mine")
    monkeypatch.setattr(clip_folder.os, "walk", denied)
    assert "cannot read the folder" in refusal(folder, tmp_path)


# Bad clips


def one(tmp_path: Path, write: Callable[[Path], object], name: str = "a.avi") -> Published:
    """A folder of clips, of which one is written so."""
    own(tmp_path / "mine")
    file = tmp_path / "mine/train/sit" / name
    (tmp_path / "mine/train/sit/#1.avi").unlink()
    write(file)
    return folder(tmp_path)


def no_frames(file: Path) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        container.start_encoding()


def no_codec(file: Path) -> None:
    """A four-letter code that stands for nothing."""
    made.write(file, made.frames(1))
    file.write_bytes(file.read_bytes().replace(b"FFV1", b"ZZZZ"))


@pytest.mark.parametrize(("write", "told"), [(no_frames, "it has no frames"), (no_codec, "its codec is none that PyAV reads")])
def test_a_clip_that_cannot_be_read(tmp_path: Path, write: Callable[[Path], None], told: str) -> None:
    said = refusal(lambda root: one(root, write), tmp_path)
    assert said.startswith("the video ")
    assert said.endswith(f"a.avi is damaged ({told}); make it anew, or remove it")


def test_a_short_clip_repeats_its_frames(tmp_path: Path) -> None:
    video = made.frames(7, 3)
    found = one(tmp_path, lambda file: made.write(file, video))
    clip = pixels(found.train.inputs)[2].transpose(1, 2, 3, 0)
    assert np.array_equal(clip, video[[0, 0, 0, 1, 1, 2, 2, 2]])


def grey(file: Path, frames: np.ndarray) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:], "gray"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def test_a_grey_clip_has_three_like_channels(tmp_path: Path) -> None:
    frames = made.frames(3)[..., 0]
    clip = pixels(one(tmp_path, lambda file: grey(file, frames)).train.inputs)[2]
    assert np.array_equal(clip, np.stack([frames] * 3))


def test_of_a_variable_frame_rate_the_frames_count_and_not_their_times(tmp_path: Path) -> None:
    levels = [0, 30, 60, 90, 120, 150, 180, 210]

    def write(file: Path) -> None:
        with av.open(str(file), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            for level, time in zip(levels, [0, 10, 500, 510, 2000, 2010, 2020, 5000], strict=True):
                frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, dtype=np.uint8), format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

    clip = torch.from_numpy(pixels(one(tmp_path, write, "a.mp4").train.inputs)[2]).double().mean((0, 2, 3))
    assert clip.tolist() == pytest.approx(levels, abs=6)
