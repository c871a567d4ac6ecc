"""`path=value`: the one grammar of the command line, for experiments and for sweeps."""

import json
import re
from collections.abc import Callable
from typing import Any, Self

from bdray.spec import BadInput, Config, Typed
from bdray.wording import quoted, shown

DEEPEST = 20
"""Lists and groups in each other."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Whole(Typed, int):
    """A whole number as it was typed."""

    def __new__(cls, word: str) -> Self:
        made = super().__new__(cls, word)
        made.word = str(word)
        return made


class Fraction(Typed, float):
    """Another number as it was typed; also a whole one of more digits than Python reads."""

    def __new__(cls, word: str) -> Self:
        made = super().__new__(cls, word)
        made.word = str(word)
        return made


def parse(words: list[str]) -> list[tuple[str, Any]]:
    """`attack.rate=0.05` -> ("attack.rate", 0.05), shorter paths first so that `attack=blend` never undoes
    `attack.rate=...`. A value is JSON where it reads as JSON (numbers, true, false, lists), else a text; in a list, names need
    no quotes. Numbers remember how they were typed."""
    pairs = []
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path or not all(part.isidentifier() for part in path.split(".")):
            raise BadInput(f"got {quoted(word)}, expected path=value, as in attack.rate=0.05")
        pairs.append((path, _value(text, _typed)))
    return sorted(pairs, key=lambda pair: pair[0].count("."))


def value_of(text: str) -> Any:
    """JSON, or a number as people write it (.05, 1e-3), or a list of names without quotes, or the text itself. Raises BadInput
    for a group of fields that is no JSON, and for what is nested too deeply."""
    return _value(text, _plain)


def _plain(word: str) -> int | float:
    return _number(word, int, float)


def _typed(word: str) -> int | float:
    return _number(word, Whole, Fraction)


def _number(word: str, whole: Callable[[str], int], fraction: Callable[[str], float]) -> int | float:
    try:
        return whole(word)
    except ValueError:  # a point, an exponent, or thousands of digits
        return fraction(word)


def _value(text: str, number: Callable[[str], Any], depth: int = DEEPEST) -> Any:
    try:
        value = json.loads(
            text, parse_int=number, parse_float=number, parse_constant=lambda name: name, object_pairs_hook=_group
        )
    except RecursionError:
        depth = 0
    except BadInput:
        raise
    except ValueError:
        pass
    else:
        if not _deeper(value, depth):
            return value
        depth = 0
    if not depth:
        raise BadInput(f"got {quoted(text)}, which is nested more than {DEEPEST} deep; give a number, a name or a list")
    if text in ("True", "False"):
        return text == "True"
    if _NUMBER.fullmatch(text):
        return number(text)
    if text[:1] == "[" and text[-1:] == "]":
        return [_value(member, number, depth - 1) for member in _members(text)]
    if text[:1] == "{" and text[-1:] == "}":
        raise BadInput(
            f"got {quoted(text)}, which is no JSON; put names and texts in double quotes and all of it in single ones, as in "
            """'{"name": "sig", "rate": 0.05}'"""
        )
    return text


def _group(pairs: list[tuple[str, Any]]) -> Config:
    """A group of fields, each given once: JSON itself takes the last of two."""
    group = dict(pairs)
    if len(group) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"got two values of {quoted(twice)} in one group of fields, expected one; leave one out")
    return group


def _deeper(value: Any, depth: int) -> bool:
    """Whether lists and groups lie in each other more than so deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth <= 1 or _deeper(member, depth - 1) for member in inner if isinstance(member, dict | list))


def _members(text: str) -> list[str]:
    """What stands between the commas of a list that is no JSON, without the quotes around single names."""
    parts, begun, depth, quote = [], 1, 0, ""
    for at, character in enumerate(text[1:-1], 1):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and not depth:
            parts.append(text[begun:at].strip())
            begun = at + 1
    parts.append(text[begun:-1].strip())
    if depth or quote or "" in parts:
        raise BadInput(
            f"got {quoted(text)}, which is no list; write [badnets,blend], or JSON in single quotes, as in "
            """'["badnets", {"name": "sig", "rate": 0.05}]'"""
        )
    return [json.dumps(part[1:-1]) if len(part) > 1 and part[0] == part[-1] == "'" else part for part in parts]


def put(config: Config, path: str, value: Any) -> Config:
    """A copy of the dict with one value set. On the way a name stands for `{"name": name}`, and where the place holds
    several members (a list or a grid), the value is set in each that is a group of fields."""
    head, _, rest = path.partition(".")
    out = dict(config)
    if not rest:
        out[head] = value
        return out
    out[head] = _inside(out.get(head, {}), rest, value)
    return out


def _inside(node: Any, path: str, value: Any) -> Any:
    if isinstance(node, dict) and set(node) == {"grid_search"}:
        return {"grid_search": [_inside(member, path, value) for member in node["grid_search"]]}
    if isinstance(node, list | tuple):
        return [_inside(member, path, value) for member in node]
    if isinstance(node, str):
        node = {"name": node}
    if not isinstance(node, dict):
        stands = str(node) if isinstance(node, bool) else shown(node)
        raise BadInput(f"got {path}={shown(value)} where {stands} stands, expected a group of fields")
    return put(node, path, value)


def experiment_config(words: list[str]) -> Config:
    """The dict of the words after `bdray run`."""
    config: Config = {}
    for path, value in parse(words):
        config = put(config, path, value)
    return config
