"""Input purification of point clouds: the points that go are open3d's, and what stands in their place."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bdray.clouds import in_unit_sphere
from bdray.defenses import Defense, Evidence
from bdray.experiment import Experiment
from bdray.layers.still import still
from bdray.models import Model
from bdray.packages import need
from bdray.samples import Outline
from bdray.seeds import rng
from bdray.spec import Incompatible
from bdray.task import Task
from bdray.training import silent

both = pytest.mark.parametrize("name", ["sor", "ror"])


def clouds(count: int = 40, size: int = 200) -> Tensor:
    """Surfaces with some points off them; 40 are more than are looked at together."""
    x = torch.randn(count, size, 3, generator=rng(0, "surfaces"))
    x = x / x.norm(dim=2, keepdim=True)
    x[:, ::9] *= 1 + 0.5 * torch.rand(count, len(range(0, size, 9)), 1, generator=rng(0, "off"))
    return in_unit_sphere(x)


def kept_by_open3d(name: str, cloud: Tensor, neighbours: int, bound: float) -> list[int]:
    o3d = need("open3d")
    whole = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(cloud.double().numpy()))
    if name == "sor":
        return list(whole.remove_statistical_outlier(neighbours + 1, bound)[1])
    return list(whole.remove_radius_outlier(neighbours, bound * (1024 / len(cloud)) ** 0.5)[1])


@pytest.mark.parametrize(
    ("name", "neighbours", "bound"),
    [("sor", 2, 1.1), ("sor", 20, 2.0), ("sor", 7, 0.3), ("ror", 2, 0.1), ("ror", 6, 0.12), ("ror", 1, 0.04)],
)
def test_the_points_that_go_are_open3ds(name: str, neighbours: int, bound: float) -> None:
    defense = Defense.of({"name": name, "neighbours": neighbours, {"sor": "ratio", "ror": "radius"}[name]: bound})
    x = clouds()
    before = x.clone()
    found = defense.purified(x)  # type: ignore[attr-defined]
    assert found.shape == x.shape
    assert torch.equal(x, before)
    went = 0
    for cloud, pure in zip(x, found, strict=True):
        kept = kept_by_open3d(name, cloud, neighbours, bound)
        went += len(cloud) - len(kept)
        assert torch.equal(pure[kept], cloud[kept])  # where they were
        places = [at for at in range(len(cloud)) if at not in set(kept)]
        wanted = [cloud[kept[number % len(kept)]].tolist() for number in range(len(places))]
        assert pure[places].tolist() == wanted
    assert 0 < went < x.shape[0] * x.shape[1] / 2


def test_single_points_go_and_a_dense_ball_stays() -> None:
    x = clouds(1)[:, :180]
    far = torch.tensor([[1.5, 1.5, 1.5], [-1.5, 0.0, 1.5]])
    ball = 0.01 * torch.randn(18, 3, generator=rng(3)) + torch.tensor([0.0, -1.5, 0.0])
    for name in ("sor", "ror"):
        pure = Defense.of(name).purified(torch.cat([x, far[None], ball[None]], 1))[0]  # type: ignore[attr-defined]
        assert all(float((pure - one).norm(dim=1).min()) > 0.1 for one in far)
        assert all(float((pure - one).norm(dim=1).min()) == 0 for one in ball)


@pytest.mark.parametrize("size", [1, 2])
@both
def test_tiny_clouds_stay_what_they_are(name: str, size: int) -> None:
    x = torch.randn(2, size, 3, generator=rng(0))
    found = Defense.of({"name": name, "neighbours": 20}).purified(x)  # type: ignore[attr-defined]
    assert torch.equal(found, x)


def test_a_cloud_of_which_nothing_would_be_left_is_let_be() -> None:
    x = clouds(3)
    assert torch.equal(Defense.of({"name": "ror", "radius": 1e-6}).purified(x), x)  # type: ignore[attr-defined]


def victim(name: str = "pointnet") -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model.of({"name": name, "width": 4}).build(Outline(("a", "b"), (200, 3))).eval()


@both
def test_the_victim_sees_purified_clouds(name: str) -> None:
    task, model, x = Task.of("points"), victim(), clouds(5)
    plain, names = victim(), list(model.state_dict())
    defense = Defense.of(name)
    found = defense.defend(Evidence(model=model), task, rng(0), silent).model
    assert list(found.state_dict()) == names
    with torch.no_grad():
        wanted = plain(defense.purified(x))  # type: ignore[attr-defined]
        assert torch.allclose(found(x), wanted, atol=1e-6)
        assert not torch.allclose(found(x), plain(x), atol=1e-8)
        assert torch.allclose(still(found)(x), wanted, atol=1e-5)  # what proxies climb
    moved = x.clone().requires_grad_()
    found(moved).square().sum().backward()
    assert moved.grad is not None
    assert moved.grad.isfinite().all()


@both
def test_it_is_for_points(name: str) -> None:
    given: dict[str, Any] = {"task": "image", "defense": name}
    told = f"the defense '{name}' is for points \\(it removes points that lie apart\\), the task 'image' is for image"
    with pytest.raises(Incompatible, match=told):
        Experiment.of(given).check()


def test_distances_of_a_plain_loop() -> None:
    """What open3d does, written out once: mean distances, their mean and deviation over the cloud."""
    cloud = clouds(1, 60)[0].double().numpy()
    apart = np.array([np.sort(np.linalg.norm(cloud - point, axis=1))[1:3].mean() for point in cloud])
    wanted = apart <= apart.mean() + 1.1 * apart.std(ddof=1)
    gaps = torch.cdist(torch.tensor(cloud)[None], torch.tensor(cloud)[None])
    assert Defense.of("sor").keeps(gaps)[0].tolist() == wanted.tolist()  # type: ignore[attr-defined]
