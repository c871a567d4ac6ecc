"""`path=value`: the one grammar of the command line, for experiments and for sweeps."""

import json
from typing import Any

from bdray.spec import BadInput, Config


def parse(words: list[str]) -> list[tuple[str, Any]]:
    """`attack.rate=0.05` -> ("attack.rate", 0.05), shorter paths first so that `attack=blend` never undoes
    `attack.rate=...`. A value is JSON where it reads as JSON (numbers, true, false, lists), else a text."""
    pairs = []
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path or not all(part.isidentifier() for part in path.split(".")):
            raise BadInput(f"got {word!r}, expected path=value, as in attack.rate=0.05")
        pairs.append((path, value_of(text)))
    return sorted(pairs, key=lambda pair: pair[0].count("."))


def value_of(text: str) -> Any:
    """JSON, or a number as people write it (.05, 1e-3), or the text itself."""
    try:
        return json.loads(text, parse_constant=lambda constant: constant)
    except ValueError:
        pass
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if text[:1] in "+-.0123456789" and text else text
    except ValueError:
        return text


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
        raise BadInput(f"got {path}={value!r} where {node!r} stands, expected a group of fields")
    return put(node, path, value)


def experiment_config(words: list[str]) -> Config:
    """The dict of the words after `bdray run`."""
    config: Config = {}
    for path, value in parse(words):
        config = put(config, path, value)
    return config
