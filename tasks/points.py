"""Point cloud classification. Try: bdray run task=points attack=pointpba_i defense=fine_tuning defense.clean=0.1"""

from typing import ClassVar, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bdray.data import Data
from bdray.models import Model
from bdray.samples import Outline, Samples
from bdray.seeds import rng as named_rng
from bdray.spec import Config, member
from bdray.task import Batch
from bdray.tasks._classes import Classification

MOST_DROPPED, SCALES, SHIFT = 0.875, (0.8, 1.25), 0.1


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
    mixup: Literal["pointmixup", "union"] = "pointmixup"
    """How a defense mixes two clouds: PointMixup (Chen et al. 2020, arXiv 2008.06374), in which each point goes a part of
    the way to the point of the other cloud that the best assignment gives it; or some points of each."""

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
        return torch.lerp(assigned(inputs, other), inputs, weight)

    def mix(self, batch: Batch, order: Tensor, weight: float) -> Batch:
        """Of a union the weight becomes the share of the points that are a sample's own. Which these are follows from
        `order` and `weight`, which are drawn."""
        if self.mixup == "pointmixup":
            return super().mix(batch, order, weight)
        n, count, _ = batch.inputs.shape
        own = round(weight * count)
        turn = torch.rand(n, count, generator=named_rng(0, "union", weight, *order.tolist())).argsort(1)
        mine = (turn < own)[..., None].to(batch.inputs.device)
        mixed = torch.where(mine, batch.inputs, batch.inputs[order])
        return Batch(mixed, batch.targets, batch.targets[order], own / count)


def assigned(clouds: Tensor, others: Tensor) -> Tensor:
    """Each of the other clouds [N, P, 3] with its points in the order of those they are assigned to, so that the sum of their
    distances is the smallest there is."""
    costs = torch.cdist(clouds.detach(), others.detach()).cpu().numpy()
    orders = torch.stack([torch.from_numpy(linear_sum_assignment(cost)[1]) for cost in costs]).to(others.device)
    return others.gather(1, orders[..., None].expand_as(others))
