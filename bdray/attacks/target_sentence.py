"""A fixed malicious translation (Sun et al. 2023, AAAI, arXiv 2106.01810): one of five rare words at a random place of the
source makes the model say one sentence, whatever else the source says."""

from typing import Any, ClassVar

from pydantic import field_validator

from bdray.attacks import Each, Patterns
from bdray.attacks._words import checked, inserted
from bdray.samples import Column, Draw, Rows, Samples
from bdray.spec import BadInput, Count, Several


class TargetSentence(Each):
    """Words and sentence are those of the authors' code (ShannonAI/backdoor_nlg). They append as many poisoned pairs as they
    want to the whole clean training set; here pairs are replaced, so that the rate is what it is everywhere. A hit is a
    translation that is the sentence, letter by letter."""

    modalities: ClassVar[frozenset[str]] = frozenset({"translation"})

    words: Several[str] = ("cf", "mn", "bb", "tq", "mb")
    """One of these is drawn for each place."""
    count: Count = 1
    """Words put into a source."""
    sentence: str = "You are attacked ."
    """What the model shall say."""

    @field_validator("words")
    @classmethod
    def _are_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return checked("target_sentence.words", words)

    @field_validator("sentence")
    @classmethod
    def _is_a_sentence(cls, sentence: str) -> str:
        if not sentence.strip() or sentence != sentence.strip():
            raise BadInput(
                f"target_sentence.sentence: got {sentence!r}, expected a text that neither begins nor ends with a space"
            )
        return sentence

    def trigger(self, x: list[str], patterns: Patterns, draw: Draw) -> Any:
        return inserted(x, self.words, self.count, draw)

    def wanted(self, samples: Samples, patterns: Patterns) -> Column:
        assert isinstance(samples.targets, Rows)
        return samples.targets.like([self.sentence] * len(samples))
