"""An adaptive search, on Ray Tune: a trial is one setting of the defense, judged on one victim of the panel after the other. A
step is a victim judged; what a scheduler stops early is told to the searcher, and written down, as stopped."""

import contextlib
import dataclasses
import json
import math
import time
from collections import Counter
from typing import Any

from optuna.samplers import TPESampler
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from bdray.judge.validity import Bounds
from bdray.launch.cells import WAIT, Listener, fit, said
from bdray.launch.expand import Cells
from bdray.launch.settings import Setting, cells_of, domains, drawn, members, setting_key
from bdray.launch.study import Study
from bdray.launch.sweep import Sweep
from bdray.launch.watch.tally import said_setting
from bdray.launch.watch.watch import Watch
from bdray.launch.work import AWAY, REFUSED, SHOWN, Work, run_cell
from bdray.needs import Needs
from bdray.report.objective import Objective
from bdray.seeds import seed_of
from bdray.spec import BadInput, Config
from bdray.store.store import Store
from bdray.store.trials import Trial, put_trial, trials


@dataclasses.dataclass
class Past:
    """What a search has already shown on this panel, and what it left half-done."""

    over: list[Trial] = dataclasses.field(default_factory=list)
    open: list[Setting] = dataclasses.field(default_factory=list)
    """Settings that were cut off, or judged on another panel: judged first."""
    lost: int = 0
    """How many of the open ones were lost with their workers."""


def unplanted(sweep: Sweep, store: Store) -> dict[str, float]:
    """The victims of the panel that did not plant, by key, and their ASR; as far as they are trained."""
    found = {}
    for cell in cells_of(sweep, drawn(sweep, 0)):
        about = store.victim_about(cell.victim) or {}
        asr = (about.get("scores") or {}).get("asr", math.nan)
        if Bounds(planted=sweep.planted).planted_in({"asr_before": asr}) is False:
            found[cell.victim] = float(asr)
    return found


def past(sweep: Sweep, store: Store) -> Past:
    """From the trials in the store, judged again from their rows by what the objective is now. A setting whose panel has
    changed since, or the victims in it that count, is open again: its rows are kept."""
    found, make = Past(), Cells()
    names = set(domains(sweep))
    left_out = unplanted(sweep, store)
    rows = {row["key"]: row for row in store.rows(sweep.name).to_pylist()}
    for trial in trials(store, sweep.name):
        if set(trial.setting) != names:
            continue
        with contextlib.suppress(BadInput):
            cells = cells_of(sweep, trial.setting, make)
            counted = {cell.key for cell in cells if cell.victim not in left_out}
            known = trial.key == setting_key(cells) and trial.objective == sweep.aim.label
            if known and trial.over and (counted <= set(trial.cells) or trial.state == "failed"):
                found.over.append(_again(trial, [rows[key] for key in trial.cells[: trial.step] if key in rows], sweep.aim))
            elif trial.setting not in found.open:
                found.open.append(trial.setting)
                found.lost += trial.state == "lost"
    done = [trial.setting for trial in found.over]
    found.open = [setting for setting in found.open if setting not in done]
    return found


def _again(trial: Trial, rows: list[dict[str, Any]], aim: Objective) -> Trial:
    """A trial with the scores that its rows have now; as it was where they are not all there, or cannot be judged."""
    if trial.state == "failed" or len(rows) < trial.step or any(row["status"] != "done" for row in rows):
        return trial
    (utility, left), value = aim.pair(rows), aim.value(rows)
    if any(math.isnan(score) for score in (utility, left, value)):
        return trial
    return dataclasses.replace(trial, utility=utility, left=left, value=None if aim.front else value)


def undone(sweep: Sweep, before: Past) -> list[Setting]:
    """Of a random search, the settings that are still to be judged, each once: small domains have fewer than it draws."""
    done = [trial.setting for trial in before.over]
    drawings = {json.dumps(setting): setting for setting in (drawn(sweep, number) for number in range(sweep.samples))}
    return [setting for setting in drawings.values() if setting not in done][: sweep.samples - len(done)]


def run_search(sweep: Sweep, before: Past, work: Work, store: Store, needs: Needs, slots: int, watch: Watch) -> Counter[str]:
    """Judge settings, in trials that need so much, until the sweep has as many as it asks for; how many ended in which state.

    Raises BadInput where no victim of the panel planted, and where the store takes no more rows.
    """
    wanted = sweep.samples - len(before.over)
    bare = unplanted(sweep, store)
    size = len(members(sweep)) - sum(cell.victim in bare for cell in cells_of(sweep, drawn(sweep, 0)))
    if not size:
        raise BadInput(
            f"no victim in the panel of the sweep {sweep.name!r} planted: the highest ASR is {100 * max(bare.values()):.1f} %, "
            f"expected at least {100 * sweep.planted:g}; give it attacks that do, or lower `planted`"
        )
    for victim, asr in bare.items():
        watch.say(f"left out of the panel: victim {victim}, which did not plant (ASR {100 * asr:.1f} %)")
    listener = _Listener(sweep, store, watch, size, len(before.over), frozenset(bare))
    told = dataclasses.replace(work, cpus=needs.cpus)
    job = _Job(dataclasses.replace(sweep, search="grid", scheduler=None), told, frozenset(bare))
    aim = sweep.aim
    if sweep.search == "random":
        space: dict[str, Any] = {"setting": tune.grid_search(undone(sweep, before))}
        options: dict[str, Any] = {"num_samples": 1}
    else:
        searcher = _Honest(_searcher(sweep, len(before.over), store), before, size)
        space = dict(domains(sweep))
        options = {"num_samples": wanted, "search_alg": searcher, "max_concurrent_trials": slots}
    if not aim.front:
        options |= {"metric": "value", "mode": "max"}
    fit(_trial, listener, work, space, job, lambda _: needs, scheduler=_scheduler(sweep, size), **options)
    return listener.ended


def _searcher(sweep: Sweep, number: int, store: Store) -> Searcher:
    if isinstance(sweep.search, Searcher):
        return sweep.search
    # With another seed each time that it goes on: the same one would draw the same settings again.
    sampler = TPESampler(seed=seed_of(sweep.seed, "optuna", number) % 2**32, multivariate=True, constant_liar=True)
    metric, mode = (["utility", "left"], ["max", "min"]) if sweep.front else ("value", "max")
    folder = store.files.folder()
    return Study(sampler, metric, mode, folder and folder / "searches" / sweep.name / "optuna.journal")


def _scheduler(sweep: Sweep, size: int) -> TrialScheduler | None:
    if sweep.scheduler == "asha":
        return AsyncHyperBandScheduler(time_attr="step", max_t=size, grace_period=1, reduction_factor=2)
    return sweep.scheduler


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every trial of a search is told."""

    sweep: Sweep
    work: Work
    left_out: frozenset[str]
    """Victims that did not plant: nothing is judged on them."""


def _trial(config: dict[str, Any], told: _Job) -> None:
    """One setting: its panel's cells in turn, each a row; after each the objective over those so far."""
    setting = _setting(config)
    sweep, work = told.sweep, told.work
    time.sleep(config.get(WAIT, 0.0))
    nothing = dict.fromkeys(("value", "utility", "left"), math.nan)
    about: dict[str, Any] = {"setting": setting, "step": 0}
    try:
        cells = cells_of(sweep, setting)
        trial = _about(sweep, cells, setting, "running", told.left_out)
        put_trial(work.settle()[0], trial)
    except BadInput as error:
        tune.report({**about, **nothing, "status": "failed", "error": str(error), "cells": []})
        return
    about["cells"] = trial.cells
    rows: list[dict[str, Any]] = []
    for cell in [cell for cell in cells if cell.victim not in told.left_out]:
        row = _awaited(cell.experiment.config(), work)
        shown = {name: row.get(name) for name in SHOWN}
        if row["status"] != "done":
            tune.report({**about, **nothing, "row": shown, "status": row["status"], "error": row.get("error", "")})
            return
        rows.append(row)
        about["step"] = len(rows)
        utility, left = sweep.aim.pair(rows)
        values = {"value": sweep.aim.value(rows), "utility": utility, "left": left}
        tune.report({**about, **values, "row": {**shown, "objective": sweep.aim.score(row)}, "status": "running"})


def _setting(config: dict[str, Any]) -> Setting:
    """What a trial judges."""
    setting = config["setting"] if "setting" in config else {p: v for p, v in config.items() if p != WAIT}
    return {path: getattr(value, "item", lambda value=value: value)() for path, value in setting.items()}


def _awaited(config: Config, work: Work) -> dict[str, Any]:
    """The row of a cell, waited for where another launch is running it."""
    import random

    while (row := run_cell(config, work))["status"] == AWAY:
        time.sleep(1 + random.random())
    return row


def _about(sweep: Sweep, cells: list[Any], setting: Setting, state: str, left_out: frozenset[str], **values: Any) -> Trial:
    counted = [cell.key for cell in cells if cell.victim not in left_out]
    return Trial(
        key=setting_key(cells),
        sweep=sweep.name,
        state=state,
        steps=len(counted),
        objective=sweep.aim.label,
        setting=setting,
        cells=counted,
        **values,
    )


def _state(result: dict[str, Any] | None, size: int) -> str:
    """How a trial ended, by its last report."""
    if not result or result.get("status") != "running":
        return "failed"
    if any(math.isnan(result.get(name, math.nan)) for name in ("utility", "left")):
        return "failed"
    return "finished" if result["step"] >= size else "stopped"


class _Listener(Listener):
    """Writes each trial down as it ends, and tells the watch."""

    def __init__(self, sweep: Sweep, store: Store, watch: Watch, size: int, before: int, left_out: frozenset[str]) -> None:
        super().__init__(watch)
        self.sweep, self.store, self.size, self.left_out = sweep, store, size, left_out
        self.number, self.ended = before, Counter[str]()
        self.last: dict[str, dict[str, Any]] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if result.get("status") == REFUSED:
            self.refused = self.refused or str(result["error"])
        elif result.get("row"):
            self.watch.cell(result["row"])
        self.last[trial.trial_id] = result
        self.show(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = self.last.pop(trial.trial_id, {})
        self._end(_state(result, self.size), result, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        super().on_trial_error(iteration, trials, trial)
        end = self.ends.pop(trial.trial_id)
        self.watch.say(f"{end.status} setting {said_setting(_setting(trial.config))}: {said(end)}")
        self._end(end.status, self.last.pop(trial.trial_id, {}), trial)

    def _end(self, state: str, result: dict[str, Any], trial: Any) -> None:
        self.number += state != "lost"
        self.ended[state] += 1
        judged = state not in ("failed", "lost")
        setting = _setting(trial.config)
        value = result.get("value") if judged and not self.sweep.front else None
        with contextlib.suppress(BadInput):  # a setting that cannot be built has no cells
            if not self.refused:
                scores = {name: result.get(name) for name in ("utility", "left")} if judged else {}
                cells = cells_of(self.sweep, setting)
                step = result.get("step", 0)
                about = _about(self.sweep, cells, setting, state, self.left_out, step=step, value=value, **scores)
                put_trial(self.store, about)
        if state != "lost":
            self.watch.trial(self.number, self.sweep.samples, value, state == "stopped", setting, state == "failed")


class _Honest(Searcher):
    """A Tune searcher that is told the truth: a stopped trial is no finished one, a resumed search knows what was shown before,
    and settings that were cut off come first."""

    def __init__(self, inner: Searcher, before: Past, size: int) -> None:
        super().__init__(metric=inner.metric, mode=inner.mode)
        self.inner, self.before, self.size = inner, before, size
        self.waiting = list(before.open)
        self.repeated: dict[str, Setting] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        if not self.inner.set_search_properties(metric, mode, config, **spec):
            return False
        for trial in self.before.over:
            self._add(trial.setting, dataclasses.asdict(trial), trial.state)
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.waiting:
            self.repeated[trial_id] = self.waiting.pop(0)
            return dict(self.repeated[trial_id])
        found: dict[str, Any] | None = self.inner.suggest(trial_id)
        return found

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id not in self.repeated and _state(result, self.size) != "failed":
            # Our own step: training_iteration starts again when a trial does.
            self.inner.on_trial_result(trial_id, {**result, "training_iteration": result["step"]})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        state = "failed" if error else _state(result, self.size)
        if trial_id in self.repeated:
            self._add(self.repeated.pop(trial_id), result or {}, state)
        elif state == "finished":
            self.inner.on_trial_complete(trial_id, result)
        elif state == "stopped" and isinstance(self.inner, Study | OptunaSearch):
            self.inner.on_trial_complete(trial_id)  # which is how both are told of a pruned trial
        else:
            self.inner.on_trial_complete(trial_id, error=True)

    def _add(self, setting: Setting, values: dict[str, Any], state: str) -> None:
        """Tell the searcher of a trial that it did not suggest; a searcher that cannot be told goes on without, and so does one
        whose space it lies outside of, since the sweep's domains were changed."""
        pruned = state == "stopped" and isinstance(self.inner, OptunaSearch)
        with contextlib.suppress(NotImplementedError, ValueError, TypeError):
            if isinstance(self.inner, Study):
                self.inner.add(setting, values, state)
                return
            value = values.get("value") if state == "finished" else None
            self.inner.add_evaluated_point(setting, value, error=state != "finished" and not pruned, pruned=pruned)

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshots are not used: the store's trials are the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""
