"""What there is to choose from: every member of every folder, with the first sentence of its module and its presets. Imports
none of them."""

import ast
import importlib.util
import itertools
import textwrap
from pathlib import Path

from bdray.spec import BadInput, unknown

FOLDERS = {
    "tasks": "bdray.tasks",
    "data": "bdray.data",
    "models": "bdray.models",
    "attacks": "bdray.attacks",
    "defenses": "bdray.defenses",
    "proxies": "bdray.proxies",
}


def catalogue(kind: str | None = None) -> str:
    """The list as text, or only one kind of it."""
    kinds = [*FOLDERS, "sweeps"]
    if kind is not None and kind not in kinds:
        raise BadInput(unknown("kind", kind, kinds))
    lines = []
    for name in kinds if kind is None else [kind]:
        lines.append(name)
        files = _members(Path("sweeps") if name == "sweeps" else _folder(FOLDERS[name]))
        for file in files:
            head = f"  {file.as_posix() if name == 'sweeps' else file.stem:<18} "
            module, indent = ast.parse(file.read_text()), " " * len(head)
            lines += textwrap.wrap(head + _sentence(module), 118, subsequent_indent=indent)
            if presets := _presets(module):
                lines += textwrap.wrap(f"presets: {', '.join(presets)}", 118, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _members(folder: Path) -> list[Path]:
    return sorted(f for f in folder.glob("*.py") if not f.name.startswith("_"))


def _sentence(module: ast.Module) -> str:
    return " ".join((ast.get_docstring(module) or "").split("\n\n")[0].split())


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
