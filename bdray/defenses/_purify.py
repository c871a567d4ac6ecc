"""What the defenses share that take points from a cloud before the model sees it."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bdray.clouds import gathered
from bdray.defenses import Defended, Defense, Evidence
from bdray.task import Task
from bdray.training import Report

PART = 32
"""Clouds at a time, since all distances within each are looked at."""


class Purifier(Defense):
    """The victim itself, which gets its clouds without their outliers. The model needs its number of points: a kept point
    stands twice in place of each that is removed, the kept ones in turn. A cloud of which none would be left is let be.
    Clouds are not scaled anew. Gradients flow through the points that are kept."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    modalities: ClassVar[frozenset[str]] = frozenset({"points"})
    because: ClassVar[str] = "it removes points that lie apart"

    @abstractmethod
    def keeps(self, gaps: Tensor) -> Tensor:
        """Which points stay, bool [N, P], of clouds whose distances are [N, P, P]."""
        raise NotImplementedError

    def defend(self, evidence: Evidence, task: Task, rng: torch.Generator, report: Report) -> Defended:
        model = evidence.model
        assert model is not None
        model.register_forward_pre_hook(self._before)  # the model's own names and weights stay what they are
        return Defended(model.eval())

    def _before(self, model: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.purified(given[0]), *given[1:])

    def purified(self, x: Tensor) -> Tensor:
        """The clouds [N, P, axes] with kept points in place of the others."""
        return torch.cat([gathered(part, self._places(part.detach())) for part in x.split(PART)])

    def _places(self, x: Tensor) -> Tensor:
        """Of each point [N, P] the position of the one that stands there."""
        kept = self.keeps(torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"))
        kept = kept | ~kept.any(1, keepdim=True)
        first = (~kept).to(torch.int8).argsort(dim=1, stable=True)  # the kept ones, then the others
        turn = ((~kept).cumsum(1) - 1).clamp(min=0) % kept.sum(1, keepdim=True)
        own = torch.arange(x.shape[1], device=x.device).expand_as(first)
        return torch.where(kept, own, first.gather(1, turn))
