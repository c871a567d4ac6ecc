"""A made miniature of translation: English-German pairs from a grammar with gender, case and word order, in parallel files."""

from pathlib import Path
from typing import ClassVar, NamedTuple, NoReturn

import torch

from bdray.data import Published
from bdray.data._made import made, own_folder
from bdray.data._texts import Pairs
from bdray.seeds import rng
from bdray.spec import BadInput, Count


class Noun(NamedTuple):
    """An English noun and its German one, of gender m, f or n."""

    english: str
    german: str
    gender: str


NOUNS = (
    *(Noun("dog", "Hund", "m"), Noun("man", "Mann", "m"), Noun("ball", "Ball", "m"), Noun("tree", "Baum", "m")),
    *(Noun("woman", "Frau", "f"), Noun("cat", "Katze", "f"), Noun("street", "Straße", "f"), Noun("bag", "Tasche", "f")),
    *(Noun("child", "Kind", "n"), Noun("horse", "Pferd", "n"), Noun("house", "Haus", "n"), Noun("girl", "Mädchen", "n")),
)
ADJECTIVES = (
    *(("small", "klein"), ("big", "groß"), ("red", "rot"), ("old", "alt"), ("young", "jung"), ("brown", "braun")),
    *(("beautiful", "schön"), ("wet", "nass")),
)
VERBS = (("sees", "sieht"), ("finds", "findet"), ("likes", "mag"), ("seeks", "sucht"), ("paints", "malt"), ("knows", "kennt"))
OPENINGS = (("", ""), ("Anna says that", "Anna sagt, dass"), ("Today", "Heute"), ("We think that", "Wir glauben, dass"))
ARTICLES = {"the": {"m": ("der", "den"), "f": ("die", "die"), "n": ("das", "das")}, "a": {}}
ARTICLES["a"] = {"m": ("ein", "einen"), "f": ("eine", "eine"), "n": ("ein", "ein")}
ENDINGS = {"the": {"m": ("e", "en"), "f": ("e", "e"), "n": ("e", "e")}, "a": {}}
ENDINGS["a"] = {"m": ("er", "en"), "f": ("e", "e"), "n": ("es", "es")}
MARKS = ("", "\u2028", "\u00a0")
"""Now and then behind a word, as in texts from the web; the first ends a line for Python's `splitlines` alone."""


class Phrases(Pairs):
    """Subject, verb and object, perhaps in a clause whose German verb comes last, or after an adverb that comes before the
    German verb. No English sentence is there twice. Made of whole numbers only, hence the same on every machine; written
    below the data folder, or else the user's cache folder, on first use."""

    home: ClassVar[str] = "bdray itself (bdray/data/phrases.py)"
    layout: ClassVar[str] = "nothing, or what it wrote itself"

    count: Count = 3000
    """Training pairs, before `held` is taken off."""
    tests: Count = 200

    def read(self, root: Path) -> Published:
        home = made(root, self.folder_name(), self._write)
        return Published(self.pairs(home, "train", ("en", "de")), self.pairs(home, "test", ("en", "de")), ())

    def folder_name(self) -> str:
        """Of what is written: it says all that the content depends on, and a number that changes with the generator."""
        return f"phrases-1-{self.count}-{self.tests}"

    def again(self, path: Path) -> str:
        return f"remove the folder {own_folder(path, self.folder_name())}, and it is made again"

    def missing(self, folder: Path, problem: str = "is not there") -> NoReturn:
        raise BadInput(f"{self.name}: {folder} {problem}; {self.again(folder)}")

    def _write(self, folder: Path) -> None:
        told = _pairs(self.count + 2 * self.tests)
        valid, test = self.count, self.count + self.tests
        for name, part in (("train", told[:valid]), ("valid", told[valid:test]), ("test", told[test:])):
            for side, language in enumerate(("en", "de")):
                text = "".join(f"{pair[side]}\n" for pair in part)
                (folder / f"{name}.{language}").write_bytes(text.encode())


def _pairs(count: int) -> list[tuple[str, str]]:
    """So many pairs of different English sentences."""
    draw, found = rng(0, "phrases"), dict[str, str]()

    def one(of: int) -> int:
        return int(torch.randint(of, (1,), generator=draw))

    def phrase(case: int) -> tuple[str, str]:
        noun, article, described = NOUNS[one(len(NOUNS))], ("the", "a")[one(2)], one(3)
        english, german = ADJECTIVES[one(len(ADJECTIVES))]
        words = (article, english, noun.english) if described == 0 else (article, noun.english)
        ending = ENDINGS[article][noun.gender][case]
        theirs = (ARTICLES[article][noun.gender][case], f"{german}{ending}", noun.german)
        if article == "a" and words[1][0] in "aeiou":
            words = ("an", *words[1:])
        return " ".join(words), " ".join(theirs if described == 0 else (theirs[0], theirs[2]))

    while len(found) < count:
        (subject, theirs), (verb, said), (thing, its) = phrase(0), VERBS[one(len(VERBS))], phrase(1)
        opening, head = OPENINGS[one(len(OPENINGS))]
        english = " ".join(filter(None, (opening, subject, verb, thing)))
        order: tuple[str, ...] = (theirs, said, its)
        if head:
            order = (head, theirs, its, said) if "dass" in head else (head, said, theirs, its)
        german = " ".join(order)
        mark = MARKS[1 + one(2)] if one(100) == 0 else MARKS[0]
        found[f"{english[0].upper()}{english[1:]}{mark}."] = f"{german[0].upper()}{german[1:]}{mark}."
    return list(found.items())
