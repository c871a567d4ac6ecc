"""What an installed bdray brings: one name, and the tasks and sweeps below it."""

import tomllib
from pathlib import Path

from setuptools import find_packages

import bdray

ROOT = Path(bdray.__file__).parent.parent


def test_an_installed_bdray_owns_no_other_name() -> None:
    """A person's own tasks.py, as Invoke and Celery want one, stands beside it."""
    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = find_packages(str(ROOT), **find)
    assert {name.partition(".")[0] for name in packages} == {"bdray"}
    assert {"bdray.tasks", "bdray.sweeps"} <= set(packages)
