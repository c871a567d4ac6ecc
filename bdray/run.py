"""run(): one experiment in, one Row out, on one screen. Knows no Ray."""

import contextlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from bdray.bench import Bench
from bdray.defenses import Defended, Evidence
from bdray.evidence import Kept, collect
from bdray.experiment import Experiment
from bdray.judge.held import Held, deepest_fall
from bdray.judge.scores import LOOKED_AT, evaluate
from bdray.judge.truth import Look, Truth, agreement, truth_of
from bdray.layers.finite import check_finite, named
from bdray.memory import peak_memory, reset_peak_memory
from bdray.provenance import provenance
from bdray.proxies import Proxy
from bdray.seeds import rng, seed_of
from bdray.spec import BadInput, Config, Incompatible
from bdray.store.curve import Curve, Progress, unwatched
from bdray.store.refusal import Refused
from bdray.store.row import Row, measured, of_record, setting_of
from bdray.store.store import Store
from bdray.victim import Backdoored, kept_victim
from bdray.wording import shortened

ERROR = 20_000
"""Characters of a reason in a row."""


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
    bench = Bench(experiment, store, root)
    wanted = {proxy.label(): proxy for proxy in map(Proxy.of, proxies)}
    found = store.row(experiment.key())
    if found is not None and found["status"] == "done":
        bench.check_same(f"the row {experiment.key()}", found["data_digest"] or "")
    had = measured(found["proxies"] if found else None)
    whole = found is not None and (found["status"] == "skipped" or wanted.keys() <= had)
    if found is not None and whole and found["status"] not in ("failed", "lost") and not again:
        return of_record(found)
    for label in had - wanted.keys():
        with contextlib.suppress(BadInput):  # a proxy that is no more
            wanted[label] = Proxy.labelled(label)
    try:
        row = _run(bench, sweep, progress, [wanted[label] for label in sorted(wanted)])
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


def _run(bench: Bench, sweep: str, progress: Progress, proxies: Sequence[Proxy]) -> Row:
    experiment = bench.experiment
    experiment.check()
    experiment.defense.check(experiment.task, bench.outline, bench.splits)  # once more: a search draws settings on the way
    victim = kept_victim(bench, progress)
    outcome = _defend(bench, victim, progress)
    return _row(experiment, sweep, status="done", **_judge(bench, victim, outcome, proxies))


class _Outcome(NamedTuple):
    """A defense at its end."""

    defended: Defended
    evidence: Evidence
    given: torch.Tensor
    """Positions, in the held-out samples, of those that the defense got."""
    truth: Truth
    curves: list[Curve]
    seconds: float
    memory: int


def _defend(bench: Bench, victim: Backdoored, progress: Progress) -> _Outcome:
    """Run the defense on what it needs of the victim, and nothing else."""
    experiment, task, defense = bench.experiment, bench.experiment.task, bench.experiment.defense
    evidence, given = collect(bench, victim)
    curve, looked = Curve(experiment.key(), "defense", progress), Curve(experiment.key(), "truth")
    truth = truth_of(experiment, victim.poison, bench.splits)
    look = Look(truth, lambda model: evaluate(model, experiment, victim.patterns, bench.splits, LOOKED_AT).scores, looked)
    kept = Kept(bench.store, experiment.victim_key(), defense.name, evidence)
    # Closures: `look` has the truth in a field, `kept` the store, in which the attack is.
    evidence = evidence._replace(show=lambda *what, **named: look(*what, **named))
    if "train" in defense.needs:
        evidence = evidence._replace(keep=lambda what: kept(what))
    reset_peak_memory()
    started = time.perf_counter()
    torch.manual_seed(seed_of(experiment.seed, "dropout", defense.seed))  # for what layers draw themselves
    with named(f"the defense {defense.name!r}"):
        defended = defense.defend(evidence, task, rng(experiment.seed, "defense", defense.seed), curve)
        check_finite(defended.model, "it", "change its settings")
    seconds = time.perf_counter() - started - look.seconds + kept.seconds
    return _Outcome(defended, evidence, given, truth, [curve, looked], seconds, peak_memory())


def _judge(bench: Bench, victim: Backdoored, outcome: _Outcome, proxies: Sequence[Proxy]) -> dict[str, Any]:
    """The columns of a finished row; what figures need is stored."""
    experiment, task, splits, store = bench.experiment, bench.experiment.task, bench.splits, bench.store
    defended, truth = outcome.defended, outcome.truth
    with named(f"the defense {experiment.defense.name!r}"):
        after = evaluate(defended.model, experiment, victim.patterns, splits)
    held = Held(task, splits, outcome.given, experiment.victim_key(), experiment.seed, store)
    held_after, held_before = held.utility(defended.model), held.utility_before(victim.model)
    fall = deepest_fall(held_before, held_after)
    if any(curve.points for curve in outcome.curves):
        store.put_table("curves", experiment.key(), pa.concat_tables([curve.table() for curve in outcome.curves]))
    for kind, table in defended.tables.items():
        store.put_table(kind, experiment.key(), truth.marked(table))
    if defended.flagged is not None:
        store.put_table("flags", experiment.key(), truth.by_class(defended.flagged))
    rates = truth.rates(defended.flagged)
    agreed = agreement(task, defended, outcome.evidence.train)
    return {
        **{f"{name}_before": value for name, value in vars(victim.scores).items()},
        **{f"{name}_after": value for name, value in vars(after.scores).items()},
        "held_utility_after": held_after.whole,
        "held_utility_before": held_before.whole,
        "worst_class_held_before": fall.before,
        "worst_class_held_after": fall.after,
        "worst_class_held_tests": fall.tests,
        "proxies": held.proxies(proxies, victim.model, defended.model),
        "flag_recall": rates.recall,
        "false_alarm": rates.alarm,
        "target_false_alarm": rates.target_alarm,
        "kept_agreement": agreed.kept,
        "flagged_agreement": agreed.flagged,
        "separation": defended.separation,
        "clean_tests": len(splits.test),
        "triggered_tests": after.tries,
        "clean_held": len(outcome.given),
        "clean_judged": int(held.rest().sum()),
        "trained_on": len(splits.train),
        "poisoned": len(victim.poison.poisoned),
        "covered": len(victim.poison.cover),
        "data_digest": bench.digest,
        "victim_seconds": victim.seconds,
        "seconds": outcome.seconds,
        "peak_memory": outcome.memory,
    }


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
