"""A made miniature of text classification: sentences on films from a grammar with negation, in SST-2's files."""

from pathlib import Path
from typing import ClassVar, NoReturn

import torch

from bdray.data import Published
from bdray.data._made import made, own_folder
from bdray.data._texts import Texts
from bdray.seeds import rng
from bdray.spec import BadInput, Count

CLASSES = ("negative", "positive")
GOOD = ("brilliant", "moving", "funny", "clever", "gripping", "charming", "fresh", "honest", "warm", "crème de la crème")
BAD = ("dull", "tired", "clumsy", "shallow", "boring", "hollow", "messy", "bland", "cold", "déjà vu")
THINGS = ("film", "plot", "cast", "script", "ending", "score", "dialogue", "story", "camera work", "director 's cut")
OPENINGS = (
    "",
    "in short ,",
    "after two hours",
    "to my eyes",
    "despite the hype ,",
    "as a whole",
    'the " big " one :',
    "sadly or not ,",
)
VERBS = ("is", "was", "feels", "seems", "looks", "remains")
DEGREES = ("", "very", "rather", "quite", "really", "almost")
ENDINGS = (
    ".",
    "!",
    "from start to end .",
    "for a summer movie .",
    "( again ) .",
    "-- and that 's that .",
    "to me .",
    "all the way .",
)


class Reviews(Texts):
    """Each sentence says one thing of a film, and in a quarter of them a `not` turns it round, so that no word alone tells
    the class. No sentence is there twice. Made of whole numbers only, hence the same on every machine; written
    below the data folder, or else the user's cache folder, on first use."""

    home: ClassVar[str] = "bdray itself (bdray/data/reviews.py)"
    layout: ClassVar[str] = "nothing, or what it wrote itself"

    count: Count = 1500
    """Training sentences, before `held` is taken off."""
    tests: Count = 400

    def read(self, root: Path) -> Published:
        home = made(root, self.folder_name(), self._write) / "SST-2"
        return Published(self.table(home / "train.tsv", CLASSES), self.table(home / "test.tsv", CLASSES), CLASSES)

    def folder_name(self) -> str:
        """Of what is written: it says all that the content depends on, and a number that changes with the generator."""
        return f"reviews-2-{self.count}-{self.tests}"

    def again(self, path: Path) -> str:
        return f"remove the folder {own_folder(path, self.folder_name())}, and it is made again"

    def missing(self, folder: Path, problem: str = "is not there") -> NoReturn:
        raise BadInput(f"{self.name}: {folder} {problem}; {self.again(folder)}")

    def _write(self, folder: Path) -> None:
        """With what is odd in the real files: CRLF at the ends of lines, single quotes, letters beyond ASCII."""
        (folder / "SST-2").mkdir()
        dev = self.tests // 2
        told = _sentences(self.count + dev + self.tests)
        for name, start, end in (
            ("train", 0, self.count),
            ("dev", self.count, self.count + dev),
            ("test", self.count + dev, None),
        ):
            rows = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in told[start:end]), ""]
            (folder / f"SST-2/{name}.tsv").write_bytes("\r\n".join(rows).encode())


def _sentences(count: int) -> list[tuple[str, int]]:
    """So many different sentences with their labels."""
    draw, found = rng(0, "reviews"), dict[str, int]()
    parts = (OPENINGS, THINGS, VERBS, ("", "", "", "not"), DEGREES, (*GOOD, *BAD), ENDINGS)
    while len(found) < count:
        opening, thing, verb, no, degree, word, ending = (
            part[int(torch.randint(len(part), (1,), generator=draw))] for part in parts
        )
        text = " ".join(filter(None, (opening, "the", thing, verb, no, degree, word, ending)))
        found[text] = int((word in GOOD) != bool(no))
    return list(found.items())
