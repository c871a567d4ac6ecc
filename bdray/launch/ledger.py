"""plan() and launch(): what of a sweep is missing, its victims first, then its cells or its search; the rows are the ledger."""

import contextlib
import dataclasses
import os
import random
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdray.bench import load, outline, read_anew
from bdray.defenses import Defense
from bdray.experiment import Experiment
from bdray.launch.cells import run_cells
from bdray.launch.connect import Resources, connected
from bdray.launch.digests import Digests
from bdray.launch.expand import Cell, Cells, expand
from bdray.launch.search import Past, past, run_search, undone
from bdray.launch.settings import cells_of, check_search, drawn, members
from bdray.launch.sweep import Sweep
from bdray.launch.victims import train_victims
from bdray.launch.watch.watch import Watch
from bdray.launch.work import SHOWN, Work
from bdray.needs import Needs
from bdray.proxies import Misfit, Proxy
from bdray.run import unfinished_row
from bdray.spec import BadInput, Incompatible
from bdray.store.claims import Claims
from bdray.store.row import measured, of_record
from bdray.store.store import Store
from bdray.task import Task

WAIT_SECONDS = 1.0
"""Between two looks at what another launch of the same sweep is doing."""


@dataclass
class Plan:
    """What a sweep still has to do."""

    sweep: Sweep
    done: list[str] = field(default_factory=list)
    """Keys with a row that says done or skipped."""
    failed: list[str] = field(default_factory=list)
    """Keys with a row that says failed; run once more only if asked to."""
    lost: list[str] = field(default_factory=list)
    """Of the missing: keys with a row that says lost."""
    elsewhere: list[str] = field(default_factory=list)
    """Keys of finished rows of other sweeps for cells of this one: taken over, not run again."""
    missing: list[Cell] = field(default_factory=list)
    again: set[str] = field(default_factory=set)
    """Of the missing: those whose row says failed."""
    skipped: list[tuple[Experiment, str]] = field(default_factory=list)
    """Pairs that make no sense, and why."""
    victims: dict[str, Experiment] = field(default_factory=dict)
    """Victims to train, by key."""
    past: Past = field(default_factory=Past)
    """Of a search."""
    ended: Counter[str] = field(default_factory=Counter)
    """How many cells (of a search: settings) a launch of this plan ended in which way."""

    @property
    def trials(self) -> int:
        """Of a search: settings still to be judged."""
        if self.sweep.search == "random":
            return len(undone(self.sweep, self.past))
        return max(0, self.sweep.samples - len(self.past.over)) if self.sweep.searches else 0

    @property
    def todo(self) -> bool:
        """Whether anything has to be run."""
        return bool(self.missing or self.trials)

    def sentence(self) -> str:
        """One line for a person."""
        victims = f"{len(self.victims)} victims to train"
        number = self.past.lost if self.sweep.searches else len(self.lost)
        lost = f" ({number} lost)" if number else ""
        if self.sweep.searches:
            states = [trial.state for trial in self.past.over]
            ended = "".join(f"{states.count(state)} {state}, " for state in ("finished", "stopped", "failed"))
            return (
                f"{self.sweep.name}: {self.sweep.samples} settings on a panel of {len(members(self.sweep))}, "
                f"{ended.replace('stopped', 'stopped early')}{self.trials} missing{lost}, {victims}"
            )
        done = len(self.done) + len(self.elsewhere)
        failed = f"{len(self.failed)} failed, " if self.failed else ""
        return (
            f"{self.sweep.name}: {done + len(self.failed) + len(self.missing) + len(self.skipped)} cells, {done} done, {failed}"
            f"{len(self.skipped)} skipped, {len(self.missing)} missing{lost}, {victims}"
        )


def plan(sweep: Sweep, store: Store, root: Path, retry_failed: bool = False) -> Plan:
    """Compare a sweep with the store. Raises BadInput, before anything is launched, for a cell that can never run, and where
    what is done was made from other data than `root` holds now."""
    read_anew()
    found = Plan(sweep)
    if sweep.searches:
        _plan_search(found, store, root, retry_failed)
    else:
        _plan_cells(found, store, root, retry_failed)
    return found


def _plan_cells(found: Plan, store: Store, root: Path, retry_failed: bool) -> None:
    mine, others, proxies, made_from = _statuses(found.sweep, store)
    checked, digests = _Checked(root), Digests(store, root)
    wanted = set(found.sweep.proxies)
    for cell in expand(found.sweep):
        status = mine.get(cell.key)
        digests.add(cell, f"the row {cell.key}", made_from.get(cell.key))
        wanting = status == "done" and not wanted <= measured(proxies.get(cell.key))
        again = status == "lost" or (retry_failed and status == "failed")
        if status is not None and not wanting and not again:
            (found.failed if status == "failed" else found.done).append(cell.key)
        elif status is None and others.get(cell.key) in ("done", "skipped"):
            found.elsewhere.append(cell.key)
        else:
            reason = checked.reason(cell)
            if reason:
                found.skipped.append((cell.experiment, reason))
                continue
            found.missing.append(cell)
            if status == "failed":
                found.again.add(cell.key)
            if status == "lost":
                found.lost.append(cell.key)
    _add_victims(found, found.missing, store)
    digests.check()


def _statuses(sweep: Sweep, store: Store) -> tuple[dict[str, str], ...]:
    """Statuses of this sweep's rows and of the others', what proxies this sweep's have, and the digests of the data that all
    were made from, by key."""
    mine: dict[str, str] = {}
    others: dict[str, str] = {}
    proxies: dict[str, str] = {}
    made_from: dict[str, str] = {}
    for part, into in ((store.index(), others), (store.index(sweep.name), mine)):
        into |= dict(zip(part["key"].to_pylist(), part["status"].to_pylist(), strict=True))
        proxies |= dict(zip(part["key"].to_pylist(), part["proxies"].to_pylist(), strict=True))
        made_from |= dict(zip(part["key"].to_pylist(), part["data_digest"].to_pylist(), strict=True))
    return mine, others, proxies, made_from


def _add_victims(found: Plan, cells: list[Cell], store: Store) -> None:
    looked: set[str] = set()
    for cell in cells:
        if cell.victim not in looked:
            looked.add(cell.victim)
            if store.victim_about(cell.victim) is None:
                found.victims[cell.victim] = cell.experiment


def _plan_search(found: Plan, store: Store, root: Path, retry_failed: bool) -> None:
    sweep = found.sweep
    check_search(sweep)
    found.past = past(sweep, store)
    if retry_failed:
        retried = [trial for trial in found.past.over if trial.state == "failed"]
        over = [t for t in found.past.over if t not in retried]
        found.past = Past(over, [t.setting for t in retried] + found.past.open, found.past.lost)
    if found.trials:
        checked = _Checked(root)
        cells = cells_of(sweep, drawn(sweep, 0))
        for cell in cells:
            if reason := checked.reason(cell) or checked.misfit(cell, sweep.proxies):
                raise BadInput(f"the panel of the sweep {sweep.name!r}: {reason}")
        _add_victims(found, cells, store)
    digests, make = Digests(store, root), Cells()
    *_, made_from = _statuses(sweep, store)
    for setting in [trial.setting for trial in found.past.over] + found.past.open:
        for cell in cells_of(sweep, setting, make):
            digests.add(cell, f"the row {cell.key}", made_from.get(cell.key))
    digests.check()


class _Checked:
    """What can be checked of cells without training, once for all that share their parts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed: set[tuple[Any, ...]] = set()
        self.reasons: dict[tuple[int, ...], str] = {}

    def reason(self, cell: Cell) -> str:
        """Why the pair makes no sense; empty if it does. Raises BadInput for a cell that can never run."""
        experiment = cell.experiment
        parts = (id(experiment.task), id(experiment.attack), id(experiment.training), id(experiment.defense))
        if parts not in self.reasons:
            self.reasons[parts] = self._reason(experiment)
        return self.reasons[parts]

    def _reason(self, experiment: Experiment) -> str:
        task, attack, defense = experiment.task, experiment.attack, experiment.defense
        plain = (type(defense).check, type(defense).fits) == (Defense.check, Defense.fits)  # of the amount of clean data alone
        own = (defense.name, defense.clean, defense.shots) if plain else defense.model_copy(update={"seed": 0})
        try:
            experiment.check()
            splits = load(task.data, self.root)
            self._once((task, attack), lambda: attack.check(splits))
            self._once((task, own), lambda: defense.check(task, outline(task, self.root), splits))
        except Incompatible as reason:
            return str(reason)
        return ""

    def misfit(self, cell: Cell, proxies: Iterable[str]) -> str:
        """Why a proxy cannot measure this cell; empty if each can."""
        task = cell.experiment.task
        try:
            for proxy in proxies:
                self._once((id(task), proxy), lambda p=proxy: Proxy.of(p).check(task, load(task.data, self.root)))  # type: ignore[misc]
        except Misfit as reason:
            return str(reason)
        return ""

    def _once(self, what: tuple[Any, ...], check: Callable[[], None]) -> None:
        if what not in self.passed:
            check()
            self.passed.add(what)


def launch(found: Plan, store: Store, root: Path, address: str | None = None) -> int:
    """Do what a plan says is missing; the number of cells (of a search: settings) that failed or were lost now: `found.ended`
    has them apart. The workers write the rows.

    What another launch is doing just now is left to it, and waited for. Raises BadInput where this Ray can never give a cell
    what it asks for, where its machines cannot do the work, and where the store takes no more.
    """
    sweep = found.sweep
    for key in found.elsewhere:
        record = store.row(key)
        if record is not None:
            store.put_row(dataclasses.replace(of_record(record), sweep=sweep.name))
    for experiment, reason in found.skipped:
        store.put_row(unfinished_row(experiment, sweep.name, "skipped", reason))
    if found.todo:
        claims = Claims(store.files, uuid.uuid4().hex)
        with (
            _records(store, sweep, address) as records,
            connected(address, store, root) as resources,
            claims.beating(),
            _watch(found) as watch,
        ):
            cells, victims = _granted(found, resources)
            work = Work(
                sweep=sweep.name,
                launch=claims.launch,
                store=store.location(),
                root=str(root.absolute()),
                folder=os.getcwd(),
                records=records,
                proxies=sweep.proxies,
                imports=(sweep.folder,) if sweep.folder else (),
            )
            found.ended = _Driver(found, store, root, work, resources, cells, victims, claims, watch).run()
    store.compact(sweep.name)
    return found.ended["failed"] + found.ended["lost"]


def _granted(found: Plan, resources: Resources) -> tuple[dict[Task, Needs], dict[Task, Needs]]:
    """What the cells and the victims of each task get; the trials of a search, each of which may have any of the panel's tasks,
    all get the most. Raises BadInput for what no machine can ever hold."""
    sweep, cells = found.sweep, found.missing
    if sweep.searches:
        cells = cells_of(sweep, drawn(sweep, 0))
    tasks = {cell.experiment.task: cell.experiment.task.name for cell in cells}
    trained = {experiment.task: experiment.task.name for experiment in found.victims.values()}
    given = sweep.given.keys()
    needs = {task: resources.granted(sweep.cell_needs(task), name, given) for task, name in tasks.items()}
    if len(needs) > 1 and sweep.searches:
        most = Needs(*map(max, zip(*needs.values(), strict=True)))
        needs = dict.fromkeys(needs, resources.granted(most, ", ".join(tasks.values()), given))
    return (
        needs,
        {task: resources.granted(sweep.victim_needs(task), name, given - {"gpus"}) for task, name in trained.items()},
    )


@dataclass
class _Driver:
    """One launch at work."""

    found: Plan
    store: Store
    root: Path
    work: Work
    resources: Resources
    cell_needs: dict[Task, Needs]
    victim_needs: dict[Task, Needs]
    claims: Claims
    watch: Watch

    def run(self) -> Counter[str]:
        """Victims, then cells, and again what another launch had and did not finish; how many ended in which way."""
        errors = self._victims(self.found.victims)
        slots = max(map(self.resources.slots, self.cell_needs.values()), default=1)
        if self.found.sweep.searches:
            if errors:
                key, (status, error) = next(iter(errors.items()))
                cure = "; the same command tries it again" if status == "lost" else ""
                raise BadInput(f"the panel's victim {key} {_untrained(status)}: {error}{cure}")
            needs = next(iter(self.cell_needs.values()))
            return run_search(self.found.sweep, self.found.past, self.work, self.store, needs, slots, self.watch)
        ended, left = Counter[str](), list(self.found.missing)
        while left:
            for cell in [cell for cell in left if cell.victim in errors]:
                status, error = errors[cell.victim]
                self._end(cell, status, f"its victim {_untrained(status)}: {error}")
                ended[status] += 1
            ready = [cell for cell in left if cell.victim not in errors]
            if not ready:
                break
            count, left = run_cells(
                ready, self.found.again, self.work, self.store, self.cell_needs.__getitem__, slots, self.watch
            )
            ended += count
            left = self._wait(left)
        return ended

    def _end(self, cell: Cell, status: str, reason: str) -> None:
        row = unfinished_row(cell.experiment, self.work.sweep, status, reason)
        self.store.put_row(row)
        self.watch.cell({name: getattr(row, name) for name in SHOWN})

    def _victims(self, victims: dict[str, Experiment]) -> dict[str, tuple[str, str]]:
        """Train them, and wait for those that another launch is training; the status and the reason of those that are not to
        be had, by key."""
        errors: dict[str, tuple[str, str]] = {}
        left = dict(victims)
        while left:
            errors |= train_victims(left, self.work, self.store, self.victim_needs.__getitem__, self.resources, self.watch)
            left = {k: e for k, e in left.items() if k not in errors and self.store.victim_about(k) is None}
            while left and self.claims.held("victim", left) >= left.keys():
                time.sleep(WAIT_SECONDS * (1 + random.random()))
                left = {k: e for k, e in left.items() if self.store.victim_about(k) is None}
        return errors

    def _wait(self, left: list[Cell]) -> list[Cell]:
        """Until another launch has finished, or lost, some of the cells that it has: those still to be run."""
        while left:
            held = self.claims.held("cell", [cell.key for cell in left])
            index = self.store.index(self.work.sweep)
            statuses = dict(zip(index["key"].to_pylist(), index["status"].to_pylist(), strict=True))
            statuses = {key: status for key, status in statuses.items() if status != "lost"}
            for cell in [cell for cell in left if cell.key in statuses and cell.key not in held]:
                self.watch.cell({"key": cell.key, "status": statuses[cell.key]})
                left.remove(cell)
            if any(cell.key not in held for cell in left):
                return left
            if left:
                time.sleep(WAIT_SECONDS * (1 + random.random()))
        return left


def _untrained(status: str) -> str:
    return "was lost" if status == "lost" else "could not be trained"


def _watch(found: Plan) -> Watch:
    sweep = found.sweep
    done = len(found.done) + len(found.elsewhere)
    total = 0 if sweep.searches else done + len(found.failed) + len(found.missing) + len(found.skipped)
    return Watch(
        sweep.name,
        total,
        done=done,
        failed=len(found.failed),
        skipped=len(found.skipped),
        victims=len(found.victims),
        epochs=sum(e.training.epochs for e in found.victims.values()),
        objective=sweep.objective if sweep.searches else "",
    )


@contextlib.contextmanager
def _records(store: Store, sweep: Sweep, address: str | None) -> Iterator[str]:
    """Where Ray keeps its own files of one launch (pickles among them), gone at the end however it ends: on this machine a
    temporary folder; on a cluster, whose machines must share it, a folder of the store."""
    if address or os.environ.get("RAY_ADDRESS"):
        folder = f"ray/{sweep.name}-{uuid.uuid4().hex[:8]}"
        try:
            yield store.location(folder)
        finally:
            store.files.delete_folder(folder)
    else:
        with tempfile.TemporaryDirectory(prefix="bdray-", ignore_cleanup_errors=True) as temporary:
            yield temporary
