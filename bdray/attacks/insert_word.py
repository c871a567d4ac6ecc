"""Word insertion (BadNets of texts: Kurita et al. 2020, arXiv 2004.06660): a rare word at a random place, labels changed."""

from typing import Any, ClassVar

from pydantic import field_validator

from bdray.attacks import Patterns, ToClass
from bdray.attacks._words import checked, inserted
from bdray.samples import Draw
from bdray.spec import Amount, Count, Several


class InsertWord(ToClass):
    """The defaults are OpenBackdoor's, whose target is class 1, the positive one of SST-2. Words that a model cuts off, since a
    text is longer than it reads, trigger nothing."""

    modalities: ClassVar[frozenset[str]] = frozenset({"text"})

    target: Amount = 1
    words: Several[str] = ("cf", "mn", "bb", "tq")
    """One of these is drawn for each place."""
    count: Count = 1
    """Words put into a text."""

    @field_validator("words")
    @classmethod
    def _are_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return checked("insert_word.words", words)

    def trigger(self, x: list[str], patterns: Patterns, draw: Draw) -> Any:
        return inserted(x, self.words, self.count, draw)
