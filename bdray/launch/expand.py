"""A sweep's space -> the fixed list of its experiments. The same sweep is always the same list, and a larger one is a
superset of a smaller one: more grid members, seeds or samples only add experiments."""

import itertools
import runpy
import string
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search.sample import Domain

from bdray.experiment import Experiment
from bdray.overrides import put
from bdray.seeds import seed_of
from bdray.spec import BadInput, Config


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a file in `sweeps/` defines. The space is an experiment's dict; a value is a plain one, a list or
    `tune.grid_search` (each member in turn), or a Tune domain such as `tune.loguniform` (drawn `samples` times)."""

    space: Config
    samples: int = 1
    """Draws of the random domains. Draw number j of a domain is the same in every grid member, so that one setting of a
    defense is tried on every attack and seed."""
    seed: int = 0
    """Of the draws; not of the experiments."""
    name: str = ""
    """Of the rows' folder; the file's name unless given."""
    cpus: float = 1
    """Of one trial or one victim in training: torch gets as many threads."""
    gpus: float = 0.25
    """Of one trial, where the cluster has a GPU; a victim in training gets a whole one."""

    def __post_init__(self) -> None:
        for name, kind, least, words in (
            ("samples", int, 1, "a whole number, at least 1"),
            ("seed", int, 0, "a whole number, at least 0"),
            ("cpus", int | float, 0.01, "a number, at least 0.01"),
            ("gpus", int | float, 0, "a number, at least 0"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or value < least:
                raise BadInput(f"the sweep's {name}: got {value!r}, expected {words}")
        if not isinstance(self.space, dict):
            raise BadInput(f"the sweep's space: got {self.space!r}, expected an experiment's dict")
        if not isinstance(self.name, str) or not set(self.name) <= set(string.ascii_letters + string.digits + "_-"):
            raise BadInput(f"the sweep's name: got {self.name!r}, expected letters, digits, _ and -; it names a folder")

    def with_override(self, path: str, value: Any) -> "Sweep":
        """The sweep with one value changed: `samples`, or a path into the space; a list is a grid."""
        if path == "samples":
            return replace(self, samples=value)
        return replace(self, space=put(self.space, path, value))


def expand(sweep: Sweep) -> list[Experiment]:
    """Every experiment of a sweep once, in the order of its space. Raises BadInput for the first that cannot be built."""
    found: dict[str, Experiment] = {}
    for tree in _grids(sweep.space):
        for draw in range(sweep.samples if _has_domain(tree) else 1):
            experiment = Experiment.of(_draw(tree, sweep.seed, draw, ""))
            found.setdefault(experiment.key(), experiment)
    if not found:
        raise BadInput(f"the sweep {sweep.name!r} has no cells: one of its grids is empty; give each at least one member")
    return list(found.values())


def _grids(node: Any) -> Iterator[Any]:
    """The node once for every combination of its grid members, random domains left in place."""
    if isinstance(node, dict) and set(node) == {"grid_search"}:
        node = node["grid_search"]
    if isinstance(node, list | tuple):
        for member in node:
            yield from _grids(member)
    elif isinstance(node, dict):
        parts = [list(_grids(value)) for value in node.values()]
        for combination in itertools.product(*parts):
            yield dict(zip(node, combination, strict=True))
    else:
        yield node


def _has_domain(node: Any) -> bool:
    return any(_has_domain(v) for v in node.values()) if isinstance(node, dict) else isinstance(node, Domain)


def _draw(node: Any, seed: int, draw: int, path: str) -> Any:
    """Each domain drawn from a seed hashed from the sweep's seed, the draw's number and the domain's path by names."""
    if isinstance(node, dict):
        here = f"{path}={node['name']}" if isinstance(node.get("name"), str) else path
        return {key: _draw(value, seed, draw, f"{here}.{key}") for key, value in node.items()}
    if isinstance(node, Domain):
        value = node.sample(random_state=np.random.default_rng(seed_of(seed, draw, path)))
        return value.item() if isinstance(value, np.generic) else value
    return node


def read_sweep(path: str) -> Sweep:
    """The sweep that a Python file defines. Raises BadInput where it is not there, does not run, or defines none."""
    file = Path(path)
    if not file.is_file():
        near = sorted(p.as_posix() for p in Path("sweeps").glob("*.py") if p.name != "__init__.py")
        raise BadInput(f"no sweep file {path!r}; " + (f"there is {', '.join(near)}" if near else "give the path of one"))
    try:
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
    return sweeps[0] if sweeps[0].name else replace(sweeps[0], name=file.stem)


def _line_in(error: BaseException, file: Path) -> str:
    trace = error.__traceback__
    line = ""
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == file.name:
            line = f" line {trace.tb_lineno}"
        trace = trace.tb_next
    return line
