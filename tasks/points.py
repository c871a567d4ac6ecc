"""Point cloud classification. Try: bdray run task=points attack=pointpba_i defense=fine_tuning defense.clean=0.1"""

from typing import Annotated, ClassVar, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bdray.clouds import gathered
from bdray.data import Data
from bdray.models import Model
from bdray.samples import Outline, Samples
from bdray.seeds import rng as named_rng
from bdray.spec import Amount, Config, Later, member
from bdray.task import Batch
from bdray.tasks._classes import Classification

MOST_DROPPED, SCALES, SHIFT = 0.875, (0.8, 1.25), 0.1
PASSES = 8
"""Of the assignment in parts: each costs as much, and the first few gain the most."""


class Points(Classification):
    """Top-1 accuracy. Where no model is named, it is the one that suits the data set."""

    modality: ClassVar[str] = "points"
    space: ClassVar[Literal["", "pixels", "points", "words"]] = "points"
    suited: ClassVar[dict[str, Config]] = {
        "attack": {"name": "pointpba_i", "rate": 0.2},
        "training": {
            "epochs": 30,
            "batch": 16,
            "lr": 0.003,
            "optimizer": "adamw",
            "weight_decay": 0.01,
            "schedule": "onecycle",
            "augment": False,
        },
        "defense": {"name": "nft", "clean": 0.1, "steps": 100, "batch": 32},
    }

    data: Data = member("solids")
    model: Model = member("pointnet")
    mixup: Literal["pointmixup", "union", "rsmix"] = "pointmixup"
    """How a defense mixes two clouds: PointMixup (Chen et al. 2020, arXiv 2008.06374), in which each point goes a part of
    the way to the point of the other cloud that the best assignment gives it; some points of each; or RSMix (Lee et al. 2021,
    arXiv 2102.01929), in which the neighbours of a point give way to those of a point of the other cloud, moved there as
    they are. Of RSMix's two kinds it is the one that counts neighbours, so that clouds keep their number of points."""
    mix_points: Annotated[Amount, Later(0)] = 0
    """0: PointMixup's assignment is the best one, whose cost grows with the cube of the points. Else it is searched in parts
    of so many points, which lie beside each other and are chosen anew several times: of 1,024 points with 64 it takes an
    eighth of the time, and points go 1.8 % farther (mean of 32 pairs of solids; of the worst pair 6 %); of 2,048 a thirtieth,
    and of 256 no less."""

    def example(self, outline: Outline) -> Samples:
        """A cloud on a line, which no norm divides by 0."""
        count, axes = outline.shape
        return Samples(torch.linspace(-1, 1, count)[None, :, None].expand(1, count, axes), torch.zeros(1, dtype=torch.int64))

    def augment(self, samples: Samples, rng: torch.Generator) -> Samples:
        """As the field trains PointNet on ModelNet: up to 7/8 of the points dropped (they become the first one), then
        scaled along each axis by 0.8 to 1.25, then shifted by up to 0.1."""
        x = samples.inputs
        n, count, axes = x.shape
        dropped = torch.rand(n, count, generator=rng) < MOST_DROPPED * torch.rand(n, 1, generator=rng)
        low, high = SCALES
        scale = low + (high - low) * torch.rand(n, 1, axes, generator=rng)
        shift = SHIFT * (2 * torch.rand(n, 1, axes, generator=rng) - 1)
        x = torch.where(dropped[..., None].to(x.device), x[:, :1], x)
        return samples.having(inputs=x * scale.to(x.device) + shift.to(x.device))

    def mix_inputs(self, inputs: Tensor, other: Tensor, weight: float) -> Tensor:
        return torch.lerp(assigned(inputs, other, self.mix_points), inputs, weight)

    def mix(self, batch: Batch, order: Tensor, weight: float) -> Batch:
        """Of a union, and of RSMix, the weight becomes the share of the points that are a sample's own. Which these are
        follows from `order` and `weight`, which are drawn."""
        if self.mixup == "pointmixup":
            return super().mix(batch, order, weight)
        n, count, _ = batch.inputs.shape
        own = round(weight * count)
        draw = named_rng(0, self.mixup, weight, *order.tolist())
        if self.mixup == "union":
            turn = torch.rand(n, count, generator=draw).argsort(1)
            mine = (turn < own)[..., None].to(batch.inputs.device)
            mixed = torch.where(mine, batch.inputs, batch.inputs[order])
        else:
            at = torch.randint(count, (2, n), generator=draw).to(batch.inputs.device)
            mixed = grafted(batch.inputs, batch.inputs[order], own, *at)
        return Batch(mixed, batch.targets, batch.targets[order], own / count)


def grafted(clouds: Tensor, others: Tensor, own: int, at: Tensor, there: Tensor) -> Tensor:
    """Clouds [N, P, 3] that keep their `own` points farthest from the one at `at`, int64 [N]; the place of the others is taken
    by as many of the other clouds', the nearest to the one at `there`, moved so that this one is where that one was."""
    index = torch.arange(len(clouds), device=clouds.device)
    here, origin = clouds[index, at][:, None], others[index, there][:, None]
    gone = (clouds - here).norm(dim=2).argsort(dim=1, stable=True)[:, : clouds.shape[1] - own]
    come = (others - origin).norm(dim=2).argsort(dim=1, stable=True)[:, : clouds.shape[1] - own]
    piece = gathered(others, come) - origin + here
    return clouds.scatter(1, gone[..., None].expand(-1, -1, clouds.shape[2]), piece)


def assigned(clouds: Tensor, others: Tensor, most: int = 0) -> Tensor:
    """Each of the other clouds [N, P, 3] with its points in the order of those they are assigned to, so that the sum of their
    distances is the smallest there is; with `most` points at a time, not much larger."""
    x, y = clouds.detach(), others.detach()
    orders = in_parts(x.cpu(), y.cpu(), most) if 0 < most < x.shape[1] else best(torch.cdist(x, y).cpu())
    return gathered(others, orders.to(others.device))


def best(costs: Tensor) -> Tensor:
    """The columns [N, P] that the rows of each cost matrix [N, P, P] are assigned to."""
    return torch.stack([torch.from_numpy(linear_sum_assignment(cost)[1]) for cost in costs.numpy()])


def in_parts(x: Tensor, y: Tensor, most: int) -> Tensor:
    """An assignment [N, P] of points to those of other clouds. At first both are in order along some direction; then, in each
    pass, the pairs are cut into slices along another one, and those of a slice are assigned anew, which is never worse."""
    directions = torch.randn(PASSES, x.shape[2], generator=named_rng(0, "slices"))
    order = torch.empty(x.shape[:2], dtype=torch.int64)
    order.scatter_(1, (x @ directions[0]).argsort(1), (y @ directions[0]).argsort(1))
    for direction in directions:
        middle = (x + gathered(y, order)) @ direction
        for part in middle.argsort(1).split(most, 1):
            theirs = order.gather(1, part)
            found = best(torch.cdist(gathered(x, part), gathered(y, theirs)))
            order.scatter_(1, part, theirs.gather(1, found))
    return order
