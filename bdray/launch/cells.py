"""A fixed list of cells, on Ray Tune: a fraction of a GPU or a few CPUs each, in workers that stay, with their data loaded."""

import contextlib
import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune

from bdray.launch.connect import bundle
from bdray.launch.ends import LIVES, End, judged
from bdray.launch.expand import Cell
from bdray.launch.watch.watch import Watch
from bdray.launch.work import AWAY, REFUSED, SHOWN, Work, run_cell
from bdray.needs import Needs
from bdray.run import unfinished_row
from bdray.signals import handlers, put_back
from bdray.spec import BadInput, Config
from bdray.store.store import Store
from bdray.task import Task

WAIT = "wait"
"""In a trial's parameters: seconds before its start, after its worker died."""
AT_ONCE = 500
"""Cells in one call of Tune, whose memory and snapshots grow with them; the rows are compacted in between."""


def run_cells(
    cells: list[Cell], again: set[str], work: Work, store: Store, needs: Callable[[Task], Needs], slots: int, watch: Watch
) -> tuple[Counter[str], list[Cell]]:
    """Run every cell and store its row; how many ended with which status, and which ones are still to be run: another launch
    is running them just now, or the last that happened to them was the loss of a machine. The keys in `again` are run although
    their row says failed. Ray is asked for what a cell `needs`, by its task.

    Raises BadInput where the store takes no more rows.
    """
    # Cells of one data set stand together: a worker keeps the last two that it read.
    cells = sorted(cells, key=lambda cell: (cell.experiment.task.data.key(), cell.victim))
    ended, left = Counter[str](), []

    def told(cell: Cell) -> tuple[Config, bool, Needs]:
        return cell.experiment.config(), cell.key in again, needs(cell.experiment.task)

    size = max(AT_ONCE, 20 * slots)
    for start in range(0, len(cells), size):
        part = cells[start : start + size]
        listener = _Listener(watch)
        results = fit(
            _trial,
            listener,
            work,
            {"cell": tune.grid_search([(at, *told(cell)) for at, cell in enumerate(part)])},
            work,
            lambda config: Needs(*config["cell"][-1]),
        )
        for result in results:
            cell = part[result.config["cell"][0]]
            status = (result.metrics or {}).get("status")
            if status is None:
                end = listener.ends.get(Path(result.path or "").name) or judged(result.error)
                status = AWAY if end.kind == "machine" else end.status
                if status != AWAY:
                    row = unfinished_row(cell.experiment, work.sweep, status, said(end))
                    store.put_row(row)
                    watch.cell({name: getattr(row, name) for name in SHOWN})
            if status == AWAY:
                left.append(cell)
            ended[status] += 1
        if start + size < len(cells):
            store.compact(work.sweep)
    return ended, left


def end_of_trial(trial: Any) -> End:
    """Of its last error, which Tune keeps in a file of this machine before it is anywhere else."""
    error = None
    with contextlib.suppress(Exception):  # whatever cannot be read says nothing
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return judged(error)


def said(end: End) -> str:
    """Why a trial that had `LIVES` lives has no row."""
    return end.reason if end.kind == "raised" else f"its worker died {LIVES} times: {end.reason}"


def _trial(config: dict[str, Any], told: Work) -> dict[str, Any]:
    """One cell. The row is written here, by `run`; Tune only hears how it ended."""
    _, cell, again, needs = config["cell"]
    time.sleep(config.get(WAIT, 0.0))
    row = run_cell(cell, dataclasses.replace(told, cpus=Needs(*needs).cpus), again)
    return {name: row[name] for name in SHOWN if row.get(name) is not None}


class Listener(tune.Callback):
    """Hears of every trial; everything stops once it says that it was refused something."""

    refused = ""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.deaths: Counter[str] = Counter()
        self.ends: dict[str, End] = {}
        """How trials ended that Tune has given up, by their ids, which name their folders, too."""
        self.handlers, self.ready = handlers(), False
        """Of signals, before Tune takes SIGUSR1; whether Tune has made ready and not begun yet."""

    def setup(self, **info: Any) -> None:
        """Tune has taken SIGUSR1, at which it would give up its trials, and return as if they were over."""
        put_back(self.handlers)
        self.ready = True

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.ready = False

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune has counted a failure, and will start the trial again: the loss of a machine does not count, and after anything
        else the trial waits, longer each time."""
        self.deaths[trial.trial_id] += end_of_trial(trial).kind != "machine"
        deaths = self.deaths[trial.trial_id]
        trial.max_failures = trial.num_failures - deaths + LIVES - 1
        trial.config = {**trial.config, WAIT: 2.0 ** (deaths - 1) if deaths else 0.0}

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune has given it up."""
        self.ends[trial.trial_id] = end_of_trial(trial)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.show(trials)

    def show(self, trials: list[Any]) -> None:
        """How many are in work now."""
        self.watch.running(sum(trial.status == "RUNNING" for trial in trials))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles it for a resumption that is never asked for: the rows are the ledger."""
        return {}


class _Listener(Listener):
    """Tells the watch."""

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if result.get("status") == REFUSED:
            self.refused = self.refused or str(result["error"])
        elif result.get("status") not in (None, AWAY):
            self.watch.cell({name: result.get(name) for name in SHOWN})
        self.show(trials)


def fit(
    trainable: Callable[..., Any],
    listener: Listener,
    work: Work,
    param_space: dict[str, Any],
    told: Any,
    needs: Callable[[dict[str, Any]], Needs],
    **config: Any,
) -> tune.ResultGrid:
    """Tune over this trainable, in workers that stay and are `told` this beside their trial's parameters, which Tune writes
    down and shows, and by which a trial `needs` so much. Raises BadInput once the listener was refused something."""
    stopper = _Stopper(listener)

    def asked(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([bundle(needs(config))])

    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, told=told), asked),
        param_space=param_space,
        tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id, **config),
        run_config=tune.RunConfig(
            name=f"cells-{id(listener):x}",
            **work.storage(),
            verbose=0,
            callbacks=[listener],
            stop=stopper,
            failure_config=tune.FailureConfig(max_failures=LIVES - 1),
        ),
    )
    results = tuner.fit()
    if listener.ready:  # the signal came while it was Tune's, which did not begin
        signal.raise_signal(signal.SIGUSR1)
    if listener.refused:
        raise BadInput(listener.refused)
    return results


class _Stopper(tune.Stopper):
    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self.listener.refused)
