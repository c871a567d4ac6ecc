"""Experiment, backdoor(), run(): one dict in, one Row out, on one screen. Knows no Ray."""

import contextlib
import copy
import functools
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bdray.attacks import Attack, Patterns, Poison, Setting, poison
from bdray.data import Data
from bdray.defenses import Defense, Evidence
from bdray.judge.agreement import agreement
from bdray.judge.held import Held, deepest_fall
from bdray.judge.truth import Look, Truth
from bdray.kept import Kept
from bdray.layers.finite import check_finite, named
from bdray.memory import peak_memory, reset_peak_memory
from bdray.provenance import provenance
from bdray.proxies import Proxy
from bdray.samples import Splits, joined, put, take
from bdray.seeds import rng, seed_of
from bdray.spec import BadInput, Config, Incompatible, Seed, Spec, key_of, member
from bdray.store.refusal import Refused, without_secrets
from bdray.store.row import CURVES, Row, Scores, of_record, setting_of
from bdray.store.store import Store
from bdray.task import Task
from bdray.training import ALONE, Team, Training, fit, parts, place, unlike
from bdray.wording import shortened


class Experiment(Spec):
    """One victim and one defense. With every default it is the embedded one: digits, blend, NFT."""

    task: Task = member("image")
    attack: Attack = member("blend")
    training: Training = Training()
    defense: Defense = member("nft")
    seed: Seed = 0
    """Of the victim: poison, initial weights, order of the samples, trigger. The defense adds its own."""

    @classmethod
    def _filled(cls, fields: Config) -> Config:
        """What suits the task stands where the experiment says nothing: of a part that it does not name, and of fields that it
        does not name of the member that suits the task."""
        task = fields.get("task", {})
        name = task.name if isinstance(task, Task) else task.get("name", "image") if isinstance(task, dict) else task
        if name not in Task.names():
            return fields
        fields = dict(fields)
        for part, suited in Task.member(name).suited.items():
            mine = fields.get(part, {})
            mine = {"name": mine} if isinstance(mine, str) else mine
            if isinstance(mine, dict) and "preset" not in mine and mine.get("name") in (None, suited.get("name")):
                fields[part] = {**suited, **mine}
        return fields

    def victim_config(self) -> Config:
        """The part that the victim depends on: everything but the defense."""
        return {k: v for k, v in self.config().items() if k != "defense"}

    def victim_key(self) -> str:
        """The hash under which the victim is stored: one victim serves every defense."""
        return key_of({k: v for k, v in self.identity().items() if k != "defense"})

    def check(self) -> None:
        """Raise Incompatible where the parts make no sense together."""
        modality = self.task.modality
        for spec, fits in (
            (self.task.data, {self.task.data.modality}),
            (self.task.model, {self.task.model.modality}),
            (self.attack, self.attack.modalities),
            (self.defense, self.defense.modalities or {modality}),
        ):
            if modality not in fits:
                why = f" ({spec.because})" if isinstance(spec, Defense) and spec.because else ""
                raise Incompatible(
                    f"the {spec.kind} {spec.name!r} is for {' and '.join(sorted(fits))}{why}, the task {self.task.name!r} is "
                    f"for {modality}; choose another"
                )
        if self.attack.steers and "train" in self.defense.needs:
            raise Incompatible(
                f"the defense {self.defense.name!r} needs a fixed training set, and the attack {self.attack.name!r} "
                "steers the training instead; choose another"
            )


class Backdoored(NamedTuple):
    """A victim: the model in eval mode, its trigger, what was done to its training set, and its scores."""

    model: nn.Module
    patterns: Patterns
    poison: Poison
    scores: Scores
    seconds: float


Progress = Callable[..., None]
"""`progress(stage, step, **metrics)`: a report that also says whose: of the surrogate, the victim or the defense."""


def unwatched(stage: str, step: int, **metrics: float) -> None:
    """A progress that nobody reads."""


@functools.lru_cache(maxsize=2)
def load(data: Data, root: Path) -> Splits:
    """The splits of a data set, kept in the process: a worker reads its data once."""
    return data.splits(root)


@functools.lru_cache(maxsize=64)
def fingerprint(data: Data, root: Path) -> str:
    """64 hex digits of what a data set really holds: two archives of one name are not the same data."""
    return load(data, root).digest()


def forget() -> None:
    """Read the data anew: a command that begins in a process where another one ended may find other files."""
    load.cache_clear()
    fingerprint.cache_clear()


def check_same(what: str, digest: str, data: Data, store: Store, root: Path) -> None:
    """Raise Refused where what the store has under this key was made from other data than `root` holds now: the same spec is
    not the same experiment then. An empty digest is not known, and passes."""
    if digest and digest != fingerprint(data, root):
        raise Refused(
            f"{what} in the store {without_secrets(store.uri)!r} was made from another {data.name} than {str(root)!r} holds "
            "now; use another --store, or the data that it was made from"
        )


def check_data(experiment: Experiment, root: Path) -> None:
    """Raise BadInput, before anything is trained, for data that cannot be read, too few samples to poison or too few to
    hold."""
    experiment.check()
    forget()
    splits = load(experiment.task.data, root)
    experiment.attack.check(splits)
    experiment.defense.check(splits)
    experiment.defense.check_model(experiment.task, splits)


def backdoor(
    experiment: Experiment, store: Store, root: Path, progress: Progress = unwatched, team: Team = ALONE
) -> Backdoored:
    """The victim from the store, or trained now and stored; a training that was cut off goes on at its last epoch. Where
    `training.workers` is more than one, a team of that size calls it together, and its first process is the one that poisons,
    scores and stores.

    Raises Refused where the stored victim, or its half-done training, was made from other data than `root` holds now, and
    FloatingPointError where the victim has a weight or gives an answer that is not finite: it is not stored.
    """
    found = _load_victim(experiment, store, root)
    if found is not None:
        return found
    key, seed = experiment.victim_key(), experiment.seed
    task, attack, training = experiment.task, experiment.attack, experiment.training
    if training.workers != team.size:
        raise BadInput(
            f"training.workers: got {training.workers}, but this victim would be trained by {team.size} "
            f"process{'es' if team.size > 1 else ''}; train it with `bdray sweep`, or set training.workers={team.size}"
        )
    splits = load(task.data, root)
    curve = _Curve(key, "victim", progress)
    checkpoint = store.checkpoint(key)
    with named(f"the attack {attack.name!r}"):
        state = _attack_state(experiment, store, root, progress) if team.rank == 0 else {}
    if team.size > 1:
        shared = [state]
        dist.broadcast_object_list(shared)
        state = shared[0]
    patterns, harm = _attack_of(state, experiment, store, root)
    model = task.build(task.outline(splits), rng(seed, "weights"))
    with named("the victim"):
        fit(model, harm.apply(splits.train), task, training, seed, curve, checkpoint, team=team)
    seconds = float(state["seconds"]) + curve.points[-1][2]  # of the last epoch's report
    if team.rank > 0:
        return Backdoored(model, patterns, harm, Scores(), seconds)
    with named("the victim"):
        scores = evaluate(model, experiment, patterns, splits).scores
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


def _attack_state(experiment: Experiment, store: Store, root: Path, progress: Progress) -> dict[str, Tensor]:
    """The trigger and the poison as tensors, stored before the first epoch, so that a resumed training has the same ones."""
    key, seed = experiment.victim_key(), experiment.seed
    state = store.victim_part(key, "attack")
    if state is not None:
        try:
            _attack_of(state, experiment, store, root)
        except _NoAttackError:
            state = None
    if state is None:
        store.checkpoint(key).delete()
        task, attack, training = experiment.task, experiment.attack, experiment.training
        splits, started, report = load(task.data, root), time.perf_counter(), functools.partial(progress, "surrogate")
        attack.check(splits)
        drawn = seed_of(seed, "samples")
        patterns = attack.patterns(Setting(task, splits, training, rng(seed, "trigger"), report, drawn))
        harm = poison(attack, patterns, Setting(task, splits, training, rng(seed, "poison"), report, drawn))
        state = {f"patterns.{name}": t for name, t in patterns.items()} | harm.pack()
        state["seconds"] = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
        state["data"] = torch.tensor(list(bytes.fromhex(fingerprint(task.data, root))), dtype=torch.uint8)
        store.put_victim_part(key, "attack", state)
    return state


_LAST: dict[tuple[str, ...], tuple[Any, Backdoored]] = {}


def _victim(experiment: Experiment, store: Store, root: Path, progress: Progress) -> Backdoored:
    """As `backdoor`, not read again by a worker that runs cell after cell on one victim. Not to be changed."""
    key = experiment.victim_key()
    where = (store.location(), str(root), key, fingerprint(experiment.task.data, root))
    about = store.victim_about(key)
    if about is None or where not in _LAST or _LAST[where][0] != about:
        found = backdoor(experiment, store, root, progress)
        _LAST.clear()  # two of them would share a GPU with whatever else runs on it
        _LAST[where] = (store.victim_about(key), found)
    return _LAST[where][1]


def _load_victim(experiment: Experiment, store: Store, root: Path) -> Backdoored | None:
    found = store.victim(experiment.victim_key())
    if found is None:
        return None
    tensors, about = found
    splits = load(experiment.task.data, root)
    why = "" if {"scores", "seconds"} <= about.keys() else "says no scores or no seconds"
    if not why:
        try:
            patterns, harm = _attack_of(tensors.get("attack", {}), experiment, store, root)
        except _NoAttackError as error:
            why = f"its attack {error}"
    if not why:
        model = experiment.task.build(experiment.task.outline(splits), torch.Generator())
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


def _attack_of(state: dict[str, Tensor], experiment: Experiment, store: Store, root: Path) -> tuple[Patterns, Poison]:
    """The trigger and the poison of a stored victim, once it is sure that they belong to these data. Raises _NoAttackError
    where they are none."""
    lacking = {"data", "seconds", "poisoned", "cover"} - state.keys()
    if lacking:
        raise _NoAttackError(f"has no {min(lacking)}")
    if state["data"].dtype != torch.uint8 or state["data"].shape != (32,) or state["seconds"].numel() != 1:
        raise _NoAttackError("does not say of which data it is")
    digest = bytes(state["data"].tolist()).hex()
    check_same(f"the victim {experiment.victim_key()}", digest, experiment.task.data, store, root)
    patterns = {n.removeprefix("patterns."): t for n, t in state.items() if n.startswith("patterns.")}
    try:
        harm = Poison.unpack(state, load(experiment.task.data, root).train, experiment.attack, patterns)
    except ValueError as error:
        raise _NoAttackError(str(error)) from None
    return patterns, harm


ERROR = 20_000
"""Characters of a reason in a row."""
LOOKED_AT = 2000
"""Test samples on which a model on the way of a defense is judged: evenly spaced test samples."""


PART = 2000
"""Samples stamped at a time: a multiple of the batches of a prediction, so that these stay what they are all at once."""


class Evaluation(NamedTuple):
    """The scores of a model, and how many chances the attacker had."""

    scores: Scores
    tries: int


def evaluate(
    model: nn.Module, experiment: Experiment, patterns: Patterns, splits: Splits, at_most: int | None = None
) -> Evaluation:
    """A model on the test set, clean and triggered: the same samples, stamped the same way, before and after a defense."""
    task, attack, test = experiment.task, experiment.attack, splits.test
    if at_most is not None and len(test) > at_most:
        test = test.take(torch.linspace(0, len(test) - 1, at_most, dtype=torch.float64).round().long())
    clean, own = task.predict(model, test), attack.already(test)
    attacked = test.take(attack.attackable(test))
    said, hits, tries, drawn = [], 0, 0, seed_of(experiment.seed, "test")
    for part in parts(torch.arange(len(attacked)), PART):
        triggered = attack.stamp(attacked.take(part), patterns, drawn)
        said.append(task.predict(model, triggered.samples))
        chances = attack.success(said[-1], triggered)
        hits, tries = hits + int(chances.hits.sum()), tries + int(chances.tries.sum())
    scores = Scores(
        utility=task.score(clean, test.targets),
        asr=hits / tries if tries else float("nan"),
        recovery=task.score(joined(said), attacked.targets),
        target_utility=float("nan") if own is None else task.score(take(clean, own), take(test.targets, own)),
    )
    return Evaluation(scores, tries)


def run(
    experiment: Experiment,
    store: Store,
    root: Path,
    sweep: str = "runs",
    progress: Progress = unwatched,
    again: bool = False,
    proxies: Sequence[str | Config] = (),
) -> Row:
    """The row of an experiment: the stored one, unless `again` or it lacks one of the `proxies`, or made now and stored. A row
    that is made anew has the proxies that it had, too.

    A pair that makes no sense is a row with status skipped. A proxy that does not fit or raises is null in a row that is kept,
    with a warning. Anything else that raises leaves a row with status failed and is raised on, but for what the store refuses,
    and for a stored row or victim that was made from other data (Refused): that is no fault of the experiment.
    """
    wanted = {proxy.label(): proxy for proxy in map(Proxy.of, proxies)}
    found = store.row(experiment.key())
    if found is not None and found["status"] == "done":
        check_same(f"the row {experiment.key()}", found["data_digest"] or "", experiment.task.data, store, root)
    had = json.loads((found or {}).get("proxies") or "{}")
    whole = found is not None and (found["status"] == "skipped" or wanted.keys() <= had.keys())
    if found is not None and whole and found["status"] not in ("failed", "lost") and not again:
        return of_record(found)
    for label in had.keys() - wanted.keys():
        with contextlib.suppress(BadInput):  # a proxy that is no more
            wanted[label] = Proxy.labelled(label)
    try:
        row = _run(experiment, store, root, sweep, progress, [wanted[label] for label in sorted(wanted)])
    except Incompatible as reason:
        row = unfinished_row(experiment, sweep, "skipped", str(reason))
    except Refused:  # no fault of the experiment, and a row would be refused, too
        raise
    except Exception as error:
        if found is None or found["status"] != "done":  # a failed repetition does not undo what was shown once
            store.put_row(unfinished_row(experiment, sweep, "failed", f"{type(error).__name__}: {error}"))
        raise
    store.put_row(row)
    return row


def _run(
    experiment: Experiment, store: Store, root: Path, sweep: str, progress: Progress, proxies: Sequence[Proxy] = ()
) -> Row:
    experiment.check()
    task, defense = experiment.task, experiment.defense
    splits = load(task.data, root)
    defense.check(splits)  # once more: a launch has not seen every setting that a search draws
    defense.check_model(task, splits)
    victim = _victim(experiment, store, root, progress)
    evidence, mine = collect(experiment, victim, splits)
    curve, looked = _Curve(experiment.key(), "defense", progress), _Curve(experiment.key(), "truth", unwatched)
    truth = truth_of(experiment, victim.poison, splits)
    look = Look(truth, lambda model: evaluate(model, experiment, victim.patterns, splits, LOOKED_AT).scores, looked)
    kept = Kept(store, experiment.victim_key(), defense.name, evidence)
    # Closures: `look` has the truth in a field, `kept` the store, in which the attack is.
    evidence = evidence._replace(show=lambda *what, **named: look(*what, **named))
    if "train" in defense.needs:
        evidence = evidence._replace(keep=lambda what: kept(what))
    reset_peak_memory()
    started = time.perf_counter()
    draw = rng(experiment.seed, "defense", defense.seed)
    with named(f"the defense {defense.name!r}"):
        defended = defense.defend(evidence, task, draw, curve)
        check_finite(defended.model, "it", "change its settings")
    seconds = time.perf_counter() - started - look.seconds + kept.seconds
    memory = peak_memory()
    with named(f"the defense {defense.name!r}"):
        after = evaluate(defended.model, experiment, victim.patterns, splits)
    held = Held(task, splits, mine, experiment.victim_key(), experiment.seed, store)
    held_after, held_before = held.utility(defended.model), held.utility_before(victim.model)
    fall = deepest_fall(held_before, held_after)
    if curve.points or looked.points:
        store.put_table("curves", experiment.key(), pa.concat_tables([curve.table(), looked.table()]))
    for kind, table in defended.tables.items():
        store.put_table(kind, experiment.key(), truth.marked(table))
    if defended.flagged is not None:
        store.put_table("flags", experiment.key(), truth.by_class(defended.flagged))
    rates = truth.rates(defended.flagged)
    agreed = agreement(task, defended, evidence.train)
    return _row(
        experiment,
        sweep,
        status="done",
        **{f"{name}_before": value for name, value in vars(victim.scores).items()},
        **{f"{name}_after": value for name, value in vars(after.scores).items()},
        held_utility_after=held_after.whole,
        held_utility_before=held_before.whole,
        worst_class_held_before=fall.before,
        worst_class_held_after=fall.after,
        worst_class_held_tests=fall.tests,
        proxies=held.proxies(proxies, victim.model, defended.model),
        flag_recall=rates.recall,
        false_alarm=rates.alarm,
        target_false_alarm=rates.target_alarm,
        kept_agreement=agreed.kept,
        flagged_agreement=agreed.flagged,
        separation=defended.separation,
        clean_tests=len(splits.test),
        triggered_tests=after.tries,
        clean_held=len(mine),
        clean_judged=int(held.rest().sum()),
        trained_on=len(splits.train),
        poisoned=len(victim.poison.poisoned),
        covered=len(victim.poison.cover),
        data_digest=fingerprint(task.data, root),
        victim_seconds=victim.seconds,
        seconds=seconds,
        peak_memory=memory,
    )


def collect(experiment: Experiment, victim: Backdoored, splits: Splits) -> tuple[Evidence, Tensor]:
    """What the defense needs and nothing else, and the positions in `held` of the clean samples that it got."""
    defense, needs = experiment.defense, experiment.defense.needs
    mine = torch.empty(0, dtype=torch.int64)
    if "clean" in needs:
        draw = rng(experiment.seed, "clean", defense.seed)
        mine = defense.draw(splits.held, len(splits.train), len(splits.classes), draw)
    evidence = Evidence(
        model=copy.deepcopy(victim.model) if "model" in needs else None,
        train=victim.poison.apply(splits.train) if "train" in needs else None,
        clean=splits.held.take(mine) if "clean" in needs else None,
        outline=experiment.task.outline(splits),
        training=experiment.training if "train" in needs else None,
        truth=truth_of(experiment, victim.poison, splits).poisoned if "truth" in needs else None,
    )
    return evidence, mine


def truth_of(experiment: Experiment, harm: Poison, splits: Splits) -> Truth:
    """What the attack did to each training sample."""
    poisoned, covered = torch.zeros(2, len(splits.train), dtype=torch.bool)
    poisoned[harm.poisoned] = True
    covered[harm.cover] = True
    seen = splits.train.having(targets=put(splits.train.targets, harm.poisoned, harm.planted.targets))
    return Truth(poisoned, covered, seen.labels, experiment.attack.already(seen))


class _Curve:
    """A report that also keeps what it is told."""

    def __init__(self, key: str, of: str, progress: Progress) -> None:
        self.key, self.of, self.progress = key, of, progress
        self.points: list[tuple[int, str, float]] = []

    def __call__(self, step: int, **metrics: float) -> None:
        self.points += [(step, name, float(value)) for name, value in metrics.items()]
        self.progress(self.of, step, **metrics)

    def table(self) -> pa.Table:
        rows = [{"key": self.key, "of": self.of, "step": s, "metric": m, "value": v} for s, m, v in self.points]
        return pa.Table.from_pylist(rows, CURVES)


def unfinished_row(experiment: Experiment, sweep: str, status: str, error: str) -> Row:
    """The row of an experiment that was skipped, failed or lost; of the reason what a row can hold, which is UTF-8."""
    text = shortened(error, ERROR).encode("utf-8", "backslashreplace").decode()
    return _row(experiment, sweep, status=status, error=text)


def _row(experiment: Experiment, sweep: str, **values: Any) -> Row:
    return Row(
        key=experiment.key(),
        setting=setting_of(experiment.identity()),
        victim=experiment.victim_key(),
        sweep=sweep,
        task=experiment.task.name,
        data=experiment.task.data.name,
        model=experiment.task.model.name,
        attack=experiment.attack.name,
        defense=experiment.defense.name,
        seed=experiment.seed,
        utility_name=experiment.task.utility,
        time=datetime.now(UTC),
        spec=json.dumps(experiment.config(), sort_keys=True),
        **{**provenance(), **values},
    )
