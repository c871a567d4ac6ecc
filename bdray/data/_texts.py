"""What the readers of text share: lines of a file, labelled sentences in tab-separated columns, pairs of parallel files."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import torch

from bdray.data import Data
from bdray.samples import Rows, Samples
from bdray.spec import BadInput, Config
from bdray.wording import quoted


class _Lines(Data):
    """Data in text files."""

    def lines(self, path: Path) -> list[str]:
        """The lines of a text file in UTF-8, gzip's where the name says so, without their ends (LF or CRLF). Nothing else ends
        a line: corpora have form feeds and U+2028 inside of theirs. Raises BadInput where it cannot be read."""
        try:
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadInput(f"the file {path} is damaged ({error}); {self.again(path)}") from None
        except OSError as error:
            raise BadInput(f"cannot read the file {path} ({error.strerror}); mend that, or {self.again(path)}") from None
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            raise BadInput(
                f"the file {path} is not UTF-8 in line {number} (byte 0x{data[error.start]:02x}); convert it, for example with "
                f"iconv -f latin1 -t utf8, or {self.again(path)}"
            ) from None
        found = [line.removesuffix("\r") for line in text.split("\n")]
        return found if found[-1] else found[:-1]

    def again(self, path: Path) -> str:
        """What to do about a file that is damaged."""
        return "fetch the data set again"


class Texts(_Lines):
    """Class-labelled texts: `Rows` of strings and class numbers."""

    modality: ClassVar[str] = "text"
    unit: ClassVar[str] = "a line"
    suited_model: ClassVar[Config] = {"name": "bert"}

    def table(self, path: Path, classes: Sequence[str], columns: tuple[str, str] = ("sentence", "label")) -> Samples:
        """A TSV file whose first line names its columns, no character of which is a quote; labels count from 0. Raises
        BadInput, with the file and the line, for what is not like that."""
        if not path.is_file():
            self.missing(path)
        head, *rest = self.lines(path) or [""]
        names = head.split("\t")
        for column in columns:
            if column not in names:
                self.missing(path, f"has no column {column} (its first line names {', '.join(map(quoted, names))})")
        text, label = (names.index(column) for column in columns)
        texts, labels = [], []
        for number, line in enumerate(rest, start=2):
            cells = line.split("\t")
            if len(cells) != len(names):
                raise BadInput(
                    f"the file {path} has {len(cells)} columns in line {number}, expected {len(names)} as in its first line; "
                    f"mend that line, or {self.again(path)}"
                )
            if cells[label] not in map(str, range(len(classes))):
                raise BadInput(
                    f"the file {path} has the label {quoted(cells[label])} in line {number}, expected 0 to "
                    f"{len(classes) - 1}; mend that line, or {self.again(path)}"
                )
            texts.append(cells[text])
            labels.append(int(cells[label]))
        if not texts:
            self.missing(path, "has no lines below the first")
        return Samples(Rows.of(texts, pa.string()), torch.tensor(labels, dtype=torch.int64))


class Pairs(_Lines):
    """Sentences and their translations: `Rows` of strings, both. They belong to no class."""

    modality: ClassVar[str] = "translation"
    unit: ClassVar[str] = "a pair of lines"
    suited_model: ClassVar[Config] = {"name": "marian"}

    def pairs(self, folder: Path, stem: str, languages: tuple[str, str]) -> Samples:
        """Line n of `stem.en` is translated in line n of `stem.de`; either may be packed by gzip. Raises BadInput, with the
        files, where they differ in length."""
        paths = [self._file(folder, f"{stem}.{language}") for language in languages]
        sides = [self.lines(path) for path in paths]
        if len(sides[0]) != len(sides[1]):
            raise BadInput(
                f"{paths[0]} has {len(sides[0])} lines and {paths[1]} has {len(sides[1])}, expected as many, since each line "
                f"is the translation of one; {self.again(folder)}"
            )
        if not sides[0]:
            self.missing(paths[0], "is empty")
        return Samples(Rows.of(sides[0], pa.string()), Rows.of(sides[1], pa.string()))

    def _file(self, folder: Path, name: str) -> Path:
        found = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
        if found is None:
            self.missing(folder / name)
        return found
