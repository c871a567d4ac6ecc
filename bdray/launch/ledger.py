"""plan() and launch(): which cells of a sweep are missing, their victims first, then the cells; the rows are the ledger."""

import contextlib
import dataclasses
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from bdray.experiment import Experiment, check_data, unfinished_row
from bdray.launch.expand import Sweep, expand
from bdray.launch.search import run_cells
from bdray.launch.victims import train_victims
from bdray.launch.work import Work
from bdray.results import of_record
from bdray.spec import Incompatible
from bdray.store import Store


@dataclass
class Plan:
    """What a sweep still has to do."""

    sweep: Sweep
    done: list[str] = field(default_factory=list)
    """Keys with a row."""
    elsewhere: list[dict[str, Any]] = field(default_factory=list)
    """Rows of other sweeps for cells of this one: taken over, not run again."""
    missing: list[Experiment] = field(default_factory=list)
    skipped: list[tuple[Experiment, str]] = field(default_factory=list)
    """Pairs that make no sense, and why."""
    victims: dict[str, Experiment] = field(default_factory=dict)
    """Victims to train, by key."""

    def sentence(self) -> str:
        """One line for a person."""
        total = len(self.done) + len(self.elsewhere) + len(self.missing) + len(self.skipped)
        return (
            f"{self.sweep.name}: {total} cells, {len(self.done) + len(self.elsewhere)} done, {len(self.skipped)} skipped, "
            f"{len(self.missing)} missing, {len(self.victims)} victims to train"
        )


def plan(sweep: Sweep, store: Store, root: Path, retry_failed: bool = False) -> Plan:
    """Compare a sweep with the store. Raises BadInput, before anything is launched, for a cell that can never run."""
    found = Plan(sweep)
    rows = {row["key"]: row for row in store.rows().to_pylist()}
    checked: set[tuple[Any, ...]] = set()
    for experiment in expand(sweep):
        row = rows.get(experiment.key())
        if row is not None and not (retry_failed and row["status"] == "failed"):
            if row["sweep"] == sweep.name:
                found.done.append(row["key"])
            else:
                found.elsewhere.append(row)
            continue
        try:
            experiment.check()
        except Incompatible as reason:
            found.skipped.append((experiment, str(reason)))
            continue
        defense = experiment.defense
        once = (experiment.task.data, experiment.attack, "clean" in defense.needs, defense.clean, defense.shots)
        if once not in checked:
            check_data(experiment, root)
            checked.add(once)
        found.missing.append(experiment)
        key = experiment.victim_key()
        if key not in found.victims and store.victim_about(key) is None:
            found.victims[key] = experiment
    return found


def launch(found: Plan, store: Store, root: Path, address: str | None = None) -> int:
    """Do what a plan says is missing; the number of cells that failed. The workers write the rows."""
    sweep = found.sweep
    for record in found.elsewhere:
        store.put_row(dataclasses.replace(of_record(record), sweep=sweep.name))
    for experiment, reason in found.skipped:
        store.put_row(unfinished_row(experiment, sweep.name, "skipped", reason))
    failed = 0
    if found.missing:
        with _connected(address) as resources:
            work = _work(sweep, store, root, resources)
            errors = train_victims(found.victims, work, resources) if found.victims else {}
            failed = run_cells(found.missing, errors, work, store)
        if "://" not in work.records:
            shutil.rmtree(work.records, ignore_errors=True)
    store.compact(sweep.name)
    return failed


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[dict[str, float]]:
    """Ray on this machine, or the cluster at an address; what it has to give."""
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield ray.cluster_resources()
    finally:
        if ours:
            ray.shutdown()


def _work(sweep: Sweep, store: Store, root: Path, resources: dict[str, float]) -> Work:
    uri = store.location()
    return Work(
        sweep=sweep.name,
        store=uri,
        root=str(root.absolute()),
        folder=os.getcwd(),
        records=f"{uri}/ray/{sweep.name}-{uuid.uuid4().hex[:8]}",
        cpus=sweep.cpus,
        gpus=sweep.gpus if resources.get("GPU") else 0.0,
    )
