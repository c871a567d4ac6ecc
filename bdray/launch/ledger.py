"""plan() and launch(): which cells of a sweep are missing, their victims first, then the cells; the rows are the ledger."""

import contextlib
import dataclasses
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from bdray.experiment import Experiment, check_data, load, unfinished_row
from bdray.launch.expand import Sweep, expand
from bdray.launch.search import run_cells
from bdray.launch.victims import train_victims
from bdray.launch.work import Work
from bdray.results import of_record
from bdray.spec import BadInput, Incompatible
from bdray.store import Store


@dataclass
class Plan:
    """What a sweep still has to do."""

    sweep: Sweep
    done: list[str] = field(default_factory=list)
    """Keys with a row that says done or skipped."""
    failed: list[str] = field(default_factory=list)
    """Keys with a row that says failed; run once more only if asked to."""
    elsewhere: list[dict[str, Any]] = field(default_factory=list)
    """Finished rows of other sweeps for cells of this one: taken over, not run again."""
    missing: list[Experiment] = field(default_factory=list)
    skipped: list[tuple[Experiment, str]] = field(default_factory=list)
    """Pairs that make no sense, and why."""
    victims: dict[str, Experiment] = field(default_factory=dict)
    """Victims to train, by key."""

    def sentence(self) -> str:
        """One line for a person."""
        done = len(self.done) + len(self.elsewhere)
        failed = f"{len(self.failed)} failed, " if self.failed else ""
        return (
            f"{self.sweep.name}: {done + len(self.failed) + len(self.missing) + len(self.skipped)} cells, {done} done, {failed}"
            f"{len(self.skipped)} skipped, {len(self.missing)} missing, {len(self.victims)} victims to train"
        )


def plan(sweep: Sweep, store: Store, root: Path, retry_failed: bool = False) -> Plan:
    """Compare a sweep with the store. Raises BadInput, before anything is launched, for a cell that can never run."""
    found = Plan(sweep)
    # The sweep's own rows last, so that they win.
    rows = {row["key"]: row for part in (store.rows(), store.rows(sweep.name)) for row in part.to_pylist()}
    checked: set[tuple[Any, ...]] = set()
    trained: set[str] = set()
    for experiment in expand(sweep):
        row = rows.get(experiment.key())
        if row is not None and row["sweep"] == sweep.name and not (retry_failed and row["status"] == "failed"):
            (found.failed if row["status"] == "failed" else found.done).append(row["key"])
        elif row is not None and row["status"] != "failed":
            found.elsewhere.append(row)
        else:
            _add_missing(found, experiment, root, checked)
    for experiment in found.missing:
        key = experiment.victim_key()
        if key in trained or key in found.victims:
            continue
        if store.victim_about(key) is None:
            found.victims[key] = experiment
        trained.add(key)
    return found


def _add_missing(found: Plan, experiment: Experiment, root: Path, checked: set[tuple[Any, ...]]) -> None:
    """Check what can be checked without training; what concerns the data alone, once."""
    task, defense = experiment.task, experiment.defense
    once = (task, experiment.attack, defense.name, defense.clean, defense.shots)
    try:
        if once not in checked:
            check_data(experiment, root)
            checked.add(once)
        else:
            defense.check_model(task, load(task.data, root))
    except Incompatible as reason:
        found.skipped.append((experiment, str(reason)))
    else:
        found.missing.append(experiment)


def launch(found: Plan, store: Store, root: Path, address: str | None = None) -> int:
    """Do what a plan says is missing; the number of cells that failed now. The workers write the rows.

    Raises BadInput where this Ray can never give a cell what it asks for.
    """
    sweep = found.sweep
    for record in found.elsewhere:
        store.put_row(dataclasses.replace(of_record(record), sweep=sweep.name))
    for experiment, reason in found.skipped:
        store.put_row(unfinished_row(experiment, sweep.name, "skipped", reason))
    failed = 0
    if found.missing:
        with _records(store, sweep, address) as records, _connected(address) as resources:
            work = _work(sweep, store, root, records, resources)
            errors = train_victims(found.victims, work, resources) if found.victims else {}
            failed = run_cells(found.missing, errors, work, store)
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


@contextlib.contextmanager
def _records(store: Store, sweep: Sweep, address: str | None) -> Iterator[str]:
    """Where Ray keeps its own files of one launch (pickles among them), gone at the end however it ends: on this machine a
    temporary folder; on a cluster, whose machines must share it, a folder of the store."""
    if address or os.environ.get("RAY_ADDRESS"):
        folder = f"ray/{sweep.name}-{uuid.uuid4().hex[:8]}"
        try:
            yield f"{store.location()}/{folder}"
        finally:
            store.files.delete_folder(folder)
    else:
        with tempfile.TemporaryDirectory(prefix="bdray-", ignore_cleanup_errors=True) as temporary:
            yield temporary


def _work(sweep: Sweep, store: Store, root: Path, records: str, resources: dict[str, float]) -> Work:
    if sweep.cpus > resources.get("CPU", 0):
        raise BadInput(
            f"the sweep's cpus: got {sweep.cpus:g}, but this Ray has {resources.get('CPU', 0):g} CPUs, so no cell could ever "
            "start; lower Sweep(cpus=...)"
        )
    return Work(
        sweep=sweep.name,
        store=store.location(),
        root=str(root.absolute()),
        folder=os.getcwd(),
        records=records,
        cpus=sweep.cpus,
        gpus=sweep.gpus if resources.get("GPU") else 0.0,
    )
