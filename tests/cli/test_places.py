"""Where a person says that the store, the data sets and files are: `~`, empty words, relative folders and URIs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bdray.__main__ import main
from bdray.data import Data
from bdray.spec import BadInput, at_home
from bdray.store.filesystems import data_folder, place
from bdray.store.store import Store
from tests.data import image_miniatures as made

QUICK = ["task.data=miniature", "task.data.per_class=10", "task.model.width=4", "training.epochs=1", "defense=none"]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """In a folder of its own, with a home folder of its own: (status, stdout, stderr)."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BDRAY_STORE", raising=False)
    monkeypatch.delenv("BDRAY_DATA", raising=False)
    monkeypatch.chdir(tmp_path / "here")

    def call(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        return (status, *capsys.readouterr())

    return call


def test_the_home_folder_is_meant_where_the_shell_left_it(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("run", *QUICK, "--store=~/a")[0] == 0
    monkeypatch.setenv("BDRAY_STORE", "~/b")
    assert cli("run", *QUICK)[0] == 0
    for name in ("a", "b"):
        assert len(Store(str(tmp_path / "home" / name)).rows()) == 1
    assert cli("table", "--picture=~/p.png")[0] == 0
    assert (tmp_path / "home/p.png").is_file()
    assert os.listdir(tmp_path / "here") == []
    assert Store("~/a").location() == str(tmp_path / "home/a")


def test_a_data_set_and_a_picture_in_the_home_folder(cli: Cli, tmp_path: Path) -> None:
    made.write(tmp_path / "home/face.png", made.picture(3), "PNG")
    for part in ("train", "test"):
        for kind in ("cat", "dog"):
            for at in range(12):
                made.write(tmp_path / "home/pets" / part / kind / f"{at}.png", made.picture(at), "PNG")
    words = ["task.data=image_folder", "task.data.size=16", *QUICK[2:], "attack.image=~/face.png"]
    assert cli("run", *words, "task.data.path=~/pets")[0] == 0
    assert cli("run", *words, "task.data.path=pets", "--data=~")[0] == 0
    assert cli("run", *words, "task.data.path=./pets/", f"--data=file://{tmp_path}/home")[0] == 0
    assert len(Store("store").rows()) == 2  # ~/pets, and pets below a data folder


def test_a_sweep_file_in_the_home_folder(cli: Cli, tmp_path: Path) -> None:
    text = 'from bdray.launch import Sweep\nsweep = Sweep(space={"task": {"data": "miniature"}, "seed": [0, 1]})\n'
    (tmp_path / "home/mine.py").write_text(text)
    status, out, _ = cli("sweep", "~/mine.py", "--dry-run")
    assert (status, out) == (0, "mine: 2 cells, 0 done, 0 skipped, 2 missing, 2 victims to train\n")


def test_a_folder_is_the_same_by_its_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    places = ["a b", "./a b/", str(tmp_path / "a b"), f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a b/"]
    assert {Store(uri).location() for uri in places} == {str(tmp_path / "a b")}
    assert place("s3://bucket/a b") == "s3://bucket/a b"
    assert place("C:\\x") == "C:\\x"
    assert data_folder("data") == Path("data")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "got an empty --store or BDRAY_STORE, expected a folder or an URI"),
        (" ", "got an empty --store or BDRAY_STORE"),
        ("a\0b", r"got 'a\x00b' for --store or BDRAY_STORE, expected a folder or an URI in UTF-8"),
        ("caf\udce9", r"got 'caf\udce9' for --store or BDRAY_STORE"),
        ("~nobody-here/x", "~nobody-here is nobody's home folder here; write ./~nobody-here"),
        ("s3:bucket/x", "write s3://bucket/x, or ./s3:bucket/x for a folder"),
        ("s3:/bucket/x", "write s3://bucket/x"),
        ("file:x", "write file:///x"),
        ("file://host/x", "expected a folder of this machine, with three slashes"),
        ("file:///", "expected a folder of this machine"),
        ("file:///" + "x" * 256, "of 256 bytes, expected at most"),
    ],
)
def test_what_names_no_place_is_refused(text: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        Store(text)
    assert told in str(caught.value)


def test_a_data_folder_is_no_bucket() -> None:
    with pytest.raises(BadInput, match="got an empty --data or BDRAY_DATA, expected a folder; name one, or unset it"):
        data_folder("")
    with pytest.raises(BadInput, match=r"got 's3://bucket/x' for --data or BDRAY_DATA, expected a folder of this machine"):
        data_folder("s3://bucket/x")


def test_a_folder_that_is_really_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~x").mkdir()
    assert at_home("~x") == "~x"
    assert place("./~") == "./~"


@pytest.mark.parametrize("path", ["x" * 256, "a/" * 3000, "~nobody-here/x"], ids=["name", "path", "home"])
@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "{}", "--dry-run"],
        ["cluster", "check", "{}"],
        ["run", *QUICK, "--store", "{}"],
        ["run", "task.data=cifar10", "--data", "{}"],
        ["run", "task.data=image_folder", "task.data.path={}"],
        ["run", *QUICK, "attack=blend", "attack.image={}"],
        ["table", "--picture", "{}.png"],
        ["figure", "rates", "--out", "{}.png"],
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_what_no_path_can_be_is_one_sentence(cli: Cli, words: list[str], path: str) -> None:
    status, _, said = cli(*[word.format(path) for word in words])
    assert (status, said.count("\n")) == (2, 1)
    assert (
        "is nobody's home folder here" in said if path[0] == "~" else "bytes, expected at most 1,000, and 255 in a name" in said
    )


@pytest.mark.parametrize("name", ["BDRAY_STORE", "BDRAY_DATA"])
def test_a_variable_that_is_set_and_empty(cli: Cli, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    status, _, said = cli("run", *QUICK)
    assert (status, said.count("\n")) == (2, 1)
    assert name in said
    assert os.listdir() == []


@pytest.mark.parametrize("words", [["run", "--again", ""], ["table", "--sql", ""], ["table", "--sweep", ""], ["sweep", ""]])
def test_an_option_that_is_empty(cli: Cli, words: list[str]) -> None:
    """As `--again "$KEY"` is in a script without KEY: it is not as if it were not there."""
    status, _, said = cli(*words)
    assert status == 2
    assert said.startswith("bdray: got an empty '")


@pytest.mark.parametrize("name", ["../../x", "a/b", "\0", "x" * 300, "caf\udce9", ".."])
def test_what_no_sweep_can_be_called(cli: Cli, name: str) -> None:
    for words in (["table", "--sweep", name], ["best", name]):
        status, _, said = cli(*words)
        assert (status, said.count("\n")) == (2, 1)
        assert "no sweep named" in said


def test_a_missing_image_folder_is_named_as_it_was_looked_for(cli: Cli, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"image_folder: {tmp_path}/home/nowhere/train is not there"):
        Data.of({"name": "image_folder", "path": "~/nowhere"}).read(Path("data"))
