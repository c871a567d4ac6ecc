"""Settings: what a search draws, and the cells of the panel that each is judged on."""

import itertools
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search.sample import Domain, Function

from bdray.launch.expand import Cell, Cells
from bdray.launch.space import check_domains, draw, has_domain, has_grid
from bdray.launch.sweep import Sweep
from bdray.overrides import put
from bdray.proxies import Proxy
from bdray.spec import BadInput, Config, key_of

Setting = dict[str, Any]
"""Values by path: {"defense.lr": 0.05}."""


def check_search(sweep: Sweep) -> None:
    """Raise BadInput, before anything is launched, for a search that makes no sense."""
    found = domains(sweep)
    if not found:
        raise BadInput(
            f"the sweep {sweep.name!r} searches, but its space draws nothing; give a field of the defense a domain such as "
            "tune.loguniform(0.01, 1.0), or leave `search` out"
        )
    for path, domain in found.items():
        check_domains(domain, f".{path}")
        if sweep.search != "random" and (isinstance(domain, Function) or has_domain(getattr(domain, "categories", []))):
            kind = "tune.sample_from" if isinstance(domain, Function) else "domains among the members of tune.choice"
            raise BadInput(
                f"the sweep {sweep.name!r} searches {path}, which draws by {kind}, and its searcher cannot learn from that; "
                'take a plain domain, or search="random"'
            )
    if "defense" in found:
        raise BadInput(
            f"the sweep {sweep.name!r} searches which defense there is, and a search draws fields of one; name the defense, or "
            'make a grid of them with search="grid"'
        )
    stray = [path for path in found if not path.startswith("defense.")]
    if stray:
        raise BadInput(
            f"the sweep {sweep.name!r} searches {stray[0]}, which changes the victim; a search draws fields of the defense, "
            "and what its victims are stands in the panel"
        )
    if has_grid(sweep.space):
        raise BadInput(
            f"the sweep {sweep.name!r} searches, but its space has a list or a grid; use tune.choice for what is to be "
            "searched and the panel for the victims"
        )
    if has_domain(sweep.panel or {}):
        raise BadInput(f"the panel of the sweep {sweep.name!r} draws something; give the victims themselves")
    size = len(members(sweep))
    if not size:
        raise BadInput(
            f"the panel of the sweep {sweep.name!r} is empty; a setting is judged on victims: give it at least one, as in "
            'panel={"attack": ["badnets", "blend"]}'
        )
    if sweep.scheduler is not None:
        _check_scheduler(sweep, size)
    if sweep.objective == "defender":
        Proxy.of(sweep.proxy)
    if sweep.objective == "training":
        _check_flags(sweep)


def _check_flags(sweep: Sweep) -> None:
    """The objective is what was kept and flagged."""
    for cell in cells_of(sweep, drawn(sweep, 0)):
        defense = cell.experiment.defense
        if not defense.flags:
            raise BadInput(
                f"the sweep {sweep.name!r} has the objective 'training', and the defense {defense.name!r} takes no training "
                "sample for poison, so that there is nothing that it kept or flagged; choose the objective 'defender', or a "
                "defense that filters"
            )


def _check_scheduler(sweep: Sweep, size: int) -> None:
    if size == 1:
        raise BadInput(
            f"the sweep {sweep.name!r} has a scheduler and a panel of one victim, whose objective is only known at the end, so "
            "that nothing can be stopped early; give the panel more victims, or leave the scheduler out"
        )
    if sweep.front:
        raise BadInput(
            f"the sweep {sweep.name!r} has a scheduler and two objectives, and a scheduler compares by one; leave the "
            "scheduler out, or front=True"
        )
    if isinstance(sweep.scheduler, TrialScheduler):
        attribute = getattr(sweep.scheduler, "_time_attr", "step")
        if attribute != "step":
            raise BadInput(
                f"the sweep's scheduler counts in {attribute!r}, which starts again when a trial does; make it with "
                'time_attr="step"'
            )


def domains(sweep: Sweep) -> dict[str, Domain]:
    """What is searched, by path, in the order of the space."""
    found: dict[str, Domain] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                walk(value, f"{path}.{name}" if path else name)
        elif isinstance(node, Domain):
            found[path] = node

    walk(sweep.space, "")
    return found


def members(sweep: Sweep) -> list[Setting]:
    """The panel's victims, as values by path."""
    grids = {}
    for path, values in (sweep.panel or {}).items():
        if isinstance(values, dict) and set(values) == {"grid_search"}:
            values = values["grid_search"]
        grids[path] = list(values) if isinstance(values, list | tuple) else [values]
    if not grids:
        return []
    return [dict(zip(grids, combination, strict=True)) for combination in itertools.product(*grids.values())]


def config_of(sweep: Sweep, *values: Setting) -> Config:
    """The space with these values set."""
    config = sweep.space
    for setting in values:
        for path, value in setting.items():
            config = put(config, path, value)
    return config


def cells_of(sweep: Sweep, setting: Setting, make: Cells | None = None) -> list[Cell]:
    """The cells that a setting is judged on, in the panel's order. Raises BadInput for a setting that cannot be built."""
    make = make or Cells()
    found = []
    for member in members(sweep):
        config = config_of(sweep, setting, member)
        found.append(make.of(config))
    return found


def setting_key(cells: list[Cell]) -> str:
    """The same for the same setting on the same panel."""
    return key_of({"cells": [cell.key for cell in cells]})


def drawn(sweep: Sweep, number: int) -> Setting:
    """Setting number j of a random search: always the same, however many there are."""
    return {path: draw(domain, sweep.seed, number, f".{path}") for path, domain in domains(sweep).items()}
