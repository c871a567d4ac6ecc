"""The cache of clips and clouds: the same values, each file read once, a changed one noticed, whole whatever happens."""

import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdray.data import Data, _cache
from bdray.data._cache import GIB, folder
from bdray.data._videos import Videos
from bdray.samples import Lines, Samples, Splits, dense, equal, joined, pack, put, take
from bdray.spec import BadInput
from tests.data import video_miniatures as made


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded."""
    found: list[str] = []
    decoded = Videos.decoded
    monkeypatch.setattr(Videos, "decoded", lambda self, path: (found.append(path.name), decoded(self, path))[1])
    return found


def clips(folder: Path, count: int = 5) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [made.write(folder / f"{n}.avi", made.frames(n, 8)) for n in range(count)]


def reader(**fields: Any) -> Videos:
    data = Data.of({"name": "ucf101", "frames": 4, "size": 16, **fields})
    assert isinstance(data, Videos)
    return data


def caches() -> list[Path]:
    return sorted(file for file in (folder() / "clips").iterdir() if file.is_dir())


def test_cached_clips_are_the_decoded_ones(tmp_path: Path, opened: list[str]) -> None:
    """Decoded once, whatever part of them is asked for, in whatever order, under whatever name."""
    files = clips(tmp_path / "a")
    decoded = reader(cache=0).clips(files)
    assert isinstance(decoded, torch.Tensor)
    assert not folder().exists()
    opened.clear()
    cached = reader().clips(files)
    assert isinstance(cached, Lines)
    assert torch.equal(cached.dense(), decoded)
    assert sorted(opened) == [file.name for file in files]
    opened.clear()
    assert torch.equal(dense(reader().clips(files[::-1])), decoded.flip(0))
    (tmp_path / "a").rename(tmp_path / "b")
    files = [tmp_path / "b" / file.name for file in files]
    assert torch.equal(dense(reader().clips([*files, files[0]])), decoded[[0, 1, 2, 3, 4, 0]])
    assert opened == []
    assert len(caches()) == 1


def test_a_changed_clip_is_noticed_and_no_other_is_read(tmp_path: Path, opened: list[str]) -> None:
    files = clips(tmp_path / "a")
    before = reader().clips(files)
    assert isinstance(before, Lines)
    kept, times = before.dense(), files[2].stat()
    opened.clear()
    other = made.write(tmp_path / "other.avi", made.frames(77, 8)).read_bytes()
    files[2].write_bytes(other.ljust(times.st_size, b"\0"))
    os.utime(files[2], ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` and rsync leave it
    after = dense(reader().clips(files))
    assert opened == ["2.avi"]
    assert not torch.equal(after[2], kept[2])
    assert torch.equal(after, dense(reader(cache=0).clips(files)))
    assert torch.equal(before.dense(), kept)  # of who has mapped it before
    opened.clear()
    files[3].touch()
    assert torch.equal(dense(reader().clips(files)), after)
    assert opened == []
    manifest = json.loads((caches()[0] / "manifest.json").read_text())
    assert manifest["files"][str(files[3])][0] == _cache._signature(files[3])


def test_other_settings_and_other_code_have_lines_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = clips(tmp_path / "a", 2)
    for number, data in enumerate((reader(), reader(frames=3), reader(stride=1), reader(size=8)), start=1):
        assert torch.equal(dense(data.clips(files)), dense(data.model_copy(update={"cache": 0}).clips(files)))
        assert len(caches()) == number
    monkeypatch.setattr(_cache, "version", lambda package: "99")
    reader().clips(files)
    assert len(caches()) == 5


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: (place / "manifest.json").write_text('{"files": {'),
        lambda place: (place / "manifest.json").write_text('{"files": {}, "lines": {"a": -1}}'),
        lambda place: (place / "manifest.json").unlink(),
        lambda place: (place / "lines").unlink(),
        lambda place: (place / "lines").write_bytes((place / "lines").read_bytes()[:-1]),
    ],
    ids=["half a manifest", "a foreign manifest", "no manifest", "no lines", "too few lines"],
)
def test_a_damaged_cache_is_made_anew(tmp_path: Path, harm: Any) -> None:
    files = clips(tmp_path / "a")
    before = dense(reader().clips(files))
    harm(caches()[0])
    assert torch.equal(dense(reader().clips(files)), before)
    assert torch.equal(dense(reader().clips(files)), before)


def test_a_damaged_clip_is_told_and_what_was_read_is_kept(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cache, "AT_ONCE", 2)
    files = clips(tmp_path / "a")
    whole = files[4].read_bytes()
    files[4].write_bytes(whole[:-100])
    with pytest.raises(BadInput, match=r"4\.avi is damaged"):
        reader().clips(files)
    files[4].write_bytes(whole)
    opened.clear()
    reader().clips(files)
    assert opened == ["4.avi"]


def test_a_clip_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = clips(tmp_path / "a", 1)
    decoded = Videos.decoded
    monkeypatch.setattr(Videos, "decoded", lambda self, path: (decoded(self, path), path.touch())[0])
    with pytest.raises(BadInput, match=r"0\.avi changed while it was read; run the command again"):
        reader().clips(files)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was whole before is whole after; the clips are read into memory."""
    files = clips(tmp_path / "a")
    reader().clips(files[:2])
    size = (caches()[0] / "lines").stat().st_size
    wrote = os.pwrite

    def full(handle: int, data: Any, at: int) -> int:
        if at > 3 * size // 2 + 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return wrote(handle, data[:100], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(
        UserWarning, match=r"cannot be used \(No space left on device\), so that clips are read into memory; .*=0"
    ):
        found = reader().clips(files)
    assert torch.equal(dense(found), dense(reader(cache=0).clips(files)))
    assert (caches()[0] / "lines").stat().st_size == size
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert torch.equal(dense(reader().clips(files)), dense(found))


def test_where_no_cache_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = clips(tmp_path / "a", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(files[0]))
    with pytest.warns(UserWarning, match=r"cannot be used \(Not a directory\)"):
        assert isinstance(reader().clips(files), torch.Tensor)


def test_a_cache_that_can_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that an administrator has filled."""
    files = clips(tmp_path / "a", 2)
    before = dense(reader().clips(files))
    files[0].touch()

    def refuse(self: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(_cache._Cache, "_alone", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = reader().clips(files)
    assert isinstance(found, Lines)
    assert torch.equal(found.dense(), before)


def test_it_is_bounded(tmp_path: Path) -> None:
    """The setting that was used longest ago goes, and who has mapped it goes on."""
    files = clips(tmp_path / "a")
    line = 3 * 4 * 16 * 16
    most = 2.2 * 5 * line / GIB
    first = reader(cache=most).clips(files)
    reader(cache=most, stride=1).clips(files)
    os.utime(caches()[0], (1, 1))
    os.utime(caches()[1], (2, 2))
    oldest, younger = caches()
    reader(cache=most, stride=2).clips(files)
    assert not oldest.exists()
    assert younger.exists()
    assert torch.equal(dense(first), dense(reader(cache=0).clips(files)))
    with pytest.raises(
        BadInput, match=r"ucf101\.cache: got \S+ GiB, but 5 clips take .*; raise it, or read fewer or smaller ones"
    ):
        reader(cache=4.9 * line / GIB).clips(files)


def test_lines_of_files_that_are_gone_make_room(tmp_path: Path) -> None:
    files = clips(tmp_path / "a", 3)
    most = 4.5 * 3 * 4 * 16 * 16 / GIB
    for seed in range(100, 108):
        made.write(files[1], made.frames(seed, 8))
        assert torch.equal(dense(reader(cache=most).clips(files)), dense(reader(cache=0).clips(files)))
        assert sum((place / "lines").stat().st_size for place in caches()) <= most * GIB


FILL = """
import sys
from pathlib import Path
from bdray.data import Data, _cache
_cache.AT_ONCE = 1
found = Data.of({"name": "ucf101", "frames": 4, "size": 16}).clips(sorted(Path(sys.argv[1]).glob("*.avi")))
print(int(found.dense().long().sum()))
"""


def test_two_processes_fill_it_at_once_and_one_is_killed(tmp_path: Path) -> None:
    files = sorted(clips(tmp_path / "a", 40))
    expected = int(dense(reader(cache=0).clips(files)).long().sum())
    words = [sys.executable, "-c", FILL, str(tmp_path / "a")]
    dying = subprocess.Popen(words)
    while not list((tmp_path / "cache").rglob("manifest.json")) and dying.poll() is None:
        pass
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    two = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(process.communicate(timeout=100)[0]) for process in two] == [expected, expected]
    (place,) = caches()
    manifest = json.loads((place / "manifest.json").read_text())
    assert sorted(manifest["lines"].values()) == list(range(40))
    assert (place / "lines").stat().st_size == 40 * 3 * 4 * 16 * 16


def test_no_key_knows_it() -> None:
    assert reader(cache=3).key() == reader(cache=0).key() == reader().key()
    assert reader(frames=5).key() != reader().key()


def test_lines_are_used_as_tensors_are(tmp_path: Path) -> None:
    """The same values, and the same digest, through all that samples go through."""
    lines = reader().clips(clips(tmp_path / "a"))
    values = dense(lines)
    assert isinstance(lines, Lines)
    assert isinstance(values, torch.Tensor)
    assert (lines.shape, lines.dtype, len(lines)) == (values.shape, values.dtype, 5)
    at, mask = torch.tensor([3, 1, 3]), torch.tensor([True, False, False, True, True])
    new = 255 - values[:2]
    for change in (
        lambda x: take(x, at),
        lambda x: take(take(x, mask), torch.tensor([2, 0])),
        lambda x: put(x, torch.tensor([4, 0]), new),
        lambda x: put(put(x, torch.tensor([4, 0]), new), torch.tensor([0]), values[1:2]),
        lambda x: take(put(x, mask, values[:3]), at),
        lambda x: take(x, torch.empty(0, dtype=torch.int64)),
        lambda x: joined([x, x]),
        lambda x: pack("inputs", x)["inputs"],
    ):
        assert torch.equal(dense(change(lines)), dense(change(values)))
        assert equal(change(lines), change(values)).all()
    assert torch.equal(lines.dense(), values)  # never changed
    targets = torch.tensor([0, 1, 0, 1, 0])
    both = [Splits(*3 * [Samples(x, targets)], ["a", "b"]).digest() for x in (lines, values)]
    assert both[0] == both[1]


def test_clouds_are_cached_too(tmp_path: Path) -> None:
    """What is drawn depends on where a mesh lies, so that a copy of it is another cloud."""
    base = tmp_path / "ModelNet40"
    for name in ("ball", "cube"):
        for part, number in (("train", 0), ("train", 1), ("test", 2)):
            file = base / name / part / f"{name}_{number}.off"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    fields = {"name": "modelnet", "points": 32}
    cached, sampled = Data.of(fields).read(tmp_path), Data.of({**fields, "cache": 0}).read(tmp_path)
    for part in ("train", "test"):
        lines, values = getattr(cached, part).inputs, getattr(sampled, part).inputs
        assert isinstance(lines, Lines)
        assert torch.equal(lines.dense(), values)
        assert len(np.unique(values.numpy(), axis=0)) == len(values)
