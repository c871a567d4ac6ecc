"""Adaptive searches: what they refuse, what the searcher is told, and what they leave in the store."""

import dataclasses
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
import torch
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from bdray.launch import Sweep, launch, plan, read_sweep
from bdray.launch.search import Past, _Honest, past, undone, unplanted
from bdray.launch.settings import cells_of, check_search, domains, drawn, members, setting_key
from bdray.launch.study import Study
from bdray.proxies import Misfit, Proxy
from bdray.report.objective import Objective, front
from bdray.run import run
from bdray.spec import BadInput
from bdray.store.store import Store
from bdray.store.trials import Trial, put_trial, trials
from bdray.victim import backdoor
from tests.report.test_table import make_row
from tests.tiny import quick, tiny_config

NFT = quick("nft", lr=tune.loguniform(0.01, 0.5), alpha=tune.uniform(0, 1), bn=tune.choice(["train", "eval"]))
PANEL = {"attack": ["badnets", "blend"], "seed": [0]}


def search_of(**changes: Any) -> Sweep:
    fields: dict[str, Any] = {"space": tiny_config(defense=dict(NFT)), "panel": PANEL, "name": "s", "search": "optuna"}
    return Sweep(**{**fields, "samples": 4, "objective": "oracle", "planted": 0.0, **changes})


# What makes no sense


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"panel": None}, "panel of the sweep 's' is empty"),
        ({"panel": {}}, "panel of the sweep 's' is empty"),
        ({"panel": {"attack": []}}, "panel of the sweep 's' is empty"),
        ({"space": tiny_config(defense=quick("nft"))}, "its space draws nothing"),
        ({"space": tiny_config(defense=dict(NFT), attack={"name": "blend", "rate": tune.uniform(0.1, 0.2)})}, "attack.rate"),
        ({"space": tiny_config(defense=dict(NFT), seed=[0, 1])}, "use tune.choice"),
        ({"panel": {"seed": tune.randint(0, 3)}}, "draws something"),
        ({"panel": {"seed": [0]}, "scheduler": "asha"}, "panel of one victim, whose objective is only known at the end"),
        ({"scheduler": "asha", "front": True}, "two objectives"),
        ({"scheduler": AsyncHyperBandScheduler()}, "counts in 'training_iteration'"),
        ({"objective": "defender", "proxy": "lipschitzz"}, "did you mean 'lipschitz'"),
        ({"objective": "training"}, "'nft' takes no training sample for poison"),
    ],
)
def test_a_search_that_makes_no_sense(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told) as caught:
        check_search(search_of(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"search": "optunna"}, "did you mean 'optuna'"),
        ({"search": 3}, "the sweep's search: got 3"),
        ({"scheduler": "ashaa"}, "did you mean 'asha'"),
        ({"scheduler": 3}, "the sweep's scheduler: got 3"),
        ({"objective": "oracel"}, "did you mean 'oracle'"),
        ({"objective": "trainign"}, "did you mean 'training'"),
        ({"judge": "best"}, "no judge named 'best'"),
        ({"budget": 5}, "the sweep's budget: got 5"),
        ({"class_budget": -0.1}, "the sweep's class_budget: got -0.1"),
        ({"planted": True}, "the sweep's planted: got true"),
    ],
)
def test_fields_of_a_search(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        search_of(**changes)


# Settings


def test_settings_and_their_cells() -> None:
    sweep = search_of(panel={"attack": ["badnets", {"name": "sig", "rate": 0.05}], "seed": [0, 1]})
    assert list(domains(sweep)) == ["defense.lr", "defense.alpha", "defense.bn"]
    assert len(members(sweep)) == 4
    setting = {"defense.lr": 0.1, "defense.alpha": 0.5, "defense.bn": "eval"}
    experiments = [cell.experiment for cell in cells_of(sweep, setting)]
    assert [(e.attack.name, e.seed) for e in experiments] == [("badnets", 0), ("badnets", 1), ("sig", 0), ("sig", 1)]
    assert {(e.defense.lr, e.defense.alpha, e.defense.bn) for e in experiments} == {(0.1, 0.5, "eval")}  # type: ignore[attr-defined]
    assert [e.key() for e in experiments] == [cell.key for cell in cells_of(sweep, setting)]
    assert [e.victim_key() for e in experiments] == [cell.victim for cell in cells_of(sweep, setting)]
    assert setting_key(cells_of(sweep, setting)) != setting_key(cells_of(search_of(), setting))


def test_draws_of_a_random_search_do_not_depend_on_how_many_there_are() -> None:
    few = [drawn(search_of(samples=3), number) for number in range(3)]
    many = [drawn(search_of(samples=9), number) for number in range(9)]
    assert few == many[:3]
    assert len({setting["defense.lr"] for setting in many}) == 9


def test_a_random_search_of_a_small_domain_ends(store: Store) -> None:
    """It draws the same settings again and again: each is judged once, and then nothing is left to launch."""
    sweep = search_of(space=tiny_config(defense=quick("nft", lr=tune.choice([0.1, 0.2]))), search="random", samples=9)
    assert sorted(setting["defense.lr"] for setting in undone(sweep, Past())) == [0.1, 0.2]
    assert plan(sweep, store, Path()).trials == 2
    for lr in (0.1, 0.2):
        setting = {"defense.lr": lr}
        cells = cells_of(sweep, setting)
        keys = [cell.key for cell in cells]
        put_trial(
            store, trial("failed", None, 0, key=setting_key(cells), setting=setting, cells=keys, objective=sweep.aim.label)
        )
    found = plan(sweep, store, Path())
    assert (found.trials, found.todo) == (0, False)
    assert "0 missing" in found.sentence()


def test_the_shipped_search_of_the_partition() -> None:
    """Every setting can be built on the whole panel, and none takes half of the training set for clean."""
    sweep = read_sweep("sweeps/advrbd_partition.py")
    check_search(sweep)
    assert (sweep.objective, sweep.aim.proxies) == ("training", ())
    found = domains(sweep)
    assert max(found["defense.iterations"].categories) * found["defense.partition_rate"].upper < 0.5  # type: ignore[attr-defined]
    cells = [cells_of(sweep, drawn(sweep, number)) for number in range(20)]
    assert {tuple(cell.experiment.attack.name for cell in mine) for mine in cells} == {
        ("blend", "badnets", "wanet", "adaptive_blend")
    }
    assert {(c.experiment.attack.target, c.experiment.attack.rate) for mine in cells for c in mine} == {(1, 0.05)}
    assert {cell.experiment.defense.balanced for mine in cells for cell in mine} == {False, True}  # type: ignore[attr-defined]


# The objective


def row(utility: float, asr: float, **more: Any) -> dict[str, Any]:
    scores = {"utility_before": 0.9, "utility_after": utility, "asr_after": asr}
    held = {"held_utility_before": 0.8, "held_utility_after": 0.79, "proxies": '{"lipschitz": 0.25}'}
    return {**scores, **held, **more}


class TestObjective:
    """By hand."""

    ORACLE = Objective(kind="oracle", budget=0.05)

    @pytest.mark.parametrize(
        ("utility", "asr", "score"), [(0.9, 0.2, 0.8), (0.85001, 1.0, 0.0), (0.95, 0.0, 1.0), (0.65, 0.0, -0.2)]
    )
    def test_of_a_row(self, utility: float, asr: float, score: float) -> None:
        assert self.ORACLE.score(row(utility, asr)) == pytest.approx(score)

    @pytest.mark.parametrize(
        ("utility", "target", "score"),
        [(0.9, 0.75, 0.8), (0.9, 0.7, 0.8), (0.9, 0.6, -0.1), (0.9, 0.0, -0.7), (0.65, 0.6, -0.2), (0.9, None, 0.8)],
    )
    def test_the_oracle_bounds_the_target_class(self, utility: float, target: float | None, score: float) -> None:
        """The larger of the two excesses; what was not measured is not bound."""
        told = row(utility, 0.2, target_utility_before=0.9, target_utility_after=target)
        assert self.ORACLE.score(told) == pytest.approx(score)
        assert dataclasses.replace(self.ORACLE, class_budget=1.0).score(told) == self.ORACLE.score(row(utility, 0.2))

    @pytest.mark.parametrize(
        ("after", "tests", "score"),
        [(0.5, 14, 0.75), (0.45, 100, -0.45 * 100 / 103 + 0.25), (0.0, 1, 0.75), (0.0, 2, -0.11), (None, 0, 0.75)],
    )
    def test_the_defender_bounds_the_class_that_fell_most(self, after: float | None, tests: int, score: float) -> None:
        """Of one sample that was lost nothing is said. By hand: 0.9 * 2 / 5 = 0.36."""
        told = {"worst_class_held_before": 0.9, "worst_class_held_after": after, "worst_class_held_tests": tests}
        if after == 0.5:
            told["worst_class_held_before"] = 0.8  # 0.3 * 14 / 17 = 0.247
        assert Objective(proxy="lipschitz").score(row(0.1, 1.0, **told)) == pytest.approx(score)

    def test_training_bounds_the_class_that_agrees_least(self) -> None:
        """Contradicting what was flagged is no merit of a model that contradicts all of a label."""
        honest, cheat = ({"kept_agreement": k, "flagged_agreement": f} for k, f in ((0.177, 0.271), (0.0, 0.02)))
        assert self.TRAINING.score(honest) == pytest.approx(-0.094)
        assert self.TRAINING.score(cheat) == pytest.approx(-1.0)
        assert self.TRAINING.pair([cheat])[1] == 1.0
        assert dataclasses.replace(self.TRAINING, class_budget=1.0).score(cheat) == pytest.approx(-0.02)

    def test_victims_that_did_not_plant_are_left_out(self) -> None:
        rows = [row(0.9, 0.2, asr_before=0.5), row(0.9, 0.0, asr_before=0.49)]
        assert self.ORACLE.value(rows) == pytest.approx(0.8)
        assert self.ORACLE.pair(rows) == pytest.approx((0.9, 0.2))
        assert dataclasses.replace(self.ORACLE, planted=0.4).value(rows) == pytest.approx(0.9)
        assert math.isnan(self.ORACLE.value(rows[1:]))

    def test_seeds_of_the_defense_are_averaged_within_their_victim(self) -> None:
        rows = [row(0.9, asr, victim=victim) for victim, asr in (("a", 0.0), ("a", 0.2), ("a", 0.4), ("b", 0.6))]
        assert self.ORACLE.value(rows) == pytest.approx((0.8 + 0.4) / 2)
        assert dataclasses.replace(self.ORACLE, judge="worst").value(rows) == pytest.approx(0.4)

    def test_the_defender_sees_no_asr(self) -> None:
        aim = Objective(proxy="lipschitz")
        assert aim.score(row(0.1, 1.0)) == pytest.approx(0.75)
        blind = {"held_utility_before": 0.8, "held_utility_after": 0.5, "proxies": '{"lipschitz": 0.25}'}
        assert aim.score(blind) == pytest.approx(-0.25)
        assert math.isnan(aim.score({**blind, "held_utility_after": 0.8, "proxies": ""}))
        assert aim.proxies == ("lipschitz",)
        assert self.ORACLE.proxies == ()

    TRAINING = Objective(kind="training", proxy="lipschitz", budget=0.0)

    @pytest.mark.parametrize(
        ("kept", "flagged", "score", "left"),
        [(0.8, 0.1, 0.7, 0.1), (0.2, 0.9, -0.7, 0.9), (0.95, 1.0, -0.05, 1.0), (None, None, math.nan, math.nan)],
    )
    def test_the_training_set_alone(self, kept: float | None, flagged: float | None, score: float, left: float) -> None:
        """Neither a fallen utility nor the ASR nor a proxy counts; a defense that never flags has no score."""
        told = {"kept_agreement": kept, "flagged_agreement": flagged}
        for bare in (row(0.1, 1.0, **told), row(0.9, 0.0, **{**told, "proxies": ""})):
            assert self.TRAINING.score(bare) == pytest.approx(score, nan_ok=True)
            assert self.TRAINING.left(bare) == pytest.approx(left, nan_ok=True)

    def test_the_training_set_alone_on_a_panel(self) -> None:
        rows = [row(0, 1, kept_agreement=k, flagged_agreement=f) for k, f in ((0.9, 0.1), (0.7, 0.4), (0.8, 1.0))]
        worst = dataclasses.replace(self.TRAINING, judge="worst")
        assert self.TRAINING.value(rows) == pytest.approx((0.8 + 0.3 - 0.2) / 3)
        assert worst.value(rows) == pytest.approx(-0.2)
        assert self.TRAINING.pair(rows) == pytest.approx((0.8, 0.5))
        assert worst.pair(rows) == pytest.approx((0.7, 1.0))
        assert self.TRAINING.proxies == ()

    def test_labels(self) -> None:
        """Everything that comes from a search bears them."""
        assert self.ORACLE.label == "oracle: test utility, true ASR"
        assert Objective(proxy="lipschitz").label == "defender: held utility, lipschitz"
        assert self.TRAINING.label == "training: agreement with the labels it kept, with those it flagged; no clean data"

    def test_of_a_panel(self) -> None:
        rows = [row(0.9, 0.2), row(0.9, 0.6)]
        assert self.ORACLE.value(rows) == pytest.approx(0.6)
        assert dataclasses.replace(self.ORACLE, judge="worst").value(rows) == pytest.approx(0.4)
        assert self.ORACLE.pair([row(0.8, 0.1), row(0.6, 0.5)]) == pytest.approx((0.7, 0.3))
        worst = dataclasses.replace(self.ORACLE, judge="worst")
        assert worst.pair([row(0.8, 0.1), row(0.6, 0.5)]) == pytest.approx((0.6, 0.5))
        assert math.isnan(self.ORACLE.value([row(0.9, 0.2), {**row(0.9, 0.2), "asr_after": None}]))
        assert math.isnan(self.ORACLE.value([]))

    def test_front(self) -> None:
        points = [(0.9, 0.5), (0.8, 0.1), (0.8, 0.2), (0.95, 0.9), (0.7, 0.1), (math.nan, 0.0), (0.9, 0.5)]
        assert front(points) == [True, True, False, True, False, False, True]


# What the searcher is told


class Told(NamedTuple):
    """A searcher in its wrapping, and the Optuna study behind it."""

    honest: _Honest
    study: optuna.Study


class TestHonest:
    """With a real Optuna study and no Ray."""

    @pytest.fixture(params=["ours", "a person's own"])
    def told(self, request: pytest.FixtureRequest) -> Told:
        sweep = search_of()
        before = Past([trial("finished", 0.4), trial("stopped", 0.1, 1), trial("failed", None, 0)], [SETTING])
        storage = InMemoryStorage()
        inner: Searcher = Study(RandomSampler(), "value", "max")
        if request.param != "ours":
            inner = OptunaSearch(metric="value", mode="max", study_name="own", storage=storage)
        honest = _Honest(inner, before, 2)
        assert honest.set_search_properties("value", "max", dict(domains(sweep)))
        return Told(honest, inner.study if isinstance(inner, Study) else optuna.load_study(study_name="own", storage=storage))

    def test_it_knows_what_was_shown_before(self, told: Told) -> None:
        trials = told.study.trials
        assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
        assert trials[0].value == 0.4

    def test_a_setting_outside_of_the_domains_that_there_are_now_stops_nothing(self, told: Told) -> None:
        """The sweep's file was changed, or the trial's file forged."""
        for setting in ({**SETTING, "defense.lr": 0.9}, {**SETTING, "defense.bn": "other"}, {**SETTING, "defense.lr": "x"}):
            told.honest._add(setting, report(2, 0.5), "finished")
        told.honest._add(SETTING, {**report(2, 0.5), "value": None}, "finished")
        told.honest._add(SETTING, report(2, 0.7), "finished")
        assert [t.value for t in told.study.trials][3:] == [0.7]

    def test_what_was_cut_off_comes_first_and_counts(self, told: Told) -> None:
        first = told.honest.suggest("a")
        assert first is not None
        assert {name: value for name, value in first.items() if name != "job"} == SETTING
        told.honest.on_trial_result("a", report(1, 0.3))
        told.honest.on_trial_complete("a", report(2, 0.6))
        last = told.study.trials[-1]
        assert (last.state, last.value, last.params) == (TrialState.COMPLETE, 0.6, SETTING)

    @pytest.mark.parametrize(
        ("result", "error", "state"),
        [
            ((2, 0.6), False, TrialState.COMPLETE),
            ((1, 0.6), False, TrialState.PRUNED),
            ((2, 0.6), True, TrialState.FAIL),
            (None, True, TrialState.FAIL),
            ((2, math.nan), False, TrialState.FAIL),
        ],
    )
    def test_a_stopped_trial_never_poses_as_finished(self, told: Told, result: Any, error: bool, state: TrialState) -> None:
        told.honest.suggest("a")
        told.honest.suggest("b")
        told.honest.on_trial_complete("b", report(*result) if result else None, error)
        assert told.study.trials[-1].state == state

    def test_a_failed_cell_is_no_value(self, told: Told) -> None:
        told.honest.suggest("a")
        told.honest.suggest("b")
        told.honest.on_trial_complete("b", {**report(1, 0.9), "status": "failed"})
        assert told.study.trials[-1].state == TrialState.FAIL


class TestStudy:
    """What Optuna is told, and the copy that its dashboard opens."""

    def test_a_stopped_trial_counts_with_what_it_showed(self) -> None:
        study = Study(RandomSampler(), "value", "max")
        study.set_search_properties("value", "max", dict(domains(search_of())))
        study.add(SETTING, {"value": 0.1, "step": 1}, "stopped")
        study.suggest("a")
        study.on_trial_result("a", {"value": 0.3, "training_iteration": 1})
        study.on_trial_complete("a")
        assert [t.state for t in study.study.trials] == [TrialState.PRUNED] * 2
        assert [t.intermediate_values for t in study.study.trials] == [{1: 0.1}, {1: 0.3}]

    def test_the_journal_is_a_whole_study(self, tmp_path: Path) -> None:
        journal = tmp_path / "searches" / "s" / "optuna.journal"
        for number in (1, 2):  # the second launch begins it anew
            study = Study(RandomSampler(), ["utility", "left"], ["max", "min"], journal)
            study.set_search_properties(None, None, dict(domains(search_of())))
            study.add(SETTING, {"utility": 0.9, "left": 0.2}, "finished")
            for name in range(number):
                study.suggest(str(name))
                study.on_trial_complete(str(name), {"utility": 0.8, "left": 0.1 * name})
        storage = JournalStorage(JournalFileBackend(str(journal)))
        (seen,) = optuna.get_all_study_summaries(storage)
        copied = optuna.load_study(study_name=seen.study_name, storage=storage)
        assert seen.study_name == "s"
        assert [t.values for t in copied.trials] == [[0.9, 0.2], [0.8, 0.0], [0.8, 0.1]]
        assert [t.params for t in copied.trials] == [t.params for t in study.study.trials]

    def test_its_journal_leaves_no_link_in_the_store(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """A reader of the store would take one for damage, and a killed search leave it."""
        monkeypatch.setattr(os, "symlink", lambda *_: pytest.fail("a link"))
        study = Study(RandomSampler(), "value", "max", Path(store.location()) / "searches" / "s" / "optuna.journal")
        study.set_search_properties("value", "max", dict(domains(search_of())))
        study.add(SETTING, {"value": 0.5}, "finished")
        assert study.copy.study is not None
        assert len(study.copy.study.trials) == 1

    def test_a_journal_that_cannot_be_written_stops_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "searches").write_text("a file where a folder should be")
        study = Study(RandomSampler(), "value", "max", tmp_path / "searches" / "s" / "optuna.journal")
        study.set_search_properties("value", "max", dict(domains(search_of())))
        study.suggest("a")
        study.on_trial_complete("a", {"value": 0.5})
        assert study.study.best_value == 0.5


SETTING = {"defense.lr": 0.1, "defense.alpha": 0.5, "defense.bn": "eval"}


def trial(state: str, value: float | None, step: int = 2, **more: Any) -> Trial:
    fields: dict[str, Any] = {"key": state, "sweep": "s", "steps": 2, "objective": search_of().aim.label, "cells": []}
    return Trial(**{**fields, "state": state, "step": step, "value": value, "setting": SETTING, **more})


def report(step: int, value: float) -> dict[str, Any]:
    return {"status": "running", "step": step, "value": value, "utility": value, "left": 0.0}


def test_a_panel_that_its_proxy_cannot_measure_is_refused_before_anything_is_launched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise Misfit("it finds nothing to measure")

    monkeypatch.setattr(Proxy.member("lipschitz"), "check", refuse)
    sweep = search_of(objective="defender", proxy="lipschitz")
    with pytest.raises(BadInput, match="the panel of the sweep 's': it finds nothing to measure"):
        plan(sweep, store, Path())
    assert plan(search_of(), store, Path()).trials == 4  # the oracle needs none


def test_the_past_of_a_search(store: Store) -> None:
    """Finished ones count; what was cut off, or judged on another panel, is open; another objective's are not taken over."""
    sweep = search_of()
    settings = [{**SETTING, "defense.lr": rate} for rate in (0.1, 0.2, 0.3, 0.4, 0.5)]
    keys = [setting_key(cells_of(sweep, setting)) for setting in settings]
    every = [cell.key for cell in cells_of(sweep, settings[0])]
    put_trial(store, trial("finished", 0.5, key=keys[0], setting=settings[0], cells=every))
    put_trial(store, trial("running", None, key=keys[1], setting=settings[1]))
    put_trial(store, trial("finished", 0.5, key="another panel", setting=settings[2]))
    put_trial(store, trial("stopped", 0.5, key=keys[3], setting=settings[3], objective="another"))
    put_trial(store, trial("finished", 0.5, key="other space", setting={"defense.steps": 3}))
    put_trial(store, trial("finished", 0.5, key="few", setting=settings[4], cells=[]))
    found = past(sweep, store)
    assert [t.setting for t in found.over] == [settings[0]]
    assert sorted(found.open, key=str) == sorted(settings[1:], key=str)


def test_a_past_trial_is_judged_again_by_its_rows(store: Store) -> None:
    """What was told of it by another version, or with other budgets, is not what the searcher hears."""
    sweep = search_of(planted=0.5)
    cells = cells_of(sweep, SETTING)
    for cell, asr in zip(cells, (0.1, 0.3), strict=True):
        put_row(store, cell, asr_after=asr, asr_before=1.0, target_utility_before=0.9, target_utility_after=0.8)
    fields = {"key": setting_key(cells), "cells": [cell.key for cell in cells]}
    put_trial(store, trial("finished", 0.123, utility=0.5, left=0.5, **fields))
    (told,) = past(sweep, store).over
    assert (told.value, told.left) == (pytest.approx(0.8), pytest.approx(0.2))
    (told,) = past(search_of(planted=0.5, class_budget=0.05), store).over
    assert told.value == pytest.approx(-0.05)


def test_victims_that_did_not_plant_are_no_part_of_the_panel(store: Store) -> None:
    """As far as they are trained; a setting judged without them is whole, one judged without another is not."""
    sweep = search_of(planted=0.5)
    badnets, blend = cells_of(sweep, SETTING)
    assert unplanted(sweep, store) == {}
    about = {"key": blend.victim, "scores": {"asr": 0.12}, "seconds": 1.0}
    store.put_victim(blend.victim, {"model": {"w": torch.zeros(1)}}, about)
    assert unplanted(sweep, store) == {blend.victim: 0.12}
    assert unplanted(search_of(planted=0.1), store) == {}
    key = setting_key([badnets, blend])
    put_trial(store, trial("finished", 0.5, key=key, cells=[badnets.key]))
    assert len(past(sweep, store).over) == 1
    assert len(past(search_of(planted=0.1), store).over) == 0
    put_trial(store, trial("finished", 0.5, key=key, cells=[blend.key]))
    assert len(past(sweep, store).over) == 0


def put_row(store: Store, cell: Any, **values: Any) -> None:
    experiment = cell.experiment
    row = make_row(experiment.config(), sweep="s", **{"utility_before": 0.9, "utility_after": 0.9, **values})
    assert row.key == cell.key
    store.put_row(row)


# On Ray


@pytest.mark.filterwarnings("ignore")  # of Ray's own making
class TestOnRay:
    """Whole searches of the tiny experiment. All tests but one find the panel's victims in the store, since Ray Train takes ten
    seconds to start."""

    @pytest.fixture(scope="class")
    def trained(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("trained") / "store"
        for cell in cells_of(search_of(), SETTING):
            backdoor(cell.experiment, Store(str(folder)), Path())
        return folder

    @pytest.fixture
    def store(self, trained: Path, tmp_path: Path) -> Store:
        return Store(str(shutil.copytree(trained, tmp_path / "store")))

    def test_a_search_goes_on_and_grows(self, local_ray: None, store: Store) -> None:
        sweep = search_of(scheduler="asha")
        assert launch(plan(sweep, store, Path()), store, Path()) == 0
        first = {t.key: t for t in trials(store, "s")}
        assert len(first) == 4
        assert {t.state for t in first.values()} <= {"finished", "stopped"}
        rows = {row["key"]: row for row in store.rows("s").to_pylist()}
        for t in first.values():
            assert t.step == (2 if t.state == "finished" else 1)
            judged = [rows[key] for key in t.cells[: t.step]]
            assert t.value == pytest.approx(sweep.aim.value(judged))
            assert (t.utility, t.left) == pytest.approx(sweep.aim.pair(judged))
        assert len(rows) == sum(t.step for t in first.values())
        assert not plan(sweep, store, Path()).todo

        grown = search_of(scheduler="asha", samples=6)
        found = plan(grown, store, Path())
        assert (found.trials, found.victims) == (2, {})
        assert launch(found, store, Path()) == 0
        after = {t.key: t for t in trials(store, "s")}
        assert len(after) == 6
        assert all(after[key] == t for key, t in first.items())

    def test_a_trial_cut_off_is_gone_on_with(self, local_ray: None, store: Store) -> None:
        """Its finished cell is not run again."""
        sweep = search_of(samples=1, search="random")
        cells = cells_of(sweep, drawn(sweep, 0))
        run(cells[0].experiment, store, Path(), "s")
        time = store.rows("s").to_pylist()[0]["time"]
        cut = trial("running", None, key=setting_key(cells), setting=drawn(sweep, 0), cells=[c.key for c in cells])
        put_trial(store, cut)
        for search in ("random", "optuna"):
            again = dataclasses.replace(sweep, search=search)
            assert launch(plan(again, store, Path()), store, Path()) == 0
            (only,) = trials(store, "s")
            assert (only.state, only.setting, only.step) == ("finished", drawn(sweep, 0), 2)
            assert {row["key"]: row["time"] for row in store.rows("s").to_pylist()}[cells[0].key] == time
            put_trial(store, cut)

    def test_two_objectives(self, local_ray: None, store: Store) -> None:
        sweep = search_of(front=True, samples=3)
        assert launch(plan(sweep, store, Path()), store, Path()) == 0
        found = trials(store, "s")
        assert [t.state for t in found] == ["finished"] * 3
        assert all(t.value is None and t.utility is not None and t.left is not None for t in found)

    def test_the_defenders_objective_measures_its_proxy(self, local_ray: None, store: Store) -> None:
        sweep = search_of(objective="defender", proxy="lipschitz", samples=2, search="random", judge="worst")
        assert launch(plan(sweep, store, Path()), store, Path()) == 0
        rows = store.rows("s").to_pylist()
        assert len(rows) == 4
        assert all('"lipschitz"' in row["proxies"] and row["held_utility_before"] is not None for row in rows)

    def test_the_training_sets_objective_needs_no_clean_data(self, local_ray: None, store: Store) -> None:
        space = tiny_config(defense=quick("advrbd", lr=tune.loguniform(0.001, 0.1)))
        sweep = search_of(space=space, objective="training", samples=2)
        assert launch(plan(sweep, store, Path()), store, Path()) == 0
        found = trials(store, "s")
        assert [(t.state, t.objective) for t in found] == [("finished", sweep.aim.label)] * 2
        rows = {row["key"]: row for row in store.rows("s").to_pylist()}
        for t in found:
            assert (t.utility, t.left) == pytest.approx(sweep.aim.pair([rows[key] for key in t.cells]))
            assert t.value == pytest.approx(sweep.aim.value([rows[key] for key in t.cells]))
        assert {row["proxies"] for row in rows.values()} == {""}

    def test_a_panel_on_which_nothing_planted_is_refused(self, local_ray: None, store: Store) -> None:
        """The tiny victims of two epochs have no backdoor; a sentence says so before anything is judged."""
        sweep = search_of(samples=1, planted=1.0)
        with pytest.raises(BadInput, match=r"no victim in the panel of the sweep 's' planted: the highest ASR is"):
            launch(plan(sweep, store, Path()), store, Path())
        assert trials(store, "s") == []

    def test_a_setting_that_fails_is_told(self, local_ray: None, store: Store) -> None:
        """Its training diverges."""
        sweep = search_of(space=tiny_config(defense=quick("fine_tuning", lr=tune.choice([1e38]))), samples=1)
        assert launch(plan(sweep, store, Path()), store, Path()) == 1
        (only,) = trials(store, "s")
        assert (only.state, only.step, only.value) == ("failed", 0, None)
        (one,) = store.rows("s").to_pylist()
        assert (one["status"], "loss is" in one["error"]) == ("failed", True)
        assert not plan(sweep, store, Path()).todo
        assert plan(sweep, store, Path(), retry_failed=True).trials == 1
