"""A writer of videos and of UCF101's folders and lists, traps included, for the tests of their reader."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

CLASSES = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
STEMS = ("ApplyEyeMakeup", "HandStandPushups", "YoYo")
"""The official files spell one class otherwise than their folder."""


def frames(number: int, count: int = 8, height: int = 16, width: int = 16) -> np.ndarray:
    """Noise that no other number gives, uint8 [T, H, W, 3]."""
    return np.random.default_rng(number).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def smooth(number: int, count: int = 8, height: int = 32, width: int = 48) -> np.ndarray:
    """A ramp that moves, which a lossy codec keeps."""
    t, y, x = np.mgrid[0:count, 0:height, 0:width]
    return np.stack([(3 * x + 5 * t) % 256, 4 * y, (number * 40 + x + y) % 256], -1).astype(np.uint8)


def write(file: Path, video: np.ndarray, codec: str = "ffv1", pixels: str = "bgr0", **options: str) -> Path:
    """In the format that the file's name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = pixels
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


def listed(file: Path, lines: Sequence[str], end: str = "\r\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line + end for line in lines), newline="")


def ucf101(root: Path, end: str = "\r\n") -> dict[str, np.ndarray]:
    """Three classes of three groups of two clips; split N tests on group N. The videos by their path below UCF-101."""
    lists, videos = root / "ucfTrainTestlist", {}
    listed(lists / "classInd.txt", [f"{number} {name}" for number, name in enumerate(CLASSES, start=1)] + [""], end)
    for number, (name, stem) in enumerate(zip(CLASSES, STEMS, strict=True)):
        for group in (1, 2, 3):
            for clip in (1, 2):
                path = f"{name}/v_{stem}_g{group:02d}_c{clip:02d}.avi"
                videos[path] = frames(100 * number + 10 * group + clip)
                write(root / "UCF-101" / path, videos[path])
    for split in (1, 2, 3):
        tests = [path for path in videos if f"_g{split:02d}_" in path]
        train = [f"{path} {CLASSES.index(path.split('/')[0]) + 1}" for path in videos if path not in tests]
        listed(lists / f"trainlist{split:02d}.txt", train, end)
        listed(lists / f"testlist{split:02d}.txt", tests, end)
    return videos


FILMS = {
    "brush_hair": [
        "April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        "April_09_brush_hair_u_nm_np1_ba_goo_1.avi",
        "b_brush_hair_2.avi",
    ],
    "shoot_gun": [
        "Bad & Good;_#4_[(A)]_shoot_gun_f_cm_np1_0.avi",
        "Bad & Good;_shoot_gun_shoot_gun_u_0.avi",
        "x!+=_ shoot_gun_u_1.avi",
    ],
    "wave": ["50_FIRST_DATES_wave_f_cm_np1_fr_med_0.avi", "wave.avi", "brush_hair_wave_h_cm_np1_fr_med_3.avi", "1_wave_.avi"],
}
"""Names as HMDB51 has them: with odd characters, with spaces, with another class or their own twice; one film has two clips."""
TAGS = {1: "1212", 2: "2121", 3: "1120"}
"""Of the first, second, ... clip of each class in each split: 1 trains, 2 tests, 0 is in none."""


def hmdb51(root: Path) -> dict[str, np.ndarray]:
    """Three classes; each line of a list ends in a space, as the official ones do. The videos by class and name."""
    videos = {}
    for number, (name, files) in enumerate(FILMS.items()):
        for at, file in enumerate(files):
            videos[f"{name}/{file}"] = frames(1000 + 10 * number + at)
            write(root / "hmdb51_org" / name / file, videos[f"{name}/{file}"])
        for split, tags in TAGS.items():
            lines = [f"{file} {tag} " for file, tag in zip(files, tags, strict=False)]
            listed(root / "testTrainMulti_7030_splits" / f"{name}_test_split{split}.txt", lines, "\n")
    return videos
