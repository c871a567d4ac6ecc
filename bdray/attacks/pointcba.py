"""PointCBA (Li et al. 2021, "PointBA", ICCV, arXiv 2103.16074), clean label: clouds of the target class are turned until their
features are another class's, then get a small ball of points; labels stay true."""

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._clouds import ball, check_axes, check_points, inserted, surrogate
from bdray.clouds import rotation, turned
from bdray.layers.features import features
from bdray.models import Width
from bdray.samples import Draw, Samples, Splits, dense, draws
from bdray.spec import Amount, BadInput, Count, Positive, Several, Share

PART = 64
Turn = Annotated[float, Field(ge=0, le=180)]


class PointCba(ToClass):
    """The code was never published. The paper's idea is feature disentanglement: a target cloud whose features no longer say
    its class, while a person still sees it, leaves nothing but the trigger to learn the label from. The rest is ours: the
    features are what enters the last layer of a PointNet that the attacker trains on the training set; each poisoned cloud
    is turned about x, y and z towards the features of a cloud of another class, drawn for each, from the best of some drawn
    angles on, by normalised gradient steps. At test time only the ball is inserted, which is PointPBA-I's."""

    modalities: ClassVar[frozenset[str]] = frozenset({"points"})
    clean_label: ClassVar[bool] = True

    rate: Share = 0.05
    """Of all training samples. ModelNet40's largest class has room for 0.09."""
    points: Count = 32
    """Points of the ball; as many of the object's go."""
    radius: Positive = 0.05
    centre: Several[float] = (0.5, 0.5, 0.5)
    """In the unit sphere that holds each cloud."""
    degrees: Turn = 90.0
    """The most that a poisoned cloud is turned about each axis, either way; 0 leaves it as it is."""
    starts: Count = 8
    """Angles drawn for each cloud, of which the best is the first."""
    steps: Amount = 20
    """Gradient steps from there."""
    step: Positive = 5.0
    """Their size in degrees."""
    surrogate_width: Width = 16
    """Of the attacker's PointNet; 64 as published, the default is narrow, for a CPU."""
    surrogate_epochs: Amount = 0
    """0: as many as the victim's."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        check_axes(self.name, splits)
        check_points("pointcba.points", self.points, splits)
        if len(self.centre) != 3:
            raise BadInput(f"pointcba.centre: got {len(self.centre)} numbers, expected 3")

    def patterns(self, setting: Setting) -> Patterns:
        return {"ball": ball(self.centre, self.radius, self.points, setting.rng)}

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return inserted(x, patterns["ball"], draw)

    def planted(self, x: Tensor, patterns: Patterns, samples: Samples, setting: Setting) -> Tensor:
        train = setting.splits.train
        others = train.take(train.targets != self.target)
        if self.degrees and len(x) and len(others):
            model = surrogate(setting, self.surrogate_width, self.surrogate_epochs)
            order = torch.randint(len(others), (len(x),), generator=setting.rng)
            goals = dense(others.take(order).inputs)
            assert isinstance(goals, Tensor)
            angles = self.disentangled(model, x, goals, setting.rng)
            x = turned(x.double(), rotation(angles.double().to(x.device))).to(x.dtype)
        return self.trigger(x, patterns, draws(setting.seed, "plant", samples.at))

    def disentangled(self, model: nn.Module, x: Tensor, others: Tensor, rng: torch.Generator) -> Tensor:
        """Angles [N, 3] in radians that bring the features of each cloud nearest to those of its other."""
        most, device = math.radians(self.degrees), next(iter(model.buffers())).device
        drawn = most * (2 * torch.rand(self.starts, len(x), 3, generator=rng) - 1)
        found = []
        for part, other, starts in zip(x.split(PART), others.split(PART), drawn.split(PART, 1), strict=True):
            part, goal = part.to(device), features(model, other.to(device)).detach()
            best, least = starts[0].to(device), torch.full((len(part),), math.inf, device=device)
            for start in starts.to(device):
                best, least = _better(best, least, start, _gap(model, part, start, goal))
            angles = best
            for _ in range(self.steps):
                angles = angles.detach().requires_grad_()
                gap = _gap(model, part, angles, goal)
                (grad,) = torch.autograd.grad(gap.sum(), angles)
                best, least = _better(best, least, angles.detach(), gap.detach())
                norm = grad.norm(dim=1, keepdim=True).clamp(min=1e-12)
                angles = (angles - math.radians(self.step) * grad / norm).clamp(-most, most)
            best, _ = _better(best, least, angles.detach(), _gap(model, part, angles.detach(), goal))
            found.append(best.cpu())
        return torch.cat(found)


def _gap(model: nn.Module, x: Tensor, angles: Tensor, goal: Tensor) -> Tensor:
    """How far the features of turned clouds are from the goal, squared, [N]."""
    return (features(model, turned(x, rotation(angles))) - goal).square().sum(1)


def _better(best: Tensor, least: Tensor, angles: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """Of each cloud the better angles of two, and what they reach."""
    return torch.where((gap < least)[:, None], angles, best), torch.minimum(gap, least)
