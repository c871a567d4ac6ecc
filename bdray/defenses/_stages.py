"""Defenses that train in several stages on the training set alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bdray.defenses import Keep, unkept
from bdray.layers.finite import named
from bdray.samples import Samples
from bdray.spec import BadInput
from bdray.task import Batch, Task
from bdray.training import Report, Training, fit


class Stages:
    """Trainings that follow one another: each has a seed and an optimizer of its own, their epochs are counted as one
    sequence, and what a stage reports has its name in front."""

    def __init__(self, task: Task, rng: torch.Generator, report: Report) -> None:
        self.task, self.rng, self.report, self.epochs = task, rng, report, 0

    def fit(
        self,
        stage: str,
        model: nn.Module,
        samples: Samples,
        training: Training,
        loss: Callable[[nn.Module, Batch], Tensor] | None = None,
        keep: Keep = unkept,
    ) -> nn.Module:
        """As `bdray.training.fit`, its epochs kept where `keep` says. Raises FloatingPointError, with the stage's name, when
        the loss or a weight is no longer finite: ascent has no bottom."""
        seed = int(torch.randint(2**62, (1,), generator=self.rng))
        kept = keep({"stage": stage, "training": training.identity(), "seed": seed})
        with named(f"the stage {stage!r}"):
            return fit(model, samples, self.task, training, seed, self.told(stage, training.epochs), kept, loss=loss)

    def told(self, stage: str, epochs: int) -> Report:
        """The report of a stage of so many epochs."""
        before = self.epochs
        self.epochs += epochs

        def tell(step: int, **metrics: float) -> None:
            self.report(before + step, **{f"{stage}_{name}": value for name, value in metrics.items()})

        return tell


def portion(field: str, share: float, samples: int, cut: bool = False) -> int:
    """How many of the samples a share of them is, rounded or with its fraction cut off. Raises BadInput unless it is at least
    the 2 of a batch and leaves 2."""
    count = int(samples * share) if cut else round(share * samples)
    if not 2 <= count <= samples - 2:
        raise BadInput(
            f"{field}: got {share:g}, that is {count} of {samples} training samples, expected 2 to {samples - 2}; change it"
        )
    return count
