"""The points task: how clouds are augmented and mixed; ball insertion; PointNet."""

import itertools
from typing import Any

import pytest
import scipy.optimize
import scipy.spatial.distance
import torch

from bdray.attacks import Attack, Setting
from bdray.experiment import Experiment
from bdray.models import Model
from bdray.samples import Outline, Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput, Incompatible
from bdray.task import Batch, Task
from bdray.tasks.points import assigned
from bdray.training import Training, silent


def points(**fields: Any) -> Task:
    return Task.of({"name": "points", **fields})


def clouds(count: int = 6, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, size, 3, generator=rng(seed, "clouds"))


def samples(count: int = 20, size: int = 64) -> Samples:
    return Samples(clouds(count, size), torch.arange(count) % 4)


def test_alone_it_is_an_experiment() -> None:
    experiment = Experiment.of({"task": "points"})
    experiment.check()
    assert (experiment.task.data.name, experiment.task.model.name) == ("solids", "pointnet")
    assert (experiment.attack.name, experiment.defense.name) == ("pointpba_i", "nft")
    with pytest.raises(Incompatible, match="the attack 'badnets' is for image and video, the task 'points' is for points"):
        Experiment.of({"task": "points", "attack": "badnets"}).check()


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_best_of_all(seed: int) -> None:
    """Of five points there are 120."""
    mine, other = clouds(3, 5, seed), clouds(3, 5, seed + 100)
    found = assigned(mine, other)
    for a, b, c in zip(mine, other, found, strict=True):
        sums = [(a - b[list(order)]).norm(dim=1).sum() for order in itertools.permutations(range(5))]
        assert float((a - c).norm(dim=1).sum()) == pytest.approx(float(min(sums)))
        assert sorted(c.tolist()) == sorted(b.tolist())


def test_pointmixup_lies_between_assigned_points() -> None:
    mine, order = Batch(clouds(), torch.arange(6)), torch.tensor([1, 2, 3, 4, 5, 0])
    other = mine.inputs[order]
    mixed = points().mix(mine, order, 0.3)
    assert torch.allclose(mixed.inputs, 0.3 * mine.inputs + 0.7 * assigned(mine.inputs, other), atol=1e-6)
    assert not torch.allclose(mixed.inputs, 0.3 * mine.inputs + 0.7 * other, atol=1e-2)  # as by index
    assert (mixed.weight, mixed.partner.tolist()) == (0.3, order.tolist())
    assert torch.allclose(points().mix(mine, order, 1.0).inputs, mine.inputs)
    for found, whole in zip(points().mix(mine, order, 0.0).inputs, other, strict=True):
        assert torch.allclose(found.sort(0).values, whole.sort(0).values)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.501, 1.0])
def test_a_union_weighs_as_many_points_as_it_has(weight: float) -> None:
    mine, order = Batch(clouds(), torch.arange(6)), torch.tensor([1, 2, 3, 4, 5, 0])
    mixed = points(mixup="union").mix(mine, order, weight)
    own = (mixed.inputs == mine.inputs).all(2)
    assert ((mixed.inputs == mine.inputs[order]).all(2) | own).all()
    assert own.float().mean(1).tolist() == [pytest.approx(mixed.weight)] * 6
    assert mixed.weight == round(weight * 64) / 64
    assert weight in (0.0, 1.0) or len(own.unique(dim=0)) == 6


def transport(mine: torch.Tensor, other: torch.Tensor) -> float:
    return float((mine - other).norm(dim=2).sum(1).mean())


def test_an_assignment_in_parts_is_nearly_the_best() -> None:
    """The best one by scipy, cloud by cloud; of points that lie on surfaces, as those of meshes do."""
    mine, other = (clouds(3, 400, seed) for seed in (0, 1))
    mine, other = mine / mine.norm(dim=2, keepdim=True), other.clamp(-1, 1)
    least = 0.0
    for a, b in zip(mine, other, strict=True):
        cost = scipy.spatial.distance.cdist(a.numpy(), b.numpy())
        least += cost[scipy.optimize.linear_sum_assignment(cost)].sum() / len(mine)
    found = {most: transport(mine, assigned(mine, other, most)) for most in (0, 16, 64, 400)}
    assert found[0] == found[400] == pytest.approx(least)
    assert least < found[64] < 1.04 * least
    assert found[64] < found[16] < 1.2 * least < transport(mine, other)
    parts = assigned(mine, other, 48)  # the last part is smaller
    for b, c in zip(other, parts, strict=True):
        assert sorted(c.tolist()) == sorted(b.tolist())
    assert torch.equal(parts, assigned(mine, other, 48))
    assert torch.equal(parts[1:2], assigned(mine[1:2], other[1:2], 48))


def test_pointmixup_in_parts_is_a_field_that_changes_no_older_key() -> None:
    x = Batch(clouds(), torch.arange(6))
    order = torch.tensor([1, 2, 3, 4, 5, 0])
    mixed = points(mix_points=8).mix(x, order, 0.3).inputs
    assert torch.allclose(mixed, 0.3 * x.inputs + 0.7 * assigned(x.inputs, x.inputs[order], 8), atol=1e-6)
    assert "mix_points" not in points().identity()
    assert points(mix_points=0).key() == points().key() != points(mix_points=8).key()


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.501, 1.0])
def test_rsmix_grafts_a_piece_of_the_other_cloud(weight: float) -> None:
    mine, order = Batch(clouds(), torch.arange(6)), torch.tensor([1, 2, 3, 4, 5, 0])
    before = mine.inputs.clone()
    mixed = points(mixup="rsmix").mix(mine, order, weight)
    own = round(weight * 64)
    assert mixed.weight == own / 64
    assert torch.equal(mine.inputs, before)
    assert torch.equal(mixed.inputs, points(mixup="rsmix").mix(mine, order, weight).inputs)
    at, there = torch.randint(64, (2, 6), generator=rng(0, "rsmix", weight, *order.tolist())).tolist()
    for cloud, other, found, here, origin in zip(before, before[order], mixed.inputs, at, there, strict=True):
        near = sorted(range(64), key=lambda i: float((cloud[i] - cloud[here]).norm()))
        wanted = [cloud[i].tolist() for i in near[64 - own :]]
        nearest = sorted(range(64), key=lambda i: float((other[i] - other[origin]).norm()))[: 64 - own]
        wanted += [(other[i] - other[origin] + cloud[here]).tolist() for i in nearest]
        assert sorted(found.tolist()) == sorted(wanted)


def test_augmentation_drops_scales_and_shifts() -> None:
    x = clouds(200, 64)
    before = x.clone()
    found = points().augment(Samples(x, torch.arange(200)), rng(0)).inputs
    assert torch.equal(x, before)
    assert torch.equal(points().augment(Samples(x, torch.arange(200)), rng(0)).inputs, found)
    dropped = (found == found[:, :1]).all(2)
    dropped[:, 0] = False
    assert 0.3 < float(dropped.float().mean()) < 0.55  # 7/16 on the average
    assert float(dropped.float().mean(1).max()) < 0.99
    for old, new, gone in zip(x, found, dropped, strict=True):
        left = ~gone
        if int(left.sum()) < 3:
            continue
        line = torch.linalg.lstsq(torch.cat([old[left, :1], torch.ones(int(left.sum()), 1)], 1), new[left, :1]).solution
        assert 0.8 - 1e-3 <= float(line[0]) <= 1.25 + 1e-3
        assert abs(float(line[1])) <= 0.1 + 1e-3


def test_a_net_does_not_see_the_order_of_the_points() -> None:
    for align in (False, True):
        with torch.random.fork_rng(devices=[]):
            model = Model.of({"name": "pointnet", "width": 4, "align": align}).build(Outline(("a", "b"), (64, 3))).eval()
        x = clouds()
        with torch.no_grad():
            assert torch.allclose(model(x), model(x[:, torch.randperm(64, generator=rng(0))]), atol=1e-5)
            assert torch.allclose(model(x)[1:2], model(x[1:2]), atol=1e-5)
        assert model(x).shape == (6, 2)
        built = dict(model.named_modules())
        assert all(stem in built for stem in Model.member("pointnet").stem)


def test_the_alignment_starts_as_none() -> None:
    from bdray.models.pointnet import Alignment

    x = clouds().transpose(1, 2)
    assert torch.equal(Alignment(4)(x), torch.eye(3).expand(6, 3, 3))


def setting(part: Samples, seed: int = 0) -> Setting:
    return Setting(points(), Splits(part, part, part, "abcd"), Training(), rng(seed), silent)


def test_a_ball_stands_in_for_random_points() -> None:
    part = samples()
    before = part.inputs.clone()
    attack = Attack.of({"name": "pointpba_i", "points": 8, "radius": 0.05, "centre": [0.5, -0.5, 0.25]})
    patterns = attack.patterns(setting(part))
    ball = patterns["ball"]
    assert ball.shape == (8, 3)
    assert torch.allclose((ball - torch.tensor([0.5, -0.5, 0.25])).norm(dim=1), torch.full((8,), 0.05), atol=1e-6)
    found = attack.stamp(part, patterns, 0)
    assert torch.equal(part.inputs, before)
    assert found.wanted.tolist() == [0] * 20
    changed = (found.samples.inputs != before).any(2)
    assert changed.sum(1).tolist() == [8] * 20
    assert len(changed.unique(dim=0)) == 20  # other points of each
    for cloud, where in zip(found.samples.inputs, changed, strict=True):
        assert sorted(cloud[where].tolist()) == sorted(ball.tolist())
    some = torch.tensor([3, 7, 11])
    assert torch.equal(attack.stamp(part.take(some), patterns, 0).samples.inputs, found.samples.inputs[some])
    assert not torch.equal(attack.stamp(part, patterns, 1).samples.inputs, found.samples.inputs)


def test_the_ball_is_drawn_with_the_victim() -> None:
    attack = Attack.of({"name": "pointpba_i", "points": 8})
    first, same, other = (attack.patterns(setting(samples(), seed))["ball"] for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"points": 65}, "pointpba_i.points: got 65, expected at most 64"),
        ({"centre": [0.5, 0.5]}, "pointpba_i.centre: got 2 numbers, expected 3"),
        ({"target": 4}, "pointpba_i.target: got 4"),
    ],
)
def test_what_cannot_be_done_to_these_clouds(fields: dict[str, Any], told: str) -> None:
    part = samples()
    with pytest.raises(BadInput, match=told):
        Attack.of({"name": "pointpba_i", **fields}).check(Splits(part, part, part, "abcd"))
