"""A sweep's space -> the fixed list of its cells. The same sweep is always the same list, and a larger one is a superset of a
smaller one: more grid members, seeds or samples only add cells."""

import contextlib
import hashlib
import itertools
import json
import os
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from bdray.experiment import Experiment
from bdray.launch.space import check_domains, count, draw, grids, has_domain
from bdray.launch.sweep import Sweep
from bdray.spec import BadInput, Config, Spec, at_home
from bdray.task import Task
from bdray.wording import quoted, shown

PARTS = tuple(sorted(Experiment.model_fields))
"""Of an experiment, in the order in which they are hashed."""
_DEFENSE = PARTS.index("defense")
MOST = 10_000_000
"""Cells of a sweep: more do not fit into memory."""


class Cell:
    """One experiment of a sweep: light enough for a million of them, since cells share their parts."""

    __slots__ = ("key", "parts", "victim")

    def __init__(self, parts: tuple[Any, ...], key: str, victim: str) -> None:
        self.parts, self.key, self.victim = parts, key, victim

    @property
    def experiment(self) -> Experiment:
        """The whole of it."""
        return Experiment.model_construct(**dict(zip(PARTS, self.parts, strict=True)))


class Cells:
    """Makes cells: each part of an experiment is built and checked once, however many cells share it."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._kept: list[Any] = []
        self._victims: dict[tuple[int, ...], str] = {}
        self._default = Experiment().task
        self._usual: dict[type[Task], dict[str, Any]] = {}

    def part(self, name: str, config: Any, task: Task | None = None) -> Any:
        """One part of an experiment of this task, or of the default one; a name that no experiment has is refused by it."""
        return self._remember(name, getattr(Experiment.of({**self.usual(task), name: config}), name))

    def usual(self, task: Task | None) -> dict[str, Any]:
        """The parts of an experiment that says nothing but its task."""
        task = task or self._default
        if type(task) not in self._usual:
            usual = Experiment(task=task)
            self._usual[type(task)] = {name: self._remember(name, getattr(usual, name)) for name in PARTS}
        return self._usual[type(task)]

    def of(self, config: Config) -> Cell:
        """The cell of an experiment's dict."""
        task = self.part("task", config["task"]) if "task" in config else None
        return self.cell({name: task if name == "task" else self.part(name, node, task) for name, node in config.items()})

    def cell(self, parts: dict[str, Any]) -> Cell:
        """The cell with these parts, made by `part`; what is not given is what its task is used to."""
        values = tuple({**self.usual(parts.get("task")), **parts}.values())
        shared = tuple(map(id, values[:_DEFENSE] + values[_DEFENSE + 1 :]))
        if shared not in self._victims:
            self._victims[shared] = _hash([self._texts[at] for at in shared])
        return Cell(values, _hash([self._texts[id(value)] for value in values]), self._victims[shared])

    def _remember(self, name: str, value: Any) -> Any:
        if id(value) not in self._texts:
            plain = value.identity() if isinstance(value, Spec) else value
            text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
            self._texts[id(value)] = f'"{name}":{text}'
            self._kept.append(value)  # so that its id stays its own
        return value


def _hash(texts: list[str]) -> str:
    """As `key_of`, from the canonical JSON of the parts."""
    return hashlib.sha256(f"{{{','.join(texts)}}}".encode()).hexdigest()[:16]


class _Variant:
    """One member of a grid of a sweep, drawn so many times; its parts are built once for each kind of task."""

    def __init__(self, name: str, draws: list[Any], make: Cells) -> None:
        self.name, self.draws, self._make = name, draws, make
        self._parts: dict[tuple[int, type[Task] | None], Any] = {}

    def part(self, number: int, task: Task | None = None) -> Any:
        """Of draw `number`, beginning again after the last one, in an experiment of this task."""
        number %= len(self.draws)
        kind = None if task is None or self.name == "task" else type(task)
        if (number, kind) not in self._parts:
            self._parts[number, kind] = self._make.part(self.name, self.draws[number], task if kind else None)
        return self._parts[number, kind]


def expand(sweep: Sweep) -> list[Cell]:
    """Every cell of a sweep once, in the order of its space. Raises BadInput for the first that cannot be built."""
    make = Cells()
    variants = []
    size = sweep.samples if has_domain(sweep.space) else 1
    for name, node in sweep.space.items():
        size *= count(node)
        check_domains(node, f".{name}")
    if size > MOST:
        raise BadInput(
            f"the sweep {sweep.name!r} has {shown(size)} cells, expected at most {MOST:,}; make its grids or samples smaller"
        )
    for name, node in sweep.space.items():
        found = []
        for tree in grids(node):
            draws = range(sweep.samples) if has_domain(tree) else range(1)
            found.append(_Variant(name, [draw(tree, sweep.seed, number, f".{name}") for number in draws], make))
        variants.append(found)
    cells: dict[str, Cell] = {}
    for chosen in itertools.product(*variants):
        tasks = [variant for variant in chosen if variant.name == "task"]
        for number in range(max((len(variant.draws) for variant in chosen), default=1)):
            task = tasks[0].part(number) if tasks else None
            cell = make.cell({variant.name: variant.part(number, task) for variant in chosen})
            cells.setdefault(cell.key, cell)
    if not cells:
        raise BadInput(f"the sweep {sweep.name!r} has no cells: one of its grids is empty; give each at least one member")
    return list(cells.values())


def read_sweep(path: str) -> Sweep:
    """The sweep that a Python file defines, which may import what is beside it, as one that Python runs may. Raises BadInput
    where it is not there, does not run, or defines none."""
    file = Path(at_home(path))
    if not file.is_file():
        near = sorted(p.as_posix() for p in Path("sweeps").glob("*.py") if p.name != "__init__.py")
        raise BadInput(f"no sweep file {quoted(path)}; " + (f"there is {', '.join(near)}" if near else "give the path of one"))
    folder = str(file.resolve().parent)
    try:
        with _beside(folder):
            values = runpy.run_path(str(file))
    except SyntaxError as error:
        raise BadInput(f"{path} line {error.lineno} does not parse: {error.msg}; mend that line") from None
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        line = _line_in(error, file)
        raise BadInput(f"{path}{line} raised {type(error).__name__}: {error}; mend it") from None
    sweeps = [value for value in values.values() if isinstance(value, Sweep)]
    if len(sweeps) != 1:
        raise BadInput(f"{path} defines {len(sweeps) or 'no'} sweeps, expected one, as in `sweep = Sweep(space={{...}})`")
    return replace(sweeps[0], name=sweeps[0].name or file.stem, folder=folder)


@contextlib.contextmanager
def _beside(folder: str) -> Iterator[None]:
    """Modules are looked for in this folder first, and after this last of all. Those that were found there are forgotten: what
    is made of them reaches Ray's workers by value, whatever their machines have, and another sweep's are its own."""
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have changed it, too
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
        roots = {name.partition(".")[0] for name in sys.modules.keys() - before} - before
        own = {name for name in roots if name in sys.modules and _home(sys.modules[name]) == folder}
        for name in [name for name in sys.modules if name.partition(".")[0] in own]:
            del sys.modules[name]


def _home(module: ModuleType) -> str:
    """The folder that a module or a package stands in; empty where it stands in none."""
    path = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
    if hasattr(module, "__path__") and getattr(module, "__file__", None):
        path = os.path.dirname(path)
    return os.path.dirname(os.path.realpath(path)) if path else ""


def _line_in(error: BaseException, file: Path) -> str:
    trace = error.__traceback__
    line = ""
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == file.name:
            line = f" line {trace.tb_lineno}"
        trace = trace.tb_next
    return line
