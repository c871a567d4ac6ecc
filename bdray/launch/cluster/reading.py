"""A cluster file as text and as YAML, of a size that can be checked."""

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from bdray.spec import BadInput, Config

LONGEST = 1_000_000
"""Bytes of a file: a hundred times those that are shipped."""
MOST = 100_000
"""Values in a file, those that an alias repeats included."""


def read(path: Path) -> tuple[str, list[Config]]:
    """The text of a file and the documents in it. Raises BadInput where there is no such file, or no YAML in it."""
    text = _text(path)
    return text, _documents(path, text)


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise BadInput(f"cannot read {str(path)!r}: it is a device or a pipe; name a cluster file, such as cluster.yaml")
        if path.is_file() and path.stat().st_size > LONGEST:
            raise BadInput(f"{path}: got {path.stat().st_size} bytes, expected a cluster file of {LONGEST} at the most")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        files = [file.name for file in path.parent.glob("*.y*ml")]
        near = difflib.get_close_matches(path.name, sorted(files), n=1)
        cure = f"did you mean {str(path.with_name(near[0]))!r}?" if near else "cluster.yaml is one for AWS"
        raise BadInput(f"no file {str(path)!r}; {cure}") from None
    except (OSError, ValueError) as error:  # not UTF-8, or a path with a NUL
        raise BadInput(f"cannot read {str(path)!r}: {error}; name a cluster file, such as cluster.yaml") from None


class _Loader(yaml.SafeLoader):
    """YAML in which a key is a name that stands once; the plain loader keeps the last of two without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands here twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        mapping = dict(super().construct_mapping(node, deep))
        for key in mapping:
            if not isinstance(key, str):
                problem = f"got {key!r} for the name of a field, expected a text; put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return mapping


def _documents(path: Path, text: str) -> list[Config]:
    found = []
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            if _size(node, {}) > MOST:
                raise BadInput(f"{path}: got more than {MOST} values, its aliases included; write fewer of them")
            found.append(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise BadInput(f"{path}, {where}: {error.problem}; mend that line or the one above it") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: {' '.join(str(error).split())}; expected YAML") from None
    except RecursionError:
        raise BadInput(f"{path}: got fields within fields by the hundred, or one that contains itself; expected few") from None
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:  # of a tag or a number
        raise BadInput(f"{path}: got a value that is none: {' '.join(str(error).split())}; expected YAML") from None
    for config in found or [None]:
        if not isinstance(config, dict):
            raise BadInput(f"{path}: got {type(config).__name__}, expected fields such as cluster_name and provider")
    return found


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node is, each alias counted as what it repeats. Raises RecursionError for one within itself."""
    if id(node) not in sizes:
        sizes[id(node)] = -1
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    if sizes[id(node)] < 0:
        raise RecursionError
    return sizes[id(node)]
