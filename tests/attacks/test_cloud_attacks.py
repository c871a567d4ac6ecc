"""The attacks on point clouds, each against a plain second implementation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from bdray.attacks import Attack, Setting
from bdray.attacks._clouds import surrogate
from bdray.attacks.pcba import RADII, Pcba
from bdray.attacks.pointcba import PointCba
from bdray.clouds import farthest, in_unit_sphere, rotation
from bdray.layers.features import features
from bdray.models import Model
from bdray.samples import Outline, Samples, Splits, dense
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.training import Training
from tests.setting import made, setting


def clouds(count: int = 4, size: int = 48) -> Tensor:
    return in_unit_sphere(torch.randn(count, size, 3, generator=rng(0, "clouds")))


def samples(x: Tensor) -> Samples:
    return Samples(x, torch.arange(len(x)) % 4)


def stamped(attack: Attack, x: Tensor) -> Tensor:
    found: Tensor = attack.stamp(samples(x), {}, 0).samples.inputs
    return found


def inputs(part: Samples) -> Tensor:
    found = dense(part.inputs)
    assert isinstance(found, Tensor)
    return found


# Geometry


def test_rotations_are_scipys() -> None:
    angles = torch.tensor([[0.3, -1.2, 2.0], [0.0, 0.0, 0.5], [-3.0, 0.1, 0.0]], dtype=torch.float64)
    for mine, three in zip(rotation(angles), angles, strict=True):
        assert np.allclose(mine.numpy(), Rotation.from_euler("xyz", three.numpy()).as_matrix(), atol=1e-12)


def farthest_plainly(cloud: np.ndarray, count: int, start: int) -> list[int]:
    chosen = [start]
    while len(chosen) < count:
        gaps = [min(math.dist(point, cloud[other]) for other in chosen) for point in cloud]
        chosen.append(int(np.argmax(gaps)))
    return chosen


def test_farthest_points_are_those_of_a_loop() -> None:
    x, start = clouds().double(), torch.tensor([0, 5, 47, 11])
    for cloud, first, found in zip(x, start, farthest(x, 12, start), strict=True):
        assert found.tolist() == farthest_plainly(cloud.numpy(), 12, int(first))


# Rotation


@pytest.mark.parametrize(("axis", "degrees"), [("z", 10.0), ("x", -25.0), ("y", 180.0)])
def test_pointpba_o_turns_the_cloud(axis: str, degrees: float) -> None:
    x = clouds()
    before = x.clone()
    found = stamped(Attack.of({"name": "pointpba_o", "axis": axis, "degrees": degrees}), x)
    assert torch.equal(x, before)
    for old, new in zip(x, found, strict=True):
        wanted = Rotation.from_euler(axis, degrees, degrees=True).apply(old.double().numpy())
        assert np.allclose(new.numpy(), wanted, atol=1e-6)


def test_ten_degrees_about_z_is_counter_clockwise() -> None:
    x = torch.tensor([[[1.0, 0.0, 0.3], [0.0, 0.0, 1.0]]])
    (first, top) = stamped(Attack.of("pointpba_o"), x)[0].tolist()
    assert first == pytest.approx([math.cos(math.pi / 18), math.sin(math.pi / 18), 0.3])
    assert top == pytest.approx([0.0, 0.0, 1.0])


# IRBA


def bent_plainly(cloud: np.ndarray, anchors: list[int], degrees: float, scale: float, sigma: float) -> np.ndarray:
    """Point by point and anchor by anchor."""
    turn = Rotation.from_euler("xyz", [degrees] * 3, degrees=True).as_matrix()
    out: list[np.ndarray] = []
    for point in cloud:
        total, weights = np.zeros(3), 0.0
        for at in anchors:
            anchor = cloud[at]
            weight = math.exp(-(math.dist(point, anchor) ** 2) / (2 * sigma**2))
            total += weight * ((point - anchor) @ turn * scale + anchor)
            weights += weight
        out.append(total / weights)
    moved = np.array(out) - np.mean(out, axis=0)
    return moved / max(np.linalg.norm(moved, axis=1))


@pytest.mark.parametrize("fields", [{}, {"anchors": 3, "degrees": 30.0, "scale": 0.5, "sigma": 0.2}])
def test_irba_bends_the_cloud(fields: dict[str, Any]) -> None:
    attack, x = Attack.of({"name": "irba", **fields}), clouds(2, 20)
    found = stamped(attack, x)
    settings = {"anchors": 16, "degrees": 5.0, "scale": 5.0, "sigma": 0.5, **fields}
    count = int(settings.pop("anchors"))
    for old, new in zip(x.double().numpy(), found.numpy(), strict=True):
        every = [bent_plainly(old, farthest_plainly(old, count, start), **settings) for start in range(len(old))]
        off = [np.abs(new - one).max() for one in every]
        assert min(off) < 1e-6  # from some first anchor
    assert np.allclose(found.mean(1), 0, atol=1e-6)
    assert np.allclose(found.norm(dim=2).amax(1), 1, atol=1e-6)


def test_irba_far_from_every_anchor_is_still_a_number() -> None:
    found = stamped(Attack.of({"name": "irba", "anchors": 1, "sigma": 1e-3}), clouds())
    assert found.isfinite().all()


# The attacker's own PointNet


def pointnet(width: int = 8, classes: int = 4) -> Any:
    """One with weights and statistics that are not those of the start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Model.of({"name": "pointnet", "width": width}).build(Outline(tuple("abcd"[:classes]), (48, 3)))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                torch.nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
                torch.nn.init.constant_(module.running_var, 0.05)  # type: ignore[arg-type]
    return model.eval().requires_grad_(False)


def test_a_surrogate_is_a_pointnet_trained_on_clean_clouds() -> None:
    recipe = Training(epochs=1, batch=10, lr=0.01, optimizer="adamw", schedule="constant", augment=False)
    where, again = (setting("points", 3)._replace(training=recipe) for _ in range(2))
    model, same = surrogate(where, 8, 4), surrogate(again, 8, 4)
    x, y = inputs(where.splits.train), where.splits.train.targets
    with torch.no_grad():
        assert float((model(x).argmax(1) == y).float().mean()) > 0.3  # of 8 classes
        assert torch.equal(model(x), same(x))
    assert not any(parameter.requires_grad for parameter in model.parameters())


# PCBA


def test_pcba_adds_a_point_to_pooled_features_as_a_pointnet_sees_it() -> None:
    model, x = pointnet(), clouds()
    centres = torch.tensor([[1.0, 0.2, -0.3], [-0.9, 0.8, 0.1]])
    pooled = model.points(x.transpose(1, 2)).amax(2)
    found = Pcba()._logits(model, pooled, centres)
    for centre, logits in zip(centres, found, strict=True):
        whole = torch.cat([x, centre.expand(len(x), 1, 3)], 1)
        assert torch.allclose(logits, model(whole), atol=1e-5)


def sure(model: Any, x: Tensor, centre: Tensor, target: int) -> float:
    with torch.no_grad():
        return float(model(torch.cat([x, centre.expand(len(x), 1, 3)], 1)).softmax(1)[:, target].mean())


def gap(x: Tensor, centre: Tensor) -> float:
    return float(np.mean([cKDTree(cloud.numpy()).query(centre.numpy())[0] ** 2 for cloud in x]))


def test_pcba_finds_a_near_place_that_reaches_its_goal() -> None:
    model, x = pointnet(), clouds(12)
    goals = [sure(model, x, at, 2) for at in torch.randn(100, 3, generator=rng(1))]
    goal = float(np.quantile(goals, 0.8))
    attack = Pcba(target=2, goal=goal, steps=120, batch=12, starts=6)
    centre = attack.place(model, x, rng(0))
    assert sure(model, x, centre, 2) >= goal - 1e-5
    drawn = [at for at in torch.randn(100, 3, generator=rng(2)) if sure(model, x, at, 2) >= goal]
    assert gap(x, centre) <= min(gap(x, at) for at in drawn) + 0.02


def test_pcba_without_a_place_that_reaches_its_goal_takes_the_surest() -> None:
    model, x = pointnet(), clouds(12)
    attack = Pcba(target=2, goal=1.0, steps=100, batch=12)
    centre = attack.place(model, x, rng(0))
    starts = attack._outside(rng(0))
    assert min(start.norm() for start in starts) > 1
    assert sure(model, x, centre, 2) >= max(sure(model, x, start, 2) for start in starts) - 1e-5


def spacing(cloud: np.ndarray) -> np.ndarray:
    """Of each point the mean distance to its four nearest."""
    found: np.ndarray = cKDTree(cloud).query(cloud, k=5)[0][:, 1:].mean(1)
    return found


def test_pcbas_cluster_is_as_dense_as_the_clouds() -> None:
    x = clouds(6, 64)
    found = Pcba().dense(x, rng(0)).numpy()
    radius = np.linalg.norm(found, axis=1)
    assert radius == pytest.approx([radius[0]] * 32, rel=1e-4)
    assert min(abs(radius[0] - one) for one in RADII) < 1e-5
    wanted = np.median(np.concatenate([spacing(cloud.numpy()) for cloud in x]))
    off = np.median(np.abs(spacing(found) - wanted))
    directions = rng(5)
    for factor in (0.6, 1.6):  # no sphere of another size is nearer
        other = torch.randn(32, 3, generator=directions)
        other = factor * radius[0] * other / other.norm(dim=1, keepdim=True)
        assert off < np.median(np.abs(spacing(other.numpy()) - wanted))


def test_pcbas_cluster_stands_at_its_place() -> None:
    attack = Attack.of({"name": "pcba", "steps": 20, "surrogate_width": 4, "surrogate_epochs": 1, "source": 3})
    where = setting("points")
    cluster = attack.patterns(where)["cluster"]
    assert cluster.shape == (32, 3)
    test = where.splits.test
    found = attack.stamp(test, {"cluster": cluster}, 0)
    changed = (inputs(found.samples) != inputs(test)).any(2)
    assert changed.sum(1).tolist() == [32] * len(test)
    for cloud, mask in zip(inputs(found.samples), changed, strict=True):
        assert sorted(cloud[mask].tolist()) == sorted(cluster.tolist())
    assert torch.equal(attack.attackable(test), test.targets == 3)
    assert found.wanted.unique().tolist() == [0]
    middle = cluster.mean(0)
    spread = (cluster - middle).norm(dim=1)
    assert float(spread.max()) < 0.75


def test_pcba_without_poison_trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdray.attacks.pcba.surrogate", lambda *_: pytest.fail("a surrogate is trained"))
    assert Attack.of({"name": "pcba", "rate": 0.0}).patterns(setting("points"))["cluster"].shape == (32, 3)


# PointCBA


def test_pointcba_turns_features_into_another_clouds() -> None:
    model, x = pointnet(width=8), clouds(6)
    others = in_unit_sphere(clouds(12).flip(0)[:6] * torch.tensor([1.0, 0.3, 0.1]))
    attack = PointCba(degrees=60.0)
    angles = attack.disentangled(model, x, others, rng(0))
    assert float(angles.abs().max()) <= math.radians(60) + 1e-6

    def off(turns: Tensor) -> np.ndarray:
        found = []
        for cloud, other, three in zip(x, others, turns, strict=True):
            turned = torch.tensor(Rotation.from_euler("xyz", three.numpy()).apply(cloud.numpy()), dtype=torch.float32)
            both = features(model, torch.stack([turned, other])).detach().numpy()
            found.append(float(((both[0] - both[1]) ** 2).sum()))
        return np.array(found)

    assert (off(angles) < off(torch.zeros(6, 3))).all()
    drawn = [math.radians(60) * (2 * torch.rand(6, 3, generator=rng(seed)) - 1) for seed in range(8)]
    assert off(angles).sum() < np.min([off(turns) for turns in drawn], axis=0).sum()
    fewer = PointCba(degrees=60.0, steps=0).disentangled(model, x, others, rng(0))
    assert (off(angles) <= off(fewer) + 1e-5).all()
    assert off(angles).sum() < off(fewer).sum()


def test_pointcba_keeps_labels_and_stamps_the_ball_alone() -> None:
    fields = {"name": "pointcba", "target": 1, "steps": 2, "surrogate_width": 4, "surrogate_epochs": 1}
    attack, where = Attack.of(fields), setting("points")
    patterns = attack.patterns(where)
    train = where.splits.train
    mine = train.take(train.targets == 1)
    planted = attack.plant(mine, patterns, where)
    assert planted.targets.tolist() == mine.targets.tolist() == [1] * len(mine)
    ball = {tuple(point) for point in patterns["ball"].tolist()}
    for old, new in zip(inputs(mine), inputs(planted), strict=True):
        left = torch.tensor([point for point in new.tolist() if tuple(point) not in ball])
        assert len(left) == len(old) - 32
        norms = old.norm(dim=1)
        assert all(float((norms - one).abs().min()) < 1e-5 for one in left.norm(dim=1))  # turned, not moved
        assert float(torch.cdist(left, old).amin(1).max()) > 0.01
    tested = inputs(attack.stamp(where.splits.test, patterns, 0).samples)
    assert (tested == inputs(where.splits.test)).all(2).sum(1).tolist() == [64 - 32] * len(tested)


def test_pointcba_of_no_degrees_trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdray.attacks.pointcba.surrogate", lambda *_: pytest.fail("a surrogate is trained"))
    attack, where = Attack.of({"name": "pointcba", "degrees": 0.0}), setting("points")
    train, patterns = where.splits.train, attack.patterns(where)
    planted = inputs(attack.plant(train, patterns, where))
    assert (planted == inputs(train)).all(2).sum(1).tolist() == [64 - 32] * len(train)


# What cannot be done


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": "irba", "anchors": 65}, "irba.anchors: got 65, expected at most 64, all points of a cloud"),
        ({"name": "pcba", "points": 65, "source": 2}, "pcba.points: got 65, expected at most 64"),
        ({"name": "pcba", "source": 8}, "pcba.source: got 8, expected a class from 0 to 7"),
        ({"name": "pointcba", "points": 65}, "pointcba.points: got 65, expected at most 64"),
        ({"name": "pointcba", "centre": [0.5]}, "pointcba.centre: got 1 numbers, expected 3"),
        ({"name": "pointpba_o", "target": 8}, "pointpba_o.target: got 8"),
    ],
)
def test_what_cannot_be_done_to_these_clouds(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        Attack.of(fields).check(made("points")[1])


def test_classes_have_one_role() -> None:
    with pytest.raises(BadInput, match=r"pcba\.source: got 2, which is the target, too"):
        Attack.of({"name": "pcba", "source": 2, "target": 2})


@pytest.mark.parametrize("name", ["pointpba_o", "irba", "pcba", "pointcba"])
def test_points_of_a_plane_cannot_be_turned(name: str) -> None:
    part = Samples(torch.rand(40, 40, 2), torch.arange(40) % 4)
    with pytest.raises(BadInput, match=f"{name}: got points of 2 numbers, expected 3"):
        Attack.of(name).check(Splits(part, part, part, "abcd"))


def test_a_turned_victim_is_planted_with_its_settings() -> None:
    """The draws of the planting are those of the setting's seed, not of the test's."""
    where = setting("points")
    attack = Attack.of("irba")
    some = where.splits.train.take(torch.arange(5))
    other = Setting(where.task, where.splits, Training(), rng(9), where.report, seed=1)
    first, second = (inputs(attack.plant(some, {}, one)) for one in (where, other))
    assert not torch.equal(first, second)
