"""Agreement: what a defender who holds nothing but the poisoned training set can tell of the model that he made from it, by the
labels of the samples that he kept and of those that he flagged."""

from typing import NamedTuple

import torch
from torch import Tensor

from bdray.defenses import Defended
from bdray.samples import Samples
from bdray.task import Task


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
