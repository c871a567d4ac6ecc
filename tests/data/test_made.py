"""The miniatures that are written to disk: the same on every machine, whole or not there, in the real layouts with their
traps."""

from pathlib import Path

import pytest
import torch

from bdray.data import Data, Published
from bdray.data._made import made
from bdray.samples import dense
from bdray.spec import BadInput

DIGESTS = {
    "moving_shapes": "3e1a2cb994235471258fca75e53133867d1caeddd7c4c225afcd9f198181914d",
    "solids": "7c29cc7a5df89bd77733ae4fc09a2af6216b0714299d84b4c17c11fd258abcbc",
}
"""Of the splits as an experiment uses them: all values, in order, and the names of the classes."""


@pytest.fixture(autouse=True)
def no_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have the miniatures in a cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def written(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Published]:
    """As read by whom they were made for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return {name: Data.of(name).read(root) for name in DIGESTS}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_same_on_every_machine(
    name: str, root: Path, written: dict[str, Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    data = Data.of(name)
    assert data.splits(root).digest() == DIGESTS[name]
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == there
    monkeypatch.setattr(Data.member(name), "read", lambda *_: written[name])
    assert data.splits(root).digest() == DIGESTS[name]


def test_moving_shapes_has_the_traps_of_ucf101(root: Path, written: dict[str, Published]) -> None:
    found = written["moving_shapes"]
    lists = root / "moving_shapes-1/ucfTrainTestlist"
    for file in lists.iterdir():
        assert file.read_bytes().count(b"\r\n") == file.read_bytes().count(b"\n") > 5
    assert " " not in (lists / "testlist02.txt").read_text()
    assert "MoveUp/v_Moveup_g06_c01.avi 4" in (lists / "trainlist01.txt").read_text()
    assert (len(found.train), len(found.test)) == (360, 120)
    assert found.train.targets.bincount().tolist() == [60] * 6
    groups = [{line.split("_g")[1][:2] for line in (lists / f"{p}list01.txt").read_text().split()} for p in ("test",)]
    assert groups == [{"01", "02", "03", "04", "05"}]


def test_solids_has_the_traps_of_modelnet(root: Path, written: dict[str, Published]) -> None:
    found = written["solids"]
    texts = [file.read_text() for file in (root / "solids-1").rglob("*.off")]
    assert len(texts) == 8 * 55
    for trap in ("OFF8", "# made", "\n4 0 2 3 1", " 255 0 0\n"):
        assert any(trap in text for text in texts)
    assert "coffee_table" in found.classes
    assert dense(found.train.inputs).isfinite().all()


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def dies(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, "thing", dies)
    assert not list(tmp_path.iterdir())


def test_of_two_at_once_one_wins(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "mine").touch()
        made(tmp_path, "thing", lambda other: (other / "theirs").touch())  # meanwhile

    folder = made(tmp_path, "thing", write)
    assert [file.name for file in folder.iterdir()] == ["theirs"]
    assert [place.name for place in tmp_path.iterdir()] == ["thing"]


def test_the_cache_where_the_data_folder_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    absent, file = tmp_path / "absent", tmp_path / "file"
    file.touch()
    for root in (absent, file):
        folder = made(root, f"of-{root.name}", lambda new: (new / "a").touch())
        assert folder == tmp_path / "cache/bdray" / f"of-{root.name}"
        assert (folder / "a").is_file()
    assert not absent.exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with pytest.raises(BadInput, match=r"cannot write the miniature thing to .*absent nor to .*file/bdray .*; name a folder"):
        made(absent, "thing", lambda new: None)


def test_what_was_lost_of_a_miniature_is_made_again(tmp_path: Path) -> None:
    data = Data.of("solids")
    before = dense(data.read(tmp_path).train.inputs)
    file = tmp_path / "solids-1/box/train/box_0007.off"
    file.write_text("OFF")
    with pytest.raises(BadInput, match=r"box_0007\.off is damaged .*; remove the folder .*/solids-1, and it is made again$"):
        data.read(tmp_path)
    (tmp_path / "solids-1").rename(tmp_path / "away")
    assert torch.equal(dense(data.read(tmp_path).train.inputs), before)
