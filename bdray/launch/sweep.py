"""Sweep: what a file in `sweeps/` defines, and nothing that needs a store or a cluster."""

import string
from dataclasses import dataclass, replace
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from bdray.judge.validity import PLANTED
from bdray.launch.space import plain, scalar
from bdray.needs import Needs
from bdray.overrides import put
from bdray.proxies import Proxy
from bdray.report.objective import DEFAULT_PROXY, Objective
from bdray.spec import LARGEST, BadInput, Config, unknown
from bdray.task import Task
from bdray.wording import quoted, shown

SEARCHES = ("grid", "random", "optuna")
SCHEDULERS = ("asha",)
SAMPLES = 1_000_000
"""At the most."""
NEEDS = ("cpus", "gpus", "memory")
PLAIN = (
    *("samples", "cpus", "gpus", "memory", "search", "scheduler"),
    *("objective", "proxy", "budget", "class_budget", "planted", "judge", "front"),
)
"""Fields that a word of the command line sets as they are."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The space is an experiment's dict; a value is a plain one, a list or `tune.grid_search` (each member in turn), or a Tune
    domain such as `tune.loguniform`. Arrays, ranges, sets, generators and NumPy's numbers are taken for what they hold.

    `search="grid"` runs every grid member with `samples` draws of the domains: a fixed list of cells. Any other search draws
    `samples` settings of the defense, one after the other or from what it has seen, and judges each on the whole `panel`.
    """

    space: Config
    samples: int = 1
    """Draws of the random domains. Draw number j of a domain is the same in every grid member, so that one setting of a
    defense is tried on every attack and seed. In a search, the number of settings."""
    seed: int = 0
    """Of the draws; not of the experiments."""
    name: str = ""
    """Of the rows' folder; the file's name unless given."""
    cpus: float | None = None
    """Of one trial or one victim in training: torch gets as many threads. What the task says unless given, as the next two."""
    gpus: float | None = None
    """Of one trial; none where the cluster has none. A victim in training gets a whole one."""
    memory: float | None = None
    """Of one trial or one victim in training, GiB."""
    search: Any = "grid"
    """grid, random, optuna, or any Tune Searcher object."""
    scheduler: Any = None
    """None, asha, or a Tune scheduler object with time_attr="step": a step is one victim of the panel judged."""
    panel: Config | None = None
    """Grids over the victims that every setting is judged on, in this order: `{"attack": ["badnets", "blend"], "seed": [0]}`;
    a key is a path into the space."""
    objective: str = "defender"
    """defender (what a defender can measure on clean samples), training (what one can who has only the poisoned training set:
    for defenses that flag samples in it) or oracle (the true ASR)."""
    proxy: str = DEFAULT_PROXY
    """What stands for the ASR in the defender's objective."""
    budget: float = 0.05
    """Utility that a setting may cost, 0 to 1; `training` has none."""
    class_budget: float | None = None
    """What one class may lose, 0 to 1; see `Objective`, whose default it is for each kind."""
    planted: float = PLANTED
    """ASR before a defense, below which a victim of the panel has no backdoor to remove, and is left out."""
    judge: str = "mean"
    """Of the panel: mean or worst."""
    front: bool = False
    """Search utility and what is left of the backdoor as two objectives: with `training` the agreement with the labels that
    were kept, and with those that were flagged."""

    folder: str = ""
    """Of the file that defines it: what it imports from there is looked for there on the workers, too."""

    def __post_init__(self) -> None:
        for name, kind, least, most, words in (
            ("samples", int, 1, SAMPLES, f"a whole number, at least 1 and at most {SAMPLES:,}"),
            ("seed", int, 0, LARGEST, "a whole number, at least 0"),
            ("cpus", int | float, 0.01, 1e6, "a number, at least 0.01 and at most a million"),
            ("gpus", int | float, 0, 1e6, "a number, at least 0 and at most a million"),
            ("memory", int | float, 0, 1e6, "a number of GiB, at least 0 and at most a million"),
        ):
            value = scalar(getattr(self, name))
            object.__setattr__(self, name, value)
            if name in NEEDS and value is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:  # NaN is neither
                raise BadInput(f"the sweep's {name}: got {shown(value)}, expected {words}")
        for name in ("space", "panel"):
            value = plain(getattr(self, name), "")
            object.__setattr__(self, name, value)
            if not isinstance(value, dict) and (name == "space" or value is not None):
                raise BadInput(f"the sweep's {name}: got {shown(value)}, expected a dict, as in the README")
        if not isinstance(self.name, str) or not set(self.name) <= set(string.ascii_letters + string.digits + "_-"):
            raise BadInput(f"the sweep's name: got {shown(self.name)}, expected letters, digits, _ and -; it names a folder")
        if len(self.name) > 200:
            raise BadInput(f"the sweep's name: got {quoted(self.name)}, expected at most 200 letters; it names a folder")
        for name in ("budget", "class_budget", "planted", "front"):
            object.__setattr__(self, name, scalar(getattr(self, name)))
        if not isinstance(self.front, bool):
            raise BadInput(f"the sweep's front: got {shown(self.front)}, expected true or false")
        if isinstance(self.search, str) and self.search not in SEARCHES:
            raise BadInput(unknown("search", self.search, SEARCHES))
        if not isinstance(self.search, str | Searcher):
            raise BadInput(f"the sweep's search: got {shown(self.search)}, expected {', '.join(SEARCHES)} or a Tune Searcher")
        if isinstance(self.scheduler, str) and self.scheduler not in SCHEDULERS:
            raise BadInput(unknown("scheduler", self.scheduler, SCHEDULERS))
        if not isinstance(self.scheduler, str | TrialScheduler | None):
            raise BadInput(f"the sweep's scheduler: got {shown(self.scheduler)}, expected {', '.join(SCHEDULERS)} or Tune's")
        if self.proxy not in (known := Proxy.names()):
            raise BadInput(unknown("proxy", str(self.proxy), known))
        self.aim  # noqa: B018 - refuses a bad objective, judge or budget

    @property
    def aim(self) -> Objective:
        """What a search makes large."""
        return Objective(
            kind=self.objective,
            proxy=self.proxy,
            budget=self.budget,
            class_budget=self.class_budget,
            planted=self.planted,
            judge=self.judge,
            front=self.front,
        )

    def victim_needs(self, task: Task) -> Needs:
        """What the training of one of the task's victims takes."""
        return task.victim_needs._replace(**{name: value for name, value in self.given.items() if name != "gpus"})

    def cell_needs(self, task: Task) -> Needs:
        """What a trial on one of them takes."""
        return task.cell_needs._replace(**self.given)

    @property
    def given(self) -> dict[str, float]:
        """What it says itself of cpus, gpus and memory."""
        return {name: value for name in NEEDS if (value := getattr(self, name)) is not None}

    @property
    def proxies(self) -> tuple[str, ...]:
        """What every row must have measured."""
        return self.aim.proxies if self.searches else ()

    @property
    def searches(self) -> bool:
        """Whether settings are drawn one by one and judged on a panel."""
        return self.search != "grid"

    def with_override(self, path: str, value: Any) -> "Sweep":
        """The sweep with one value changed: a plain field such as `samples`, or a path into the space; a list is a grid."""
        if path in PLAIN:
            return replace(self, **{path: value})
        if self.panel is not None and path in self.panel:
            return replace(self, panel={**self.panel, path: value})
        return replace(self, space=put(self.space, path, value))
