"""What the attacks on point clouds share: a ball of points, its place in a cloud, and the attacker's own PointNet."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bdray.attacks import Setting
from bdray.layers.still import still
from bdray.models import Model
from bdray.samples import Draw, Splits
from bdray.seeds import rng as named
from bdray.spec import BadInput
from bdray.training import fit


def check_axes(name: str, splits: Splits) -> None:
    """Raise BadInput for clouds that do not lie in space."""
    axes = splits.train.inputs.shape[2]
    if axes != 3:
        raise BadInput(f"{name}: got points of {axes} numbers, expected 3, which can be turned; choose another attack")


def check_points(field: str, points: int, splits: Splits) -> None:
    """Raise BadInput for more points than a cloud has."""
    count = splits.train.inputs.shape[1]
    if points > count:
        raise BadInput(f"{field}: got {points}, expected at most {count}, all points of a cloud")


def ball(centre: Sequence[float], radius: float, points: int, rng: torch.Generator) -> Tensor:
    """Points [points, axes] uniform on a sphere: the directions of normal draws."""
    directions = torch.randn(points, len(centre), dtype=torch.float64, generator=rng)
    directions = directions / directions.norm(dim=1, keepdim=True)
    return (torch.tensor(centre, dtype=torch.float64) + radius * directions).float()


def inserted(x: Tensor, cluster: Tensor, draw: Draw) -> Tensor:
    """Clouds in which a cluster stands in for as many random points of each."""
    cluster, count = cluster.to(x), x.shape[1]
    gone = draw(lambda g: torch.randperm(count, generator=g)[: len(cluster)]).to(x.device)
    return x.scatter(1, gone[..., None].expand(-1, -1, x.shape[2]), cluster.expand(len(x), -1, -1))


def surrogate(setting: Setting, width: int, epochs: int) -> nn.Module:
    """A PointNet that the attacker trains on the clean training set by the victim's recipe, for so many epochs (0: as many),
    held still. Its weights come from `setting.rng`."""
    task, splits, training, rng, report, _ = setting
    seed = int(torch.randint(2**62, (1,), generator=rng))
    if epochs:
        training = training.model_copy(update={"epochs": epochs})
    task = task.model_copy(update={"model": Model.of({"name": "pointnet", "width": width})})
    model = task.build(task.outline(splits), named(seed, "surrogate"))
    return still(fit(model, splits.train, task, training, seed, report), whole=True)
