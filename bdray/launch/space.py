"""What Python hands over as a sweep's space: plain values, grids of them, and Tune domains, drawn by path and number."""

import itertools
import json
import os
import random
import re
from collections.abc import Iterator, KeysView, Mapping, Set, ValuesView
from enum import Enum
from typing import Any

import numpy as np
from ray.tune.search.sample import Categorical, Domain, Function

from bdray.seeds import seed_of
from bdray.spec import BadInput
from bdray.wording import shortened, shown

MEMBERS = 1_000_000
"""Of one grid, at the most: what is longer has no end."""
DEEPEST = 50


def plain(node: Any, path: str, depth: int = DEEPEST) -> Any:
    """JSON values, lists (which are grids) and domains, from NumPy's and torch's scalars and arrays, ranges, sets (sorted),
    generators, enums and paths. What else there is stays for the experiment to refuse. Raises BadInput for a grid without an
    end, and for what is nested in itself."""
    if not depth:
        raise BadInput(f"{_at(path)}: got a value that is nested more than {DEEPEST} deep, perhaps in itself; give it plainly")
    if isinstance(node, Enum):
        node = node.value
    if isinstance(node, np.generic):
        node = node.item()
    if isinstance(node, os.PathLike):
        node = os.fspath(node)
    if isinstance(node, Mapping):
        if set(node) == {"grid_search"}:
            return {"grid_search": _grid(node["grid_search"], path, depth)}
        return {name: plain(value, f"{path}.{name}" if path else str(name), depth - 1) for name, value in node.items()}
    if isinstance(node, list | tuple | range | Set | Iterator | KeysView | ValuesView) or hasattr(node, "tolist"):
        return _members(node, path, depth)
    return node


def _grid(values: Any, path: str, depth: int) -> Any:
    found = plain(values, path, depth - 1)
    if not isinstance(found, list):
        raise BadInput(f"{path}: got a grid_search of {shown(values)}, expected a list, as in tune.grid_search([0, 1, 2])")
    return found


def _members(values: Any, path: str, depth: int) -> Any:
    if hasattr(values, "tolist"):
        values = values.tolist()
        if not isinstance(values, list):
            return values
    found = list(itertools.islice(values, MEMBERS + 1))
    if len(found) > MEMBERS:
        raise BadInput(f"{path}: got a grid of more than {MEMBERS:,} members, expected fewer; draw them, as by tune.randint")
    found = [plain(member, path, depth - 1) for member in found]
    if isinstance(values, Set) and not isinstance(values, KeysView):  # whose order is another in every process
        found.sort(key=lambda member: json.dumps(member, sort_keys=True, default=repr))
    return found


def scalar(value: Any) -> Any:
    """A NumPy scalar as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def grids(node: Any) -> Iterator[Any]:
    """The node once for every combination of its grid members, random domains left in place. A list among the members of a
    list is one value."""
    if isinstance(node, dict) and set(node) == {"grid_search"}:
        node = node["grid_search"]
    if isinstance(node, list | tuple):
        for member in node:
            yield from [member] if isinstance(member, list | tuple) else grids(member)
    elif isinstance(node, dict):
        parts = [list(grids(value)) for value in node.values()]
        for combination in itertools.product(*parts):
            yield dict(zip(node, combination, strict=True))
    else:
        yield node


def count(node: Any) -> int:
    """How many `grids` yields, without making them."""
    if isinstance(node, dict) and set(node) == {"grid_search"}:
        node = node["grid_search"]
    if isinstance(node, list | tuple):
        return sum(1 if isinstance(member, list | tuple) else count(member) for member in node)
    number = 1
    for value in node.values() if isinstance(node, dict) else ():
        number *= count(value)
    return number


def has_domain(node: Any) -> bool:
    """Whether something in it is drawn."""
    if isinstance(node, dict):
        return any(has_domain(value) for value in node.values())
    if isinstance(node, list | tuple):
        return any(has_domain(member) for member in node)
    return isinstance(node, Domain)


def has_grid(node: Any) -> bool:
    """Whether something in it has several members."""
    if isinstance(node, dict):
        return set(node) == {"grid_search"} or any(has_grid(value) for value in node.values())
    return isinstance(node, list | tuple)


def draw(node: Any, seed: int, number: int, path: str) -> Any:
    """Each domain drawn from a seed hashed from the sweep's seed, the draw's number and the domain's path by names; what it
    gives may hold domains again. Raises BadInput for one that cannot be sampled."""
    if isinstance(node, dict):
        here = f"{path}={node['name']}" if isinstance(node.get("name"), str) else path
        return {key: draw(value, seed, number, f"{here}.{key}") for key, value in node.items()}
    if isinstance(node, list | tuple) and has_domain(node):
        return [draw(member, seed, number, f"{path}[{at}]") for at, member in enumerate(node)]
    if not isinstance(node, Domain):
        return node
    value = plain(_sample(node, seed_of(seed, number, path), path), _at(path))
    _check_no_grid(value, path)
    # A domain among the members of a choice has a seed of its own; one in a group of fields among them has the path by names.
    return draw(value, seed, number, path if isinstance(value, dict) else f"{path}?") if has_domain(value) else value


def _check_no_grid(drawn: Any, path: str) -> None:
    if isinstance(drawn, dict) and "grid_search" in drawn:
        raise BadInput(
            f"{_at(path)}: got a grid in what is drawn, expected values; make a grid of the whole instead of a choice"
        )
    for member in drawn.values() if isinstance(drawn, dict) else drawn if isinstance(drawn, list) else ():
        _check_no_grid(member, path)


def _at(path: str) -> str:
    """A path by names as a person writes it: `.defense=nft.lr` is `defense.lr`."""
    return shortened(re.sub(r"=[^.]*|\?", "", path.lstrip(".")))


def _sample(domain: Domain, seed: int, path: str) -> Any:
    if isinstance(domain, Function):
        return _called(domain, seed, path)
    try:
        with np.errstate(all="ignore"):
            value = domain.sample(random_state=np.random.default_rng(seed))
    except Exception as error:  # of NumPy, of Tune, or of a sampler of somebody's own
        raise BadInput(
            f"{_at(path)}: got {_named(domain)}, which cannot be sampled ({str(error) or type(error).__name__}); give it "
            "bounds with something between them, the lower one first"
        ) from None
    return value


def _named(domain: Domain) -> str:
    """A domain in a few words."""
    bounds = [shown(getattr(domain, name)) for name in ("lower", "upper") if hasattr(domain, name)]
    return f"a domain from {' to '.join(bounds)}" if bounds else f"a domain of the kind {type(domain).__name__}"


class _Unread:
    """Stands for the rest of the experiment, which `sample_from` may not read: each part is drawn once, for all the grid
    members that share it."""

    def __init__(self, path: str) -> None:
        self.__dict__["path"] = path

    def _refuse(self, *_: Any) -> Any:
        raise BadInput(
            f"{_at(self.__dict__['path'])}: got a tune.sample_from that reads the rest of the experiment, which is not "
            "supported; make a grid of whole groups of fields, or one sweep for each"
        )

    __getattr__ = __getitem__ = __iter__ = __len__ = __contains__ = __bool__ = _refuse


def _called(domain: Function, seed: int, path: str) -> Any:
    """A function's value. The global generators are seeded for it, so that it is the same in every process; one that keeps a
    state of its own is told by a second call."""
    kept, kept_numpy = random.getstate(), np.random.get_state()
    given = (_Unread(path),) if domain.pass_config else ()
    try:
        values = []
        for _ in range(2):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            values.append(plain(domain.func(*given), _at(path)))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{_at(path)}: its tune.sample_from raised {type(error).__name__}: {error}; mend it") from None
    finally:
        random.setstate(kept)
        np.random.set_state(kept_numpy)
    if json.dumps(values[0], default=repr) != json.dumps(values[1], default=repr):
        raise BadInput(
            f"{_at(path)}: got a tune.sample_from that gives {shown(values[0])} and then {shown(values[1])}, expected one "
            "value a draw; take a domain such as tune.uniform, or the generators of the modules random and numpy.random, which "
            "are seeded"
        )
    return values[0]


def check_domains(node: Any, path: str) -> None:
    """Raise BadInput for a domain that can never be sampled, wherever it stands, whether or not a draw meets it."""
    if isinstance(node, dict):
        for name, value in node.items():
            check_domains(value, f"{path}.{name}")
    elif isinstance(node, list | tuple):
        for member in node:
            check_domains(member, path)
    elif isinstance(node, Categorical):
        if not node.categories:
            raise BadInput(f"{_at(path)}: got a tune.choice of nothing, expected at least one member")
        for member in node.categories:
            inner = plain(member, _at(path))
            _check_no_grid(inner, path)
            check_domains(inner, path)
    elif isinstance(node, Domain) and not isinstance(node, Function):
        value = scalar(_sample(node, 0, path))
        if isinstance(value, float) and not np.isfinite(value):
            raise BadInput(f"{_at(path)}: got {_named(node)}, which gives {value}; give it finite bounds")
