"""Words for a person: what was got, short and printable. A terminal obeys control characters, and a sentence with 100 kB of
somebody's file in it is none."""

import json
import unicodedata
from typing import Any

VALUE, WORD, SENTENCE = 80, 250, 800
"""Characters of a value that was got, of anything without a space (a path may be long), and of a whole sentence."""


def printable(text: str) -> str:
    """The text with what no terminal should obey, and no file may hold, written out: control characters, line ends, marks of
    direction, halves of surrogate pairs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def shortened(text: str, most: int = VALUE) -> str:
    """The text, or its beginning, `…` and its end."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}…{text[-most // 4 :]}"


def quoted(text: str) -> str:
    """A text between quotes, as Python writes it."""
    return printable(repr(shortened(text)))


def shown(value: Any) -> str:
    """A value as JSON, or as it was typed; what is no JSON by the name of its type."""
    if not isinstance(value, str | int | float | list | tuple | dict | None):
        return _kind(value)
    try:
        text = getattr(value, "word", None) or json.dumps(_cut(value, 3), ensure_ascii=False, default=_kind)
    except (ValueError, TypeError):  # a key that is no text, or a number of more digits than Python writes
        text = _kind(value)
    return printable(shortened(text))


def _cut(value: Any, depth: int) -> Any:
    """The beginning of what is long or deep: it is not written out only to be thrown away."""
    if isinstance(value, str):
        return shortened(value, 2 * VALUE)
    if isinstance(value, list | tuple | dict) and not depth:
        return "…"
    if isinstance(value, list | tuple):
        return [_cut(member, depth - 1) for member in value[:VALUE]]
    if isinstance(value, dict):
        return {key: _cut(value[key], depth - 1) for key in list(value)[:VALUE]}
    return value


def _kind(value: Any) -> str:
    if isinstance(value, int):
        return f"a number of {round(value.bit_length() * 0.30103)} digits"
    kind = type(value)
    return f"an object of the type {'' if kind.__module__ == 'builtins' else kind.__module__ + '.'}{kind.__name__}"


def sentence(text: str) -> str:
    """One line for a person, whatever was put into it."""
    text = printable(text)
    if len(text) > WORD:
        text = " ".join(shortened(word, WORD) for word in text.split(" "))
    return shortened(text, SENTENCE)
