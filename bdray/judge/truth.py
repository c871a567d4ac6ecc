"""Truth: what a defense makes of the training samples, judged against what the attack did to them, which no defense sees; and
agreement, which a defender could measure, too: by the labels of the samples that he kept and of those that he flagged."""

import time
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor, nn

from bdray.attacks import Poison
from bdray.defenses import Defended
from bdray.experiment import Experiment
from bdray.samples import Samples, Splits, put
from bdray.store.row import Scores
from bdray.task import Task


class Rates(NamedTuple):
    """How well poison was flagged, every value 0 to 1, NaN where the defense never flags or there is no such sample."""

    recall: float = float("nan")
    """Flagged poisoned samples / poisoned samples."""
    alarm: float = float("nan")
    """Flagged clean samples / clean samples; cover samples are clean."""
    target_alarm: float = float("nan")
    """Flagged clean samples of the target class / clean samples of it."""


class Truth(NamedTuple):
    """What the attack did to each of N training samples."""

    poisoned: Tensor
    """Bool [N]."""
    covered: Tensor
    """Changed as the attack's cover samples are, with a true label, bool [N]."""
    labels: Tensor | None
    """As the defender sees them, int64 [N]; None where there are none."""
    own: Tensor | None
    """Whose targets, as the defender sees them, are what the attacker wants, bool [N]; None where there is no such kind."""

    def rates(self, flagged: Tensor | None) -> Rates:
        """Of the samples that a defense took for poison, bool [N]."""
        if flagged is None:
            return Rates()
        hits = flagged.cpu().double()
        mine = torch.zeros_like(self.poisoned) if self.own is None else ~self.poisoned & self.own
        return Rates(*(float(hits[where].mean()) for where in (self.poisoned, ~self.poisoned, mine)))

    def by_class(self, flagged: Tensor) -> pa.Table:
        """One line a label (null: all, where there are none): its poisoned and its clean samples, and how many of each were
        flagged."""
        hits, lines = flagged.cpu(), []
        groups: dict[int | None, Tensor] = {None: torch.ones_like(self.poisoned)}
        if self.labels is not None:
            groups = {label: self.labels == label for label in range(int(self.labels.max()) + 1)}
        for label, mine in groups.items():
            bad, good = mine & self.poisoned, mine & ~self.poisoned
            counts = {"poisoned": bad, "flagged_poisoned": bad & hits, "clean": good, "flagged_clean": good & hits}
            lines.append({"label": label, **{name: int(where.sum()) for name, where in counts.items()}})
        return pa.Table.from_pylist(lines)

    def marked(self, table: pa.Table) -> pa.Table:
        """A defense's table with what is true of each `sample` beside it; a table without that column as it is."""
        if "sample" not in table.column_names:
            return table
        samples = torch.tensor(table["sample"].to_pylist())
        for name, values in (("label", self.labels), ("truth_poisoned", self.poisoned), ("truth_covered", self.covered)):
            if values is not None:
                table = table.append_column(name, pa.array(values[samples].numpy()))
        return table


def truth_of(experiment: Experiment, harm: Poison, splits: Splits) -> Truth:
    """What the attack did to each training sample."""
    poisoned, covered = torch.zeros(2, len(splits.train), dtype=torch.bool)
    poisoned[harm.poisoned] = True
    covered[harm.cover] = True
    seen = splits.train.having(targets=put(splits.train.targets, harm.poisoned, harm.planted.targets))
    return Truth(poisoned, covered, seen.labels, experiment.attack.already(seen))


class Look:
    """A `Show`: puts what a defense shows of its work on the way into a curve of the truth, and counts the seconds it took."""

    def __init__(self, truth: Truth, judge: Callable[[nn.Module], Scores], tell: Callable[..., None]) -> None:
        self.truth, self.judge, self.tell, self.seconds = truth, judge, tell, 0.0

    def __call__(self, step: int, model: nn.Module | None = None, clean: Tensor | None = None) -> None:
        started = time.perf_counter()
        if model is not None:
            modes = [(module, module.training) for module in model.modules()]
            scores = self.judge(model)
            for module, mode in modes:
                module.training = mode
            self.tell(step, utility=scores.utility, asr=scores.asr, target_utility=scores.target_utility)
        if clean is not None:
            right = ~self.truth.poisoned & clean.cpu()
            counts = {"clean_precision": clean, "clean_recall": ~self.truth.poisoned}
            self.tell(step, **{name: float(right.sum() / of.sum()) for name, of in counts.items()})
        self.seconds += time.perf_counter() - started


class Agreement(NamedTuple):
    """Shares, 0 to 1; NaN where the defense never flags anything."""

    kept: float = float("nan")
    """Worst class: the share of its samples that were kept and are predicted as labelled. It is 0 for a filter
    that takes a whole class for poison, and for a model that lost one."""
    flagged: float = float("nan")
    """Flagged samples that the model predicts as labelled / flagged samples, both counted with one sample more for every
    hundred of the training set: a few flags prove nothing, and none at all leave 1. A backdoored model agrees with the labels
    of poison, a purified one contradicts them."""


def agreement(task: Task, defended: Defended, train: Samples | None) -> Agreement:
    """Of a defense with the training set as the defender got it, in eval mode, without augmentation."""
    if defended.flagged is None or train is None:
        return Agreement()
    return compare(task.correct(task.predict(defended.model, train), train.targets), train.labels, defended.flagged)


def compare(right: Tensor, labels: Tensor | None, flagged: Tensor) -> Agreement:
    """Of which samples are predicted as labelled, bool [N], their labels, int64 [N], or one group where there are none, and
    flags, bool [N]."""
    right, flagged = right.cpu(), flagged.cpu()
    labels = torch.zeros(len(right), dtype=torch.int64) if labels is None else labels.cpu()
    shares = [(right & ~flagged)[labels == label].double().mean() for label in labels.unique()]
    doubt = len(labels) / 100
    agreed = (float(right[flagged].sum()) + doubt) / (int(flagged.sum()) + doubt)
    return Agreement(kept=float(min(shares)), flagged=agreed)
