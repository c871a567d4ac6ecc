"""Missing cells, on Ray Tune: a fraction of a GPU or a few CPUs each, in workers that stay, with their data loaded."""

from typing import Any

from ray import tune
from tqdm import tqdm

from bdray.experiment import Experiment, run, unfinished_row
from bdray.launch.work import Work
from bdray.spec import Config
from bdray.store import Store


def run_cells(cells: list[Experiment], errors: dict[str, str], work: Work, store: Store) -> int:
    """Run every cell and store its row; the number that failed. Cells whose victim has an error fail with that error."""
    for cell in cells:
        if cell.victim_key() in errors:
            reason = f"its victim could not be trained: {errors[cell.victim_key()]}"
            store.put_row(unfinished_row(cell, work.sweep, "failed", reason))
    failed = sum(cell.victim_key() in errors for cell in cells)
    # Cells of one data set stand together: a worker keeps the last two that it read.
    ready = sorted((c for c in cells if c.victim_key() not in errors), key=lambda c: (c.task.data.key(), c.victim_key()))
    if not ready:
        return failed
    resources: dict[str, float] = {"cpu": work.cpus, **({"gpu": work.gpus} if work.gpus else {})}
    with tqdm(total=len(cells), initial=failed, desc="cells", unit="cell", disable=None) as bar:
        tuner = tune.Tuner(
            tune.with_resources(_trial, resources),
            param_space={"cell": tune.grid_search([cell.config() for cell in ready]), "work": work},
            tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
            run_config=tune.RunConfig(name="cells", storage_path=work.records, verbose=0, callbacks=[_Progress(bar)]),
        )
        results = tuner.fit()
    statuses = [result.metrics.get("status", "failed") if result.metrics else "failed" for result in results]
    return failed + statuses.count("failed")


def _trial(config: dict[str, Any]) -> dict[str, str]:
    """One cell. The row is written here, by `run`; Tune only hears how it ended."""
    cell: Config = config["cell"]
    work: Work = config["work"]
    store, root = work.settle()
    try:
        return {"status": run(Experiment.of(cell), store, root, work.sweep, again=True).status}
    except Exception:  # the failed row holds the reason; the other cells go on
        return {"status": "failed"}


class _Progress(tune.Callback):
    """One step a finished cell."""

    def __init__(self, bar: Any) -> None:
        self.bar, self.failed = bar, 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.failed += trial.last_result.get("status") == "failed"
        self._step()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.failed += 1
        self._step()

    def _step(self) -> None:
        self.bar.update()
        if self.failed:
            self.bar.set_postfix(failed=self.failed)
