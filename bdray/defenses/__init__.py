"""Defense: what a defender holds, and what he makes of it; every other module here is one defense."""

import functools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor, nn

from bdray.samples import Outline, Samples, Splits
from bdray.spec import Amount, BadInput, Config, Incompatible, Seed, Share, Spec
from bdray.task import Task
from bdray.training import Checkpoint, Report, Training

Show = Callable[..., None]
"""`show(step, model=None, clean=None)`: lets the platform judge, against the truth, a model on the way or the training samples
taken for clean so far (bool [N]). Nothing comes back: the curves that come of it are marked as the truth's."""


def unseen(step: int, model: nn.Module | None = None, clean: Tensor | None = None) -> None:
    """A show that nobody sees."""


Keep = Callable[[Config], Checkpoint | None]
"""`keep(what)`: where the epochs of a training on the whole training set are kept. `what` says all that tells it from others on
this victim; another setting of the defense that asks for the same finds it done."""


def unkept(what: Config) -> None:
    """A keep that keeps nothing."""


class Evidence(NamedTuple):
    """What the defender holds. What his defense does not need is None, so it cannot peek by accident."""

    model: nn.Module | None = None
    """A private copy of the victim."""
    train: Samples | None = None
    """The training set as the victim got it, poison included."""
    clean: Samples | None = None
    """Clean samples that the victim never saw."""
    outline: Outline | None = None
    """For building a fresh model."""
    training: Training | None = None
    """The recipe that goes with `train`."""
    truth: Tensor | None = None
    """Which training samples are poisoned, bool [N]: for the sanity bounds alone, no defender has it."""
    show: Show = unseen
    keep: Keep = unkept


@dataclass
class Defended:
    """What comes out: a model, which training samples were taken for poison, and tables that figures need."""

    model: nn.Module
    flagged: Tensor | None = None
    tables: dict[str, pa.Table] = field(default_factory=dict)
    separation: float = float("nan")
    """How far what a filter takes for poison lies apart from the rest, 0 to 1, as the defender sees it; NaN where it has no
    measure of that."""


class Defense(Spec):
    """Defaults are those of the authors' code."""

    folder: ClassVar[str] = "bdray.defenses"
    kind: ClassVar[str] = "defense"
    needs: ClassVar[frozenset[str]]
    """Of "model", "train", "clean", and for the sanity bounds "truth": the threat model in one line."""
    modalities: ClassVar[frozenset[str]] = frozenset()
    """Empty: all of them."""
    spaces: ClassVar[frozenset[str]] = frozenset()
    """Which kinds of `Task.space` it moves inputs in; empty: it moves none."""
    because: ClassVar[str] = ""
    """Why it is for these modalities or spaces alone: what it does that has no meaning elsewhere."""
    flags: ClassVar[bool] = False
    """It says which training samples it takes for poison."""

    clean: Share = 0.01
    """Clean samples the defender holds / training samples."""
    shots: Amount = 0
    """Clean samples per class instead of a share, balanced over the classes; 1 is one-shot, 0 leaves it to `clean`."""
    seed: Seed = 0

    @abstractmethod
    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        """Purify or retrain. May change `evidence.model` in place: it is a private copy."""
        raise NotImplementedError

    def check(self, task: Task, outline: Outline, splits: Splits) -> None:
        """Raise, before anything is trained, BadInput for too few samples of a kind, and Incompatible for a model that this
        defense cannot work on."""
        if "clean" in self.needs:
            self.draw(splits.held, len(splits.train), len(splits.classes), torch.Generator().manual_seed(0))
        if type(self).fits is not Defense.fits:
            self.fits(_fresh(task, outline), task)

    def fits(self, model: nn.Module, task: Task) -> None:
        """Raise Incompatible for a model that this defense cannot work on; must not change it."""

    def draw(self, held: Samples, train: int, classes: int, rng: torch.Generator) -> Tensor:
        """Positions in `held` of the clean samples that this defender gets, ascending.

        Raises BadInput where `held` has too few.
        """
        order = torch.randperm(len(held), generator=rng)
        if self.shots:
            if held.labels is None:
                raise Incompatible(
                    f"{self.name}.shots: got {self.shots}, but these samples have no classes to be counted by; set "
                    f"{self.name}.clean instead"
                )
            mine = [order[held.labels[order] == c][: self.shots] for c in range(classes)]
            short = [c for c, positions in enumerate(mine) if len(positions) < self.shots]
            if short:
                raise BadInput(
                    f"{self.name}.shots: got {self.shots}, but class {short[0]} has only {len(mine[short[0]])} held-out "
                    "clean samples; lower it, or raise task.data.held"
                )
            return torch.cat(mine).sort().values
        wanted = round(self.clean * train)
        if not 2 <= wanted <= len(held):
            raise BadInput(
                f"{self.name}.clean: got {self.clean}, that is {wanted} of {train} training samples, expected 2 to the "
                f"{len(held)} clean ones held out; change it, or task.data.held"
            )
        return order[:wanted].sort().values


@functools.lru_cache(maxsize=8)
def _fresh(task: Task, outline: Outline) -> nn.Module:
    """A fresh model of a task, to look at, never to change."""
    return task.build(outline, torch.Generator())
