"""What an installed bdray brings: one name, and the tasks and sweeps below it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from setuptools import find_packages

import bdray

ROOT = Path(bdray.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_an_installed_bdray_owns_no_other_name() -> None:
    """A person's own tasks.py, as Invoke and Celery want one, stands beside it."""
    packages = find_packages(str(ROOT), **PROJECT["tool"]["setuptools"]["packages"]["find"])
    assert {name.partition(".")[0] for name in packages} == {"bdray"}
    assert {"bdray.tasks", "bdray.sweeps"} <= set(packages)


def imported() -> set[str]:
    """Every top-level module that a file of the package imports, but Python's own."""
    found = set()
    for folder in ("bdray", "tasks", "sweeps"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    found |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - {"bdray"}


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    declared = {re.split(r"[\[<>=~ ]", line)[0].lower() for line in PROJECT["project"]["dependencies"]}
    distributions = packages_distributions()
    needed = {distributions[module][0].lower() for module in imported()}
    assert needed == declared
