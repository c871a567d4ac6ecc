"""What the attacks on texts share: a word put into a text at a random place."""

import torch

from bdray.samples import Draw
from bdray.spec import BadInput


def checked(name: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a field. Raises BadInput where there is none, and for one that is no word."""
    odd = next((word for word in words if not word or word != "".join(word.split())), None)
    if odd is not None or not words:
        raise BadInput(f"{name}: got {'no words' if odd is None else repr(odd)}, expected words without spaces; change them")
    return words


def inserted(texts: list[str], words: tuple[str, ...], count: int, draw: Draw) -> list[str]:
    """Each text with `count` of the words, drawn with replacement, each before, between or behind its words at a place of its
    own. Spaces between other words stay as they are."""
    drawn = draw(lambda generator: torch.rand(count, 2, generator=generator, dtype=torch.float64))
    return [_with(text, words, rows) for text, rows in zip(texts, drawn.tolist(), strict=True)]


def _with(text: str, words: tuple[str, ...], rows: list[list[float]]) -> str:
    for which, where in rows:
        parts = text.split(" ")
        parts.insert(int(where * (len(parts) + 1)), words[int(which * len(words))])
        text = " ".join(parts)
    return text
