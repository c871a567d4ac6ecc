"""What an installed bdray brings: one name, and the tasks and sweeps below it; and what it needs beside itself."""

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from setuptools import find_packages

import bdray
from bdray import packages
from bdray.packages import PACKAGES, need
from bdray.spec import BadInput

ROOT = Path(bdray.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_an_installed_bdray_owns_no_other_name() -> None:
    """A person's own tasks.py, as Invoke and Celery want one, stands beside it."""
    packages = find_packages(str(ROOT), **PROJECT["tool"]["setuptools"]["packages"]["find"])
    assert {name.partition(".")[0] for name in packages} == {"bdray"}
    assert {"bdray.tasks", "bdray.sweeps"} <= set(packages)


def nodes() -> Iterator[ast.AST]:
    """The syntax of every file of the package."""
    for folder in ("bdray", "tasks", "sweeps"):
        for file in (ROOT / folder).rglob("*.py"):
            yield from ast.walk(ast.parse(file.read_text()))


def imported() -> set[str]:
    """Every top-level module that a file of the package imports, but Python's own."""
    found = set()
    for node in nodes():
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - {"bdray"}


def distribution(line: str) -> str:
    """The name in a line of requirements."""
    return re.split(r"[\[<>=~ ]", line)[0].lower()


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    """What one modality needs is imported by `need` alone."""
    declared = {distribution(line) for line in PROJECT["project"]["dependencies"]}
    distributions = packages_distributions()
    needed = {distributions[module][0].lower() for module in imported() | set(PACKAGES)}
    assert needed == declared
    assert not imported() & set(PACKAGES)


def test_the_extras_are_parts_of_the_dependencies() -> None:
    """`pip install 'bdray[video]'`, as the sentences say it, installs what is missing."""
    extras = PROJECT["project"]["optional-dependencies"]
    for package in PACKAGES.values():
        lines = extras[package.extra]
        assert set(lines) <= set(PROJECT["project"]["dependencies"])
        assert package.distribution in {distribution(line) for line in lines}


def test_neither_the_import_nor_the_list_loads_a_modality() -> None:
    code = """
import sys, time
start = time.perf_counter()
import bdray
from bdray.report.catalogue import catalogue
catalogue()
print(time.perf_counter() - start, *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, *modules = done.stdout.split()
    assert not {*PACKAGES, "torchvision", "scipy", "ray"} & {module.partition(".")[0] for module in modules}
    assert float(seconds) < 10  # a second, where nothing else runs; see docs/speed.md


def test_a_missing_package_is_a_sentence_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, package in PACKAGES.items():
        monkeypatch.setitem(sys.modules, module, None)  # as Python says that there is none
        with pytest.raises(
            BadInput, match=rf"needs the package '{package.distribution}', .*pip install 'bdray\[{package.extra}\]'"
        ):
            need(module)


def test_what_a_package_itself_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libusb_package", None)
    with pytest.raises(BadInput, match=r"points of meshes needs the package 'libusb-package', .*bdray\[points\]"):
        need("open3d")


@pytest.mark.parametrize(
    ("library", "debian"),
    [("libGL.so.1", "libgl1"), ("libEGL.so.1", "libegl1"), ("libX11.so.6", "libx11-6"), ("libudev.so.1", "libudev1")],
)
def test_a_missing_library_of_the_system_is_named_by_its_debian_package(
    library: str, debian: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"{library}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(packages.importlib, "import_module", absent)
    monkeypatch.setattr(packages, "_load_libusb", lambda: None)
    with pytest.raises(BadInput, match=rf"{re.escape(library)}.*apt-get install {debian}$"):
        need("open3d")


def test_open3d_loads_without_a_libusb_of_the_system() -> None:
    assert need("open3d").__version__


def test_uv_is_told_where_pip_looks() -> None:
    listed = (
        ":env:.index-url='https://mirror.example/simple'\nglobal.extra-index-url='\\nhttps://one.example\\nhttps://two.example'\n"
        "global.index-url='https://other.example/simple'\nglobal.find-links='/one /two'\nglobal.require-virtualenv='true'\n"
    )
    assert runpy.run_path(str(ROOT / ".ci" / "install.py"))["variables"](listed) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://one.example https://two.example",
        "UV_FIND_LINKS": "/one,/two",
    }
