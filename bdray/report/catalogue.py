"""What there is to choose from: every member of every folder, each with the first sentence of its module; and one of them in
full: its fields with type, default and range. Imports no member but the one that is asked for."""

import ast
import importlib.util
import inspect
import itertools
import json
import re
import textwrap
import typing
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from bdray.layout import clipped, entries, prose, safe
from bdray.spec import LARGEST, LARGEST_NUMBER, BadInput, Spec, unknown

FOLDERS = {
    "tasks": "bdray.tasks",
    "data": "bdray.data",
    "models": "bdray.models",
    "attacks": "bdray.attacks",
    "defenses": "bdray.defenses",
    "proxies": "bdray.proxies",
}
CONTRACTS = {
    "tasks": "bdray.task:Task",
    "data": "bdray.data:Data",
    "models": "bdray.models:Model",
    "attacks": "bdray.attacks:Attack",
    "defenses": "bdray.defenses:Defense",
    "proxies": "bdray.proxies:Proxy",
}
"""Where the contract of each folder stands."""
GROUPS = {"training": "bdray.training:Training"}
"""Fields of an experiment that are no member of a folder."""
SINGULAR = {
    "task": "tasks",
    "model": "models",
    "attack": "attacks",
    "defense": "defenses",
    "proxy": "proxies",
    "sweep": "sweeps",
}
"""Both are understood: the word in a path=value, and the word for all of them."""


def catalogue(kind: str | None = None, name: str | None = None) -> str:
    """The list as text, or only one kind of it, or one member in full. Raises BadInput with the nearest name."""
    kinds = [*FOLDERS, "sweeps", *GROUPS]
    if kind is not None:
        kind = SINGULAR.get(kind, kind)
        if kind not in kinds:
            raise BadInput(unknown("kind", kind, [*kinds, *SINGULAR]))
    if kind in GROUPS:
        if name is not None:
            raise BadInput(f"got {name!r} after {kind}, expected nothing: {kind} is one group of fields")
        return _group(kind)
    if kind is not None and name is not None:
        return _sweep(name) if kind == "sweeps" else _member(kind, name)
    lines = []
    for one in [*FOLDERS, "sweeps"] if kind is None else [kind]:
        lines += [one, *entries([(known, _sentence(module)) for known, module in _modules(one).items()])]
    more = "sweeps demo" if kind == "sweeps" else f"{kind or 'defense'} {'nft' if kind in (None, 'defenses') else 'NAME'}"
    return "\n".join([*lines, "", clipped(f"`bdray list {more}` shows one of them in full")])


def _modules(kind: str) -> dict[str, ast.Module]:
    """The sources of a folder, by the names that a person types."""
    files = _members(Path("sweeps") if kind == "sweeps" else _folder(FOLDERS[kind]))
    return {file.as_posix() if kind == "sweeps" else file.stem: _parsed(file) for file in files}


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise BadInput(f"{file}, line {error.lineno}: {error.msg}; mend it") from None


def _sweep(name: str) -> str:
    """What a sweep's file says of itself."""
    modules = {Path(path).stem: (path, module) for path, module in _modules("sweeps").items()}
    stem = Path(name).stem
    if stem not in modules:
        raise BadInput(unknown("sweep", stem, modules))
    path, module = modules[stem]
    return "\n".join([safe(path), "", *_paragraphs(ast.get_docstring(module)), "", clipped(f"bdray sweep {path} --dry-run")])


def _member(kind: str, name: str) -> str:
    """One member: what its module and its class say, its fields, and its presets."""
    member = _contract(CONTRACTS[kind]).member(name)
    module = inspect.getmodule(member)
    head = "data" if kind == "data" else next(one for one, many in SINGULAR.items() if many == kind)
    parts = [f"{head} {name}", "", *_paragraphs(module.__doc__ if module else None), *_paragraphs(_own(member))]
    presets = [f"{preset}: {_values(fields)}" for preset, fields in member.presets.items()]
    path = {"data": "task.data", "model": "task.model"}.get(head, head)
    if presets:
        parts += [f"presets, as {path}.preset=NAME", *(prose(f"  {line}", "    ") for line in presets), ""]
    return "\n".join([*parts, *_fields(member, path)])


def _group(kind: str) -> str:
    cls = _contract(GROUPS[kind])
    return "\n".join([kind, "", *_paragraphs(_own(cls)), *_fields(cls, kind)])


def _contract(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _own(cls: type) -> str | None:
    """The docstring of the class itself; pydantic and Python hand on that of a base."""
    return cls.__dict__.get("__doc__")


def _paragraphs(text: str | None) -> list[str]:
    """A docstring, its lines joined, and a blank line after each paragraph."""
    found = textwrap.dedent((text or "").strip("\n")).split("\n\n")
    return [line for part in found if part.strip() for line in (prose(" ".join(part.split())), "")]


def _fields(cls: type[Spec], path: str) -> list[str]:
    """Each field with its type and range, its default, and what its docstring says."""
    if not cls.model_fields:
        return ["no fields"]
    told, lines = _docstrings(cls), [f"fields, as {path}.FIELD=VALUE"]
    for name, info in cls.model_fields.items():
        default = (
            "no default" if info.is_required() else f"default {json.dumps(_plain(info.get_default(call_default_factory=True)))}"
        )
        lines.append(prose(f"  {name}: {_type(info)}; {default}", "      "))
        if told.get(name):
            lines.append(prose(f"      {told[name]}", "      "))
    return lines


def _docstrings(cls: type[Spec]) -> dict[str, str]:
    """The text below each field, of the class and those it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Spec) and base is not Spec:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            for field, text in itertools.pairwise(tree.body):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                ):
                    found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _type(info: FieldInfo) -> str:
    """A field's type in words, with its range."""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    common = (None, LARGEST, LARGEST_NUMBER)
    bounds = [f"{words[a]} {v}" for m in info.metadata for a in words if (v := getattr(m, a, None)) not in common]
    text = _noun(info.annotation)
    return f"{text}, {' and '.join(bounds)}" if bounds else text


def _noun(kind: Any) -> str:
    nouns = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    if kind in nouns:
        return nouns[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(value) for value in inner)
    if origin is typing.Annotated:
        return _noun(inner[0])
    if origin in (tuple, list):
        return f"a list, each {_noun(inner[0])}" if inner else "a list"
    if inner:
        return " or ".join(_noun(one) for one in inner)
    if isinstance(kind, type) and issubclass(kind, Spec):
        folder = next((many for many, place in CONTRACTS.items() if kind.folder == place.partition(":")[0]), "")
        return f"a member of `bdray list {folder}`" if folder else "a group of fields"
    return re.sub(r"\w+\.", "", str(kind))


def _plain(value: Any) -> Any:
    """A default as it is typed."""
    if isinstance(value, Spec):
        return value.name
    return list(value) if isinstance(value, tuple) else value


def _values(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={json.dumps(value) if not isinstance(value, str) else value}" for name, value in fields.items())


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _members(folder: Path) -> list[Path]:
    return sorted(f for f in folder.glob("*.py") if not f.name.startswith("_"))


def _sentence(module: ast.Module) -> str:
    """The first sentence of a module without where it was published, and its presets."""
    first = " ".join((ast.get_docstring(module) or "").split("\n\n")[0].split())
    first = re.sub(r" \((?:[^()]|\([^()]*\))*\d{4}(?:[^()]|\([^()]*\))*\)", "", first)
    end = re.search(r"(?<!\bal)\.(?= [A-Z])", first)
    presets = ", ".join(_presets(module))
    return (first[: end.end()] if end else first) + (f" Presets: {presets}." if presets else "")


def _presets(module: ast.Module) -> list[str]:
    """The names of the presets of the public class."""
    bodies = [node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    return [
        key.value
        for node in itertools.chain(*bodies)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "presets"
        if isinstance(node.value, ast.Dict)
        for key in node.value.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    ]
