"""Image folders as people really have them: links, what is skipped and said to be, what cannot be read."""

import os
import re
import warnings
from pathlib import Path

import image_miniatures as made
import pytest

from bdray.data import Data, Published
from bdray.data._images import images_and_skipped
from bdray.data.digits import Digits
from bdray.data.image_folder import ImageFolder
from bdray.data.miniature import Miniature
from bdray.spec import BadInput


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of two images, train and test."""
    for part in ("train", "test"):
        for kind in ("cat", "dog"):
            for at in range(2):
                made.write(tmp_path / "pets" / part / kind / f"{at}.png", made.picture(at), "PNG")
    return tmp_path / "pets"


def read(pets: Path) -> Published:
    return Data.of({"name": "image_folder", "path": str(pets), "size": 8}).read(pets)


def told(pets: Path) -> str:
    """The one warning."""
    with pytest.warns(UserWarning, match="image_folder: skipped") as caught:
        assert read(pets).classes == ["cat", "dog"]
    return "; ".join(str(warning.message) for warning in caught)


def test_a_plain_folder_says_nothing(pets: Path) -> None:
    for litter in (".DS_Store", "train/.cache/x.png", "train/cat/._0.png", "train/cat/.git/x.png", "train/notes.txt"):
        made.write(pets / litter, b"\0")
    (pets / "train/_empty").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(pets).train.targets.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("train/_background_/0.png", "train/_background_, whose name starts with an underscore"),
        ("test/_background_/deep/0.png", "test/_background_, whose name starts with an underscore"),
        ("train/cat/_more/0.png", "train/cat/_more, whose name starts with an underscore"),
        ("train/0.png", "train/0.png, which is in no class folder"),
        ("train/cat/0.gif", "1 file of other formats than .jpg"),
        ("train/cat/1.HEIC", "cat/1.HEIC"),
    ],
)
def test_what_is_skipped_although_it_looks_like_images_is_told(pets: Path, file: str, word: str) -> None:
    made.write(pets / file, made.picture(5), "PNG")
    said = told(pets)
    assert word in said
    assert "rename or convert what belongs to the data set" in said


def test_many_are_told_in_short(pets: Path) -> None:
    for at in range(50):
        made.write(pets / f"train/_{at:02}/0.png", made.picture(5), "PNG")
    assert "_02, whose name starts with an underscore and 47 more" in told(pets)


def test_a_class_of_nothing_but_other_formats_says_which(pets: Path) -> None:
    (pets / "train/eel").mkdir()
    (pets / "test/eel").mkdir()
    made.write(pets / "train/eel/0.gif", b"GIF89a")
    with pytest.raises(BadInput, match=r"eel holds no images but 1 file of other formats than .*0\.gif"):
        read(pets)


@pytest.mark.parametrize("target", [".", "..", "../..", "cat/.."])
def test_a_link_to_a_folder_above_is_no_class(pets: Path, target: str) -> None:
    (pets / "train/loop").symlink_to(target)
    assert "train/loop, which leads to a folder above it" in told(pets)


@pytest.mark.parametrize("target", [".", "..", "../../train/cat", "../.."])
def test_a_link_to_a_folder_above_is_not_followed(pets: Path, target: str) -> None:
    (pets / "train/cat/loop").symlink_to(target)
    assert "cat/loop, which leads to a folder above it" in told(pets)


def test_a_class_whose_link_leads_nowhere_is_told(pets: Path) -> None:
    (pets / "train/eel").symlink_to("/nowhere/eel")
    assert "train/eel, which leads nowhere" in told(pets)


def test_a_link_to_itself_is_no_folder_and_no_image(pets: Path) -> None:
    (pets / "train/eel").symlink_to("eel")
    (pets / "train/cat/loop").symlink_to("loop")
    assert "train/eel, which leads nowhere" in told(pets)
    (pets / "train/eel").unlink()
    (pets / "train/cat/9.png").symlink_to("9.png")
    with pytest.raises(BadInput, match=r"cat/9\.png is a link to nothing"):
        read(pets)


def test_links_that_lead_to_each_other_have_an_end(pets: Path) -> None:
    (pets / "train/cat/other").symlink_to("../dog")
    (pets / "train/dog/other").symlink_to("../cat")
    with pytest.warns(UserWarning, match="leads to a folder above it"):
        assert read(pets).train.targets.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_links_elsewhere_are_followed(pets: Path, tmp_path: Path) -> None:
    made.write(tmp_path / "elsewhere/eel/deep/0.png", made.picture(3), "PNG")
    for part in ("train", "test"):
        (pets / part / "eel").symlink_to(tmp_path / "elsewhere/eel")
    (pets / "train/cat/9.png").symlink_to(tmp_path / "elsewhere/eel/deep/0.png")
    found = read(pets)
    assert found.classes == ["cat", "dog", "eel"]
    assert found.train.targets.tolist() == [0, 0, 0, 1, 1, 2]


def test_what_is_no_file_is_refused(pets: Path) -> None:
    os.mkfifo(pets / "train/cat/2.png")
    with pytest.raises(BadInput, match=r"cat/2\.png is a link to nothing, a pipe or a device"):
        read(pets)
    (pets / "train/cat/2.png").unlink()
    (pets / "train/cat/2.png").symlink_to("nowhere.png")
    with pytest.raises(BadInput, match=r"cat/2\.png is a link to nothing, a pipe or a device"):
        read(pets)


def test_what_cannot_be_read_is_not_left_out(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def forbidden(folder: str) -> object:
        if str(folder).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(BadInput, match=r"cannot read the folder .*dog \(Permission denied\)"):
        read(pets)


def test_an_image_that_cannot_be_read_is_not_called_damaged(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    def forbidden(file: object, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", forbidden)
    with pytest.raises(BadInput, match=r"cannot read the image .*0\.png \(Permission denied\)"):
        read(pets)


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"a\x1bb"])
def test_a_class_whose_name_is_no_text(pets: Path, name: bytes) -> None:
    for part in ("train", "test"):
        folder = os.fsencode(pets / part) + b"/" + name
        os.mkdir(folder)
        made.write(Path(os.fsdecode(folder)) / "0.png", made.picture(1), "PNG")
    with pytest.raises(BadInput, match=r"got a class folder named '.*expected UTF-8 without control characters") as caught:
        read(pets)
    assert str(caught.value).isprintable()


def test_images_stand_in_the_order_of_their_folders(pets: Path) -> None:
    for name in ("b/0.png", "a/1.png", "a/0.png", "a.png"):
        made.write(pets / "train/cat" / name, made.picture(1), "PNG")
    found, skipped = images_and_skipped(pets / "train/cat")
    assert [path.relative_to(pets / "train/cat").as_posix() for path in found] == [
        *("0.png", "1.png", "a.png"),
        *("a/0.png", "a/1.png", "b/0.png"),
    ]
    assert skipped == []


def test_images_that_no_memory_holds_are_refused_before_they_are_made(pets: Path) -> None:
    for data in (
        ImageFolder(path=str(pets), size=10**6),
        Digits(size=10**6),
        Miniature(size=10**6),
        Miniature(per_class=10**12),
        Miniature(per_class=2**63 - 1),
    ):
        with pytest.raises(BadInput) as caught:
            data.read(pets)
        assert re.search(r"\.size.*: got \d+ images of \d+x\d+ pixels, which take .* GiB, more than the", str(caught.value))
