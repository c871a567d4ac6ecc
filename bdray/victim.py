"""Victim: the backdoored model of an experiment, from the store, or trained now."""

import functools
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bdray.attacks import Patterns, Poison, Setting, poison
from bdray.bench import Bench, kept
from bdray.experiment import Experiment
from bdray.judge.scores import evaluate
from bdray.layers.finite import check_finite, named
from bdray.provenance import provenance
from bdray.seeds import rng, seed_of
from bdray.spec import BadInput
from bdray.store.curve import Curve, Progress, unwatched
from bdray.store.row import Scores
from bdray.store.store import Store
from bdray.training import ALONE, Team, fit, place, unlike


class Backdoored(NamedTuple):
    """A victim: the model in eval mode, its trigger, what was done to its training set, and its scores."""

    model: nn.Module
    patterns: Patterns
    poison: Poison
    scores: Scores
    seconds: float


def backdoor(
    experiment: Experiment, store: Store, root: Path, progress: Progress = unwatched, team: Team = ALONE
) -> Backdoored:
    """The victim from the store, or trained now and stored; a training that was cut off goes on at its last epoch. Where
    `training.workers` is more than one, a team of that size calls it together, and its first process is the one that poisons,
    scores and stores.

    Raises Refused where the stored victim, or its half-done training, was made from other data than `root` holds now, and
    FloatingPointError where the victim has a weight or gives an answer that is not finite: it is not stored.
    """
    bench = Bench(experiment, store, root)
    return stored(bench) or _trained(bench, progress, team)


def kept_victim(bench: Bench, progress: Progress) -> Backdoored:
    """As `backdoor`, not read again by a worker that runs cell after cell on one victim. Not to be changed."""
    key, store = bench.experiment.victim_key(), bench.store
    trained = backdoor(*bench, progress) if store.victim_about(key) is None else None
    about = json.dumps(store.victim_about(key), sort_keys=True)
    where = (store.location(), str(bench.root), key, bench.digest, about)
    found: Backdoored = kept("victim", where, lambda: trained or backdoor(*bench, progress))
    return found


def _trained(bench: Bench, progress: Progress, team: Team) -> Backdoored:
    experiment, store = bench.experiment, bench.store
    key, seed, task, training = experiment.victim_key(), experiment.seed, experiment.task, experiment.training
    if training.workers != team.size:
        raise BadInput(
            f"training.workers: got {training.workers}, but this victim would be trained by {team.size} "
            f"process{'es' if team.size > 1 else ''}; train it with `bdray sweep`, or set training.workers={team.size}"
        )
    checkpoint = store.checkpoint(key)
    with named(f"the attack {experiment.attack.name!r}"):
        state = _attack_state(bench, progress) if team.rank == 0 else {}
    if team.size > 1:
        shared = [state]
        dist.broadcast_object_list(shared)
        state = shared[0]
    patterns, harm = _attack_of(state, bench)
    curve = Curve(key, "victim", progress)
    model = task.build(bench.outline, rng(seed, "weights"))
    with named("the victim"):
        fit(model, harm.apply(bench.splits.train), task, training, seed, curve, checkpoint, team=team)
    seconds = float(state["seconds"]) + curve.points[-1][2]  # of the last epoch's report
    if team.rank > 0:
        return Backdoored(model, patterns, harm, Scores(), seconds)
    with named("the victim"):
        scores = evaluate(model, experiment, patterns, bench.splits).scores
    about = {
        "key": key,
        "spec": experiment.victim_config(),
        "scores": vars(scores),
        "seconds": seconds,
        **provenance(),
    }
    store.put_table("curves", key, curve.table())
    store.put_victim(key, {"model": model.state_dict(), "attack": state}, about)
    checkpoint.delete()
    return Backdoored(model, patterns, harm, scores, seconds)


def _attack_state(bench: Bench, progress: Progress) -> dict[str, Tensor]:
    """The trigger and the poison as tensors, stored before the first epoch, so that a resumed training has the same ones."""
    experiment, store, splits = bench.experiment, bench.store, bench.splits
    key, seed = experiment.victim_key(), experiment.seed
    state = store.victim_part(key, "attack")
    if state is not None:
        try:
            _attack_of(state, bench)
        except _NoAttackError:
            state = None
    if state is None:
        store.checkpoint(key).delete()
        attack, started = experiment.attack, time.perf_counter()
        attack.check(splits)
        setting = functools.partial(
            Setting,
            experiment.task,
            splits,
            experiment.training,
            report=functools.partial(progress, "surrogate"),
            seed=seed_of(seed, "samples"),
        )
        patterns = attack.patterns(setting(rng=rng(seed, "trigger")))
        harm = poison(attack, patterns, setting(rng=rng(seed, "poison")))
        state = {f"patterns.{name}": t for name, t in patterns.items()} | harm.pack()
        state["seconds"] = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
        state["data"] = torch.tensor(list(bytes.fromhex(bench.digest)), dtype=torch.uint8)
        store.put_victim_part(key, "attack", state)
    return state


def stored(bench: Bench) -> Backdoored | None:
    """The victim that the store has; None, with a warning, for one that is of no use."""
    experiment, store = bench.experiment, bench.store
    found = store.victim(experiment.victim_key())
    if found is None:
        return None
    tensors, about = found
    splits, why = bench.splits, "" if {"scores", "seconds"} <= about.keys() else "says no scores or no seconds"
    if not why:
        try:
            patterns, harm = _attack_of(tensors.get("attack", {}), bench)
        except _NoAttackError as error:
            why = f"its attack {error}"
    if not why:
        model = experiment.task.build(bench.outline, torch.Generator())
        why = unlike(tensors.get("model", {}), model.state_dict())
    if why:
        store.foreign_victim(experiment.victim_key(), why)
        return None
    model.load_state_dict(tensors["model"])
    model = place(model).eval()
    with named(f"the stored victim {experiment.victim_key()}"):  # one that was stored before this was looked at
        check_finite(model, "its training", "lower training.lr or training.weight_decay")
        experiment.task.predict(model, splits.test.take(torch.arange(min(2, len(splits.test)))))
    scores = Scores(**{name: float(value) for name, value in about["scores"].items()})
    return Backdoored(model, patterns, harm, scores, float(about["seconds"]))


class _NoAttackError(Exception):
    """Tensors are no trigger and poison; the text goes on after 'its attack'."""


def _attack_of(state: dict[str, Tensor], bench: Bench) -> tuple[Patterns, Poison]:
    """The trigger and the poison of a stored victim, once it is sure that they belong to these data. Raises _NoAttackError
    where they are none."""
    lacking = {"data", "seconds", "poisoned", "cover"} - state.keys()
    if lacking:
        raise _NoAttackError(f"has no {min(lacking)}")
    if state["data"].dtype != torch.uint8 or state["data"].shape != (32,) or state["seconds"].numel() != 1:
        raise _NoAttackError("does not say of which data it is")
    bench.check_same(f"the victim {bench.experiment.victim_key()}", bytes(state["data"].tolist()).hex())
    patterns = {n.removeprefix("patterns."): t for n, t in state.items() if n.startswith("patterns.")}
    try:
        harm = Poison.unpack(state, bench.splits.train, bench.experiment.attack, patterns)
    except ValueError as error:
        raise _NoAttackError(str(error)) from None
    return patterns, harm
