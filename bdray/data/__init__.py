"""Data: the contract of a data set. It reads its own published on-disk layout; every other module here is one data set.

`read` returns the published training and test samples, in the published order, or raises `BadInput` with one sentence
that names the folder or file, what was expected there and where the data set is published.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, NoReturn

import torch
from torch import Tensor

from bdray.samples import Lines, Rows, Samples, Splits
from bdray.seeds import rng
from bdray.spec import Amount, BadInput, Config, Share, Spec, check_some


class Published(NamedTuple):
    """A data set as published."""

    train: Samples
    test: Samples
    classes: Sequence[str]
    units: Tensor | None = None
    """Which unit of the data set (`Data.unit`) each training sample belongs to, int64 [N]; None where each is one by itself."""


class Data(Spec):
    """A data set. Sizes are numbers of samples; 0 means all of them."""

    folder: ClassVar[str] = "bdray.data"
    kind: ClassVar[str] = "data set"
    modality: ClassVar[str]
    home: ClassVar[str]
    """Where it is published."""
    layout: ClassVar[str]
    """What is expected below the data folder, in a few words."""

    unit: ClassVar[str] = "a sample"
    """What is independent of all else in it, as far as is published: samples of one unit (the frames of a track, the drawings
    of a person) are alike, so that `held` takes whole ones."""

    suited_model: ClassVar[Config] = {}
    """The model of an experiment that names none; empty: its task's default."""

    held: Share = 0.1
    """Share of the published training samples that the victim never sees and the defender may hold; as near to it as whole
    units come."""
    limit: Amount = 0
    """Training samples used, before `held` is taken off; drawn once, the same for every seed."""
    test_limit: Amount = 0

    @abstractmethod
    def read(self, root: Path) -> Published:
        """Everything that was published, from the data folder `root`."""
        raise NotImplementedError

    def splits(self, root: Path) -> Splits:
        """The same splits on every machine and for every seed, so that before and after use the same samples."""
        train, test, classes, units = published = self.read(root)
        self._check(published)
        test = Samples(test.inputs, test.targets, len(train) + torch.arange(len(test)))
        order = torch.randperm(len(train), generator=rng(0, "split", self.name))
        order = order[: self.limit or None]
        check_some(f"{self.name}.held", self.held, len(order), "holds out")
        held = round(self.held * len(order))
        if held >= len(order):
            raise BadInput(f"{self.name}.held: got {self.held}, which leaves 0 of {len(order)} samples to train on; lower it")
        chosen = torch.randperm(len(test), generator=rng(0, "test", self.name))[: self.test_limit or None].sort().values
        if units is None:
            mine = torch.arange(len(order)) < held
        else:
            labels = torch.zeros(len(train), dtype=torch.int64) if train.labels is None else train.labels
            mine = whole_units(units[order], labels[order], self.held, rng(0, "units", self.name))
        return Splits(train.take(order[~mine]), train.take(order[mine]), test.take(chosen), classes)

    def _check(self, published: Published) -> None:
        """Raise BadInput for what a reader must not give: some of it would end in scores, of the wrong samples."""
        for part, samples in (("training", published.train), ("test", published.test)):
            for column in (samples.inputs, samples.targets):
                if not isinstance(column, Tensor | Rows | Lines):
                    raise BadInput(f"{self.name}: its {part} samples are of {type(column).__name__}, expected tensors or Rows")
            if len(samples.inputs) != len(samples.targets):
                raise BadInput(
                    f"{self.name}: got {len(samples.inputs)} inputs and {len(samples.targets)} targets of its {part} samples, "
                    "expected as many"
                )
            if (labels := samples.labels) is not None and len(labels):
                first, last, most = int(labels.min()), int(labels.max()), len(published.classes) - 1
                if labels.dtype != torch.int64 or first < 0 or last > most:
                    raise BadInput(
                        f"{self.name}: the classes of its {part} samples are {labels.dtype} from {first} to {last}, expected "
                        f"torch.int64 from 0 to {most}"
                    )

    def missing(self, folder: Path, problem: str = "is not there") -> NoReturn:
        """Raise the sentence for data that cannot be read."""
        raise BadInput(
            f"{self.name}: {folder} {problem}; expected {self.layout} below the data folder (--data or BDRAY_DATA), "
            f"as published at {self.home}"
        )


def whole_units(units: Tensor, labels: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """A share of the samples, bool [N], as near to it as whole units come; units and labels int64 [N]. Where no unit has
    samples of two labels it is that share of every label: at least one unit of each that has two, and never the last one."""
    _, unit, sizes = units.unique(return_inverse=True, return_counts=True)
    label = torch.empty_like(sizes).scatter_(0, unit, labels)
    if not torch.equal(label[unit], labels):
        label = torch.zeros_like(sizes)
    turn, chosen = torch.randperm(len(sizes), generator=draw), torch.zeros(len(sizes), dtype=torch.bool)
    for each in label.unique() if share else ():
        those = turn[label[turn] == each]
        sums = torch.cat([torch.zeros(1, dtype=torch.int64), sizes[those].cumsum(0)])
        count = int((sums - share * sums[-1]).abs().argmin())
        chosen[those[: min(max(count, 1), len(those) - 1)]] = True
    return chosen[unit]
