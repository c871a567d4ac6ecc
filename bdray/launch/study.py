"""Optuna as a Tune searcher, by Optuna's public calls alone, and a copy of its study that optuna-dashboard opens:

optuna-dashboard STORE/searches/SWEEP/optuna.journal
"""

import contextlib
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
"""How a trial of ours ended, in Optuna's words."""


class Study(Searcher):
    """Settings from a sampler. Tune's own OptunaSearch takes no trial with two objectives that it did not suggest."""

    def __init__(
        self, sampler: BaseSampler, metric: str | list[str], mode: str | list[str], journal: Path | None = None
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.metrics = [metric] if isinstance(metric, str) else metric
        modes = [mode] if isinstance(mode, str) else mode
        directions = [{"max": "maximize", "min": "minimize"}[mode] for mode in modes]
        # A pruner would stop trials by a rule of its own: schedulers are Tune's.
        self.study = optuna.create_study(sampler=sampler, pruner=optuna.pruners.NopPruner(), directions=directions)
        self.asked: dict[str, Trial] = {}
        self.copy = _Copy(journal, self.study)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        self.space = OptunaSearch.convert_search_space(config)
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        self.asked[trial_id] = self.study.ask(self.space)
        return self.asked[trial_id].params

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if len(self.metrics) == 1:  # with several objectives Optuna takes no value on the way
            self.asked[trial_id].report(result[self.metrics[0]], result["training_iteration"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Finished with a result, failed with an error, stopped with neither."""
        state = TrialState.FAIL if error else TrialState.COMPLETE if result else TrialState.PRUNED
        values = [result[name] for name in self.metrics] if result and not error else None
        self.copy.add(self.study.tell(self.asked.pop(trial_id), values, state))

    def add(self, setting: dict[str, Any], values: dict[str, Any], state: str) -> None:
        """Tell of a trial that was not suggested here: its state is one of `STATES`, its values those of a report. Raises
        ValueError for a setting outside of the space."""
        told = [values.get(name) for name in self.metrics]
        seen = {int(values["step"]): told[0]} if state == "stopped" and len(told) == 1 else {}
        result = {"values": told} if state == "finished" else {}
        trial = create_trial(state=STATES[state], params=setting, distributions=self.space, intermediate_values=seen, **result)
        self.study.add_trial(trial)
        self.copy.add(trial)

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshots are not used: the store's trials are the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _Copy:
    """The finished trials in a file that is made anew by each launch. Nothing is read from the file, and what a disk refuses
    it does not stop the search."""

    def __init__(self, journal: Path | None, study: optuna.Study) -> None:
        self.study: optuna.Study | None = None
        if journal is not None:
            with contextlib.suppress(OSError):
                journal.parent.mkdir(parents=True, exist_ok=True)
                journal.unlink(missing_ok=True)
                # Optuna's usual lock is a link, and no store has one.
                storage = JournalStorage(JournalFileBackend(str(journal), JournalFileOpenLock(str(journal))))
                self.study = optuna.create_study(
                    storage=storage, study_name=journal.parent.name, directions=study.directions, sampler=study.sampler
                )

    def add(self, trial: FrozenTrial) -> None:
        if self.study is not None:
            try:
                self.study.add_trial(trial)
            except Exception:  # a full disk, or another launch that made the file anew: Optuna raises whatever it meets
                self.study = None
