"""The readers of texts, each on a miniature in its real format with that format's traps, and what they say of bad files."""

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bdray.data import Data
from bdray.spec import BadInput, Config

HEAD = "sentence\tlabel"
SST2 = {
    # A mark at the beginning, CRLF, quotes that stand alone, letters beyond ASCII, what ends a line for Python alone
    "train.tsv": f"\ufeff{HEAD}\r\na \" gem ' of a film .\t1\r\nrancid crème brûlée\t0\r\nnext\x85line\u2028and\x0cpage\t1\r\n",
    # LF, another column in front, nothing behind the last line
    "test.tsv": "index\tsentence\tlabel\n7\tno yuks , no end\t0\n8\t\t1",
    "dev.tsv": f"{HEAD}\ndull\t0\n",
}


def sst2(root: Path, **files: str | bytes) -> Path:
    folder = root / "SST-2"
    folder.mkdir(parents=True)
    for name, text in {**SST2, **{f"{stem}.tsv": text for stem, text in files.items()}}.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def refusal(config: Config | str, root: Path) -> str:
    with pytest.raises(BadInput) as caught:
        Data.of(config).read(root)
    text = str(caught.value)
    assert "\n" not in text
    assert text.count(". ") == 0
    assert not text.endswith(".")
    return text


def test_sst2(tmp_path: Path) -> None:
    train, test, classes, units = Data.of("sst2").read(sst2(tmp_path))
    assert train.inputs.tolist() == ["a \" gem ' of a film .", "rancid crème brûlée", "next\x85line\u2028and\x0cpage"]
    assert train.targets.tolist() == [1, 0, 1]
    assert test.inputs.tolist() == ["no yuks , no end", ""]
    assert test.targets.tolist() == [0, 1]
    assert classes == ("negative", "positive")
    assert units is None


def test_sst2_where_openbackdoor_has_it_and_its_other_test_set(tmp_path: Path) -> None:
    sst2(tmp_path / "SentimentAnalysis")
    assert Data.of({"name": "sst2", "test": "dev"}).read(tmp_path).test.inputs.tolist() == ["dull"]


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ("sentence,label\ngood,1\n", "has no column sentence (its first line names 'sentence,label')"),
        ("index\tsentence\n0\tgood\n", "has no column label (its first line names 'index', 'sentence')"),
        ("", "has no column sentence (its first line names '')"),
        (f"{HEAD}\n", "has no lines below the first"),
        (f"{HEAD}\ngood\t1\nbad\tand ugly\t0\n", "has 3 columns in line 3, expected 2 as in its first line; mend that line"),
        (f"{HEAD}\ngood\t1\nbad\n", "has 1 columns in line 3, expected 2"),
        (f"{HEAD}\ngood\t2\n", "has the label '2' in line 2, expected 0 to 1; mend that line"),
        (f"{HEAD}\ngood\tpositive\n", "has the label 'positive' in line 2"),
        (f"{HEAD}\ngood\t1\n\u00fb\t0\n".encode("latin1"), "is not UTF-8 in line 3 (byte 0xfb); convert it"),
    ],
    ids=lambda value: value[:24].decode("latin1") if isinstance(value, bytes) else value[:24],
)
def test_a_bad_tsv_is_a_sentence_that_names_the_file(spoilt: str | bytes, told: str, tmp_path: Path) -> None:
    text = refusal("sst2", sst2(tmp_path, test=spoilt))
    assert f"{tmp_path / 'SST-2/test.tsv'} {told}" in text


def test_a_missing_tsv_is_a_sentence_with_where_it_is_published(tmp_path: Path) -> None:
    assert f"{tmp_path / 'SST-2'} is not there; expected train.tsv and test.tsv" in refusal("sst2", tmp_path)
    (sst2(tmp_path) / "SST-2/train.tsv").unlink()
    text = refusal("sst2", tmp_path)
    assert f"{tmp_path / 'SST-2/train.tsv'} is not there" in text
    assert "https://github.com/thunlp" in text


MULTI30K = "multi30k/data/task1/raw"


def parallel(root: Path, **files: bytes) -> Path:
    folder = root / MULTI30K
    folder.mkdir(parents=True)
    for name, text in {
        "train.en": b"A dog.\nTwo\xe2\x80\xa8cats.\n\n",  # a U+2028, and a line that is empty
        "train.de": b"Ein Hund.\nZwei Katzen.\nNichts.\n",
        "test_2016_flickr.en": b"A man.\r\n",
        "test_2016_flickr.de": b"Ein Mann.",
        **{name.replace("_", "."): text for name, text in files.items()},
    }.items():
        (folder / name).write_bytes(text)
    return root


def test_parallel(tmp_path: Path) -> None:
    train, test, classes, _ = Data.of("parallel").read(parallel(tmp_path))
    assert train.inputs.tolist() == ["A dog.", "Two\u2028cats.", ""]
    assert train.targets.tolist() == ["Ein Hund.", "Zwei Katzen.", "Nichts."]
    assert (test.inputs.tolist(), test.targets.tolist()) == (["A man."], ["Ein Mann."])
    assert train.labels is None
    assert not classes


def test_parallel_the_other_way_round_and_packed(tmp_path: Path) -> None:
    folder = parallel(tmp_path) / MULTI30K
    for name in ("train.en", "train.de"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    train = Data.of({"name": "parallel", "source": "de", "target": "en"}).read(tmp_path).train
    assert (train.inputs.tolist()[0], train.targets.tolist()[0]) == ("Ein Hund.", "A dog.")


def cut(root: Path) -> None:
    path = root / MULTI30K / "train.en"
    path.with_suffix(".en.gz").write_bytes(gzip.compress(path.read_bytes() * 9)[:-20])
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / MULTI30K / "train.de").write_bytes(b"Ein Hund.\n"), "train.en has 3 lines and"),
        (
            lambda root: (root / MULTI30K / "train.de").write_bytes(b"Stra\xdfe\n"),
            "train.de is not UTF-8 in line 1",
        ),
        (lambda root: (root / MULTI30K / "train.de").unlink(), "train.de is not there; expected train.en, train.de"),
        (lambda root: [(root / MULTI30K / f"train.{side}").write_bytes(b"") for side in ("en", "de")], "train.en is empty"),
        (cut, "train.en.gz is damaged (Compressed file ended"),
    ],
    ids=["shorter", "latin1", "missing", "empty", "cut"],
)
def test_bad_parallel_files_are_a_sentence_that_names_them(spoil: Callable[[Path], object], told: str, tmp_path: Path) -> None:
    spoil(parallel(tmp_path))
    assert told in refusal("parallel", tmp_path)


# SHA-256 of the files as they are written: another generator has another number in `folder_name`.
MADE = {
    "reviews": ("SST-2", "train.tsv dev.tsv test.tsv"),
    "phrases": ("", "train.en train.de valid.en valid.de test.en test.de"),
}
DIGESTS = {"reviews": "1cb9ddb34dc0d9fe", "phrases": "790ccbba18cb502f"}


@pytest.mark.parametrize("name", MADE)
def test_a_made_miniature_is_the_same_on_every_machine_and_written_once(name: str, tmp_path: Path) -> None:
    data = Data.of({"name": name, "count": 60, "tests": 20})
    train, test, *_ = data.read(tmp_path)
    assert (len(train), len(test)) == (60, 20)
    assert not {*train.inputs.tolist()} & {*test.inputs.tolist()}
    assert len({*train.inputs.tolist()}) == 60
    folder, names = tmp_path / data.folder_name() / MADE[name][0], MADE[name][1].split()
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    found = hashlib.sha256(b"".join((folder / file).read_bytes() for file in names)).hexdigest()
    assert found[:16] == DIGESTS[name]
    times = [(folder / file).stat().st_mtime_ns for file in names]
    data.read(tmp_path)
    assert times == [(folder / file).stat().st_mtime_ns for file in names]


@pytest.mark.parametrize("name", MADE)
def test_a_made_miniature_that_was_damaged_says_that_it_is_made_again(name: str, tmp_path: Path) -> None:
    data = Data.of({"name": name, "count": 10, "tests": 5})
    data.read(tmp_path)
    folder = tmp_path / data.folder_name()
    (folder / MADE[name][0] / MADE[name][1].split()[0]).write_bytes(b"\xff")
    assert f"remove the folder {folder}, and it is made again" in refusal(data.config(), tmp_path)
    (folder / MADE[name][0] / MADE[name][1].split()[0]).unlink()
    assert f"is not there; remove the folder {folder}, and it is made again" in refusal(data.config(), tmp_path)


def test_reviews_say_what_their_words_do_not(tmp_path: Path) -> None:
    """A `not` turns a sentence round: each word is in sentences of both classes."""
    train = Data.of("reviews").read(tmp_path).train
    told = list(zip(train.inputs.tolist(), train.targets.tolist(), strict=True))
    for word, low, high in (("brilliant", 0.6, 0.9), ("dull", 0.1, 0.4), ("not", 0.3, 0.7)):
        labels = [label for text, label in told if word in text.split()]
        assert low < sum(labels) / len(labels) < high


REAL_PAIRS = f"nlp/{MULTI30K}"


@pytest.mark.real
@pytest.mark.parametrize(
    ("config", "train", "test", "first"),
    [
        ({"name": "sst2", "path": "nlp/sst2_hiddenkiller"}, 6920, 1821, "no movement , no yuks , not much of anything ."),
        ({"name": "sst2", "path": "nlp/sst2_hiddenkiller", "test": "dev"}, 6920, 872, "one long string of cliches ."),
        ({"name": "parallel", "path": REAL_PAIRS}, 29000, 1000, "A man in an orange hat starring at something."),
        (
            {"name": "parallel", "path": REAL_PAIRS, "test": "val"},
            29000,
            1014,
            "A group of men are loading cotton onto a truck",
        ),
    ],
)
def test_the_real_files_have_the_counts_that_are_published(config: Config, train: int, test: int, first: str) -> None:
    root = Path(os.environ.get("BDRAY_DATA", ""))
    if not (root / str(config["path"])).is_dir():
        pytest.skip(f"BDRAY_DATA names no folder with {config['path']}")
    found = Data.of(config).read(root)
    assert (len(found.train), len(found.test)) == (train, test)
    assert len(found.train.inputs.tolist()) == len(found.train.targets.tolist()) == train
    assert found.test.inputs.tolist()[0] == first
