"""PCBA (Xiang, Miller, Chen, Li and Kesidis 2021, ICCV, arXiv 2104.05808): a cluster of points at an optimised place turns one
class into another."""

import math
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from bdray.attacks import Patterns, Setting
from bdray.attacks._clouds import ball, check_axes, check_points, inserted, surrogate
from bdray.attacks._source import FromSource
from bdray.models import Width
from bdray.samples import Draw, Samples, Splits, dense
from bdray.spec import Amount, Config, Count, Positive, Share

SPACING, TRIALS, RADII = 4, 30, [number / 100 for number in range(1, 50)]
"""Neighbours that say how dense points are; clusters tried at each radius."""
MOMENTUM, PATIENCE, UP, MOST, CONVERGED = 0.5, 5, 1.5, 1e3, 100
"""Of the search: the authors' defaults."""


class Pcba(FromSource):
    """Only samples of the source class are poisoned, and only they count towards the attack success rate. The place is
    searched on a PointNet of the attacker's own, with one point for the whole cluster: near to the objects of the source
    class, where the PointNet takes them for the target with at least `goal`. The cluster's points, on a sphere, are as dense
    as the objects are. Settings of the search are those of the authors' code.

    There the attacker holds 1,000 clouds that are not in the training set, and finds a radius for each cloud; here he holds
    the training set, and there is one cluster for all. Where no start comes to `goal`, the authors give up; here the place
    with the highest probability of the target is taken."""

    modalities: ClassVar[frozenset[str]] = frozenset({"points"})
    presets: ClassVar[dict[str, Config]] = {"authors": {"rate": 0.0015, "source": 8, "target": 35}}

    rate: Share = 0.05
    """Of all training samples. The authors poison 15 of ModelNet40's 9,843, and a class is but a fortieth of them."""
    points: Count = 32
    """Points of the cluster; as many of the object's go."""
    goal: Share = 0.01
    """The least mean probability of the target."""
    starts: Count = 10
    steps: Count = 1000
    """Of the search, at most; a start that has not come to `goal` after a tenth of them is given up."""
    step: Positive = 0.1
    """Size of a step; the cloud's radius is 1."""
    batch: Count = 28
    """Clouds of the source class that a step looks at."""
    surrogate_width: Width = 16
    """Of the attacker's PointNet; 64 as published, the default is narrow, for a CPU."""
    surrogate_epochs: Amount = 0
    """0: as many as the victim's."""

    def check(self, splits: Splits) -> None:
        super().check(splits)
        check_axes(self.name, splits)
        check_points("pcba.points", self.points, splits)

    def coverable(self, samples: Samples) -> Tensor:
        return samples.targets != self.source

    def patterns(self, setting: Setting) -> Patterns:
        train = setting.splits.train
        mine = dense(train.take(train.targets == self.source).inputs)
        assert isinstance(mine, Tensor)
        if not self.rate or not len(mine):  # nothing is planted
            return {"cluster": ball((1.0, 0.0, 0.0), RADII[0], self.points, setting.rng)}
        model = surrogate(setting, self.surrogate_width, self.surrogate_epochs)
        centre = self.place(model, mine, setting.rng)
        return {"cluster": centre + self.dense(mine, setting.rng)}

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        return inserted(x, patterns["cluster"], draw)

    def place(self, model: Any, clouds: Tensor, rng: torch.Generator) -> Tensor:
        """The place [3] near to these clouds where one more point makes a PointNet, held still, see the target."""
        device = next(iter(model.buffers())).device
        clouds = clouds.to(device)
        pooled = torch.cat([model.points(part.transpose(1, 2)).amax(2) for part in clouds.split(64)])
        centres = self._outside(rng).to(device)
        search = _Search.begin(centres, self.goal)
        for step in range(self.steps):
            some = torch.randperm(len(clouds), generator=rng)[: self.batch].to(device)
            centres = search.centres.clone().requires_grad_()
            logits = self._logits(model, pooled[some], centres)
            sure = logits.softmax(2)[..., self.target].mean(1)
            gap = (clouds[some][None] - centres[:, None, None]).square().sum(3).amin(2).mean(1)
            reached = search.reached | (sure.detach() > self.goal)
            goal = torch.full(logits.shape[:2], self.target, device=device)
            loss = F.cross_entropy(logits.flatten(0, 1), goal.flatten(), reduction="none").view(goal.shape).mean(1)
            (grad,) = torch.autograd.grad((loss + torch.where(reached, search.cost, 0.0) * gap).sum(), centres)
            search = search.moved(grad, self.step, sure.detach(), gap.detach(), reached)
            if step + 1 >= self.steps // 10:
                search = search._replace(ended=search.ended | ~search.reached)
            if search.ended.all():
                break
        return search.found().cpu()

    def _outside(self, rng: torch.Generator) -> Tensor:
        """Starts [starts, 3]: normal draws outside the sphere that holds the clouds."""
        found: list[Tensor] = []
        while len(found) < self.starts:
            at = 0.5 * torch.randn(3, generator=rng)
            if at.norm() > 1:
                found.append(at)
        return torch.stack(found)

    def _logits(self, model: Any, pooled: Tensor, centres: Tensor) -> Tensor:
        """[starts, clouds, classes]: a PointNet takes the maximum over points, so that the clouds need pass it only once."""
        seen = model.points(centres[:, :, None]).amax(2)
        both = torch.maximum(pooled[None], seen[:, None])
        return model.head(both.flatten(0, 1)).view(*both.shape[:2], -1)

    def dense(self, clouds: Tensor, rng: torch.Generator) -> Tensor:
        """The points [points, 3] on a sphere around the origin that are as far from each other as these clouds' points are:
        of all tried the ones whose distances to their neighbours lie nearest to the clouds' median."""
        median = torch.cat([_spacing(part) for part in clouds.split(32)]).median()
        best, least = torch.zeros(0), math.inf
        for radius in RADII:
            tried = torch.stack([ball((0.0, 0.0, 0.0), radius, self.points, rng) for _ in range(TRIALS)])
            off = (_spacing(tried) - median).abs().median(1).values
            if float(off.min()) < least:
                best, least = tried[int(off.argmin())], float(off.min())
        return best


def _spacing(x: Tensor) -> Tensor:
    """Of each point of each cloud [N, P] the mean distance to its next few."""
    near = min(SPACING, x.shape[1] - 1)
    apart = (x[:, :, None] - x[:, None]).norm(dim=3) if x.shape[1] < 64 else torch.cdist(x, x)
    return apart.topk(near + 1, 2, largest=False).values.sum(2) / max(1, near)


class _Search(NamedTuple):
    """All starts of a search side by side, one value each."""

    centres: Tensor
    velocity: Tensor
    cost: Tensor
    """What the distance to the clouds counts."""
    high: Tensor
    """Steps in a row at which the goal was reached."""
    low: Tensor
    reached: Tensor
    ended: Tensor
    since: Tensor
    """Steps since the last better place."""
    best: Tensor
    gap: Tensor
    """Of the best place; infinite where there is none."""
    sure: Tensor
    """The highest probability of the target, and where that was."""
    surest: Tensor
    goal: float

    @classmethod
    def begin(cls, centres: Tensor, goal: float) -> Self:
        zeros, places = torch.zeros(len(centres), device=centres.device), centres
        never, far = zeros.bool(), zeros + math.inf
        return cls(places, 0 * places, zeros + 1, zeros, zeros, never, never, zeros, places, far, zeros - 1, places, goal)

    def moved(self, grad: Tensor, step: float, sure: Tensor, gap: Tensor, reached: Tensor) -> Self:
        """After one step, for what was seen at the places before it."""
        goes = ~self.ended
        surer = goes & (sure > self.sure)
        met = goes & (sure >= self.goal)
        better = met & reached & (gap < self.gap)
        high = torch.where(met, self.high + 1, 0.0)
        low = torch.where(met, 0.0, self.low + 1)
        up = reached & (high >= PATIENCE) & (self.cost <= MOST)
        down = reached & ~up & (low >= PATIENCE)
        since = torch.where(better | ~reached, 0.0, self.since + 1)
        norm = grad.norm(dim=1, keepdim=True).clamp(min=1e-12)
        velocity = (1 - MOMENTUM) * grad / norm + MOMENTUM * self.velocity
        return self._replace(
            centres=torch.where(goes[:, None], self.centres - step * velocity, self.centres),
            velocity=velocity,
            cost=torch.where(up, self.cost * UP, torch.where(down, self.cost / UP, self.cost)),
            high=torch.where(up | ~reached, 0.0, high),
            low=torch.where(down | ~reached, 0.0, low),
            reached=reached,
            ended=self.ended | (since >= CONVERGED),
            since=since,
            best=torch.where(better[:, None], self.centres, self.best),
            gap=torch.where(better, gap, self.gap),
            sure=torch.where(surer, sure, self.sure),
            surest=torch.where(surer[:, None], self.centres, self.surest),
        )

    def found(self) -> Tensor:
        """The nearest place that reaches the goal, or where the target is the surest."""
        if self.gap.isinf().all():
            return self.surest[int(self.sure.argmax())]
        return self.best[int(self.gap.argmin())]
