"""A model held still answers as the model does, and so do the gradients of its inputs; the model is left as it was."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bdray.layers.still import _Affine, still
from bdray.models import Model
from bdray.samples import Outline, Samples, Splits
from bdray.seeds import rng
from bdray.spec import Config
from bdray.task import Task


def used(model: nn.Module) -> nn.Module:
    """In training, float64, with statistics, scales and shifts that are not those of a new model."""
    draw = rng(0, "statistics")
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            for value in (layer.running_mean, layer.weight, layer.bias):
                if value is not None:
                    value.data = torch.randn(value.shape, generator=draw)
            if layer.running_var is not None:
                layer.running_var.data = torch.rand(layer.running_var.shape, generator=draw) + 0.3
    return model.double().train()


def image_model(name: str) -> nn.Module:
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    one = Samples(pixels, torch.zeros(1, dtype=torch.int64))
    task = Task.of({"name": "image", "data": "cifar10", "model": {"name": name, "width": 8}})
    return task.build(task.outline(Splits(one, one, one, tuple("0123456789"))), rng(0, "weights"))


class Branching(nn.Module):
    """Decides by what it is shown, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(self.norm(self.conv(x))).flatten(1)
        return out if x.mean() > 0 else -out


class Tied(nn.Module):
    """One convolution before two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(torch.tanh(self.first(self.conv(x))))).flatten(1)


class Both(nn.Module):
    """What a convolution says is used before BatchNorm and after."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        return (before + self.norm(before)).flatten(1)


MADE = {
    "branching": Branching,
    "tied": Tied,
    "both": Both,
    "norm alone": lambda: nn.BatchNorm2d(3),
    "norm first": lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)),
    "series": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 5), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4)),
}


def answers(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """What a model says, and the gradient of its inputs."""
    x = x.clone().requires_grad_()
    said = model(x)
    (grad,) = torch.autograd.grad(torch.tanh(said).sum(), x)
    return said.detach(), grad


def agree(model: nn.Module, x: Tensor) -> nn.Module:
    held = still(model)
    for mine, wanted in zip(answers(held, x), answers(copy.deepcopy(model).eval(), x), strict=True):
        assert mine.dtype == torch.float64
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-10)
    assert not any(isinstance(layer, _BatchNorm) for layer in held.modules())
    return held


@pytest.mark.parametrize("name", ["mobilenet_v2", "preact_resnet18", "resnet18", "resnet34", "vgg19_bn"])
def test_every_image_model(name: str) -> None:
    agree(used(image_model(name)), torch.rand(5, 3, 32, 32, generator=rng(0, "images"), dtype=torch.float64))


CLIPS, CLOUDS = (3, 4, 32, 32), (40, 3)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ({"name": "conv3d", "width": 4}, CLIPS),
        ({"name": "x3d"}, CLIPS),
        ({"name": "pointnet", "width": 4}, CLOUDS),
        ({"name": "pointnet", "width": 4, "align": True}, CLOUDS),
    ],
    ids=["conv3d", "x3d", "pointnet", "aligning pointnet"],
)
def test_models_of_clips_and_clouds(model: Config, shape: tuple[int, ...]) -> None:
    net = used(Model.of(model).build(Outline(tuple("abcdef"), shape)))
    held = agree(net, torch.rand(5, *shape, generator=rng(0, "inputs"), dtype=torch.float64) - 0.3)
    assert sum(isinstance(layer, _Affine) for layer in held.modules()) < sum(isinstance(m, _BatchNorm) for m in net.modules())


class Spoken(nn.Module):
    """A model with more to call than its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(9, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.classify(self.embedding(numbers))

    def classify(self, embeddings: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(embeddings.mean(1)))
        return out


def test_a_whole_copy_keeps_its_class() -> None:
    """With the norm as a scale and a shift, and no part of it the model's own."""
    model, numbers = used(Spoken()), torch.randint(9, (5, 7), generator=rng(0, "numbers"))
    held = still(model, whole=True)
    assert isinstance(held, Spoken)
    assert isinstance(held.norm, _Affine)
    x = model.embedding(numbers).detach()  # type: ignore[operator]
    twin = copy.deepcopy(model).eval()
    for mine, wanted in zip(answers(held.classify, x), answers(twin.classify, x), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-10)
    assert not any(weight.requires_grad for weight in held.parameters())
    assert all(layer.training for layer in model.modules())
    assert {t.data_ptr() for t in held.state_dict().values()}.isdisjoint({t.data_ptr() for t in model.state_dict().values()})


@pytest.mark.parametrize("name", MADE)
def test_models_of_every_make(name: str) -> None:
    make: Any = MADE[name]
    agree(used(make()), torch.rand(5, 3, 8, 8, generator=rng(0, "images"), dtype=torch.float64) - 0.2)


def test_a_convolution_and_its_norm_are_one_layer() -> None:
    """The point of it: nothing stands where BatchNorm stood."""
    model = used(image_model("vgg19_bn"))
    kinds = [type(layer) for layer in still(model).modules()]
    assert kinds.count(nn.Conv2d) == 16
    assert _Affine not in kinds
    relu = nn.ReLU()  # that one of these is called twice is no hindrance
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), relu, nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), relu)
    assert _Affine not in [type(layer) for layer in still(used(model)).modules()]


def test_a_norm_without_statistics_stays() -> None:
    """It has none to fold: it takes each batch's own."""
    model = used(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()))
    x = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    for mine, wanted in zip(answers(still(model), x), answers(copy.deepcopy(model).eval(), x), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-10)


def test_the_model_is_left_as_it_was_and_the_copy_learns_nothing() -> None:
    model = used(image_model("resnet18"))
    next(layer for layer in model.modules() if isinstance(layer, _BatchNorm)).eval()
    next(model.parameters()).requires_grad_(False)
    before, modes = copy.deepcopy(model.state_dict()), [layer.training for layer in model.modules()]
    wanted = [weight.requires_grad for weight in model.parameters()]
    held = still(model)
    answers(held, torch.rand(2, 3, 32, 32, dtype=torch.float64))
    assert not any(layer.training for layer in held.modules())
    assert not any(weight.requires_grad for weight in held.parameters())
    assert [layer.training for layer in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == wanted
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {t.data_ptr() for t in held.state_dict().values()}.isdisjoint({t.data_ptr() for t in model.state_dict().values()})


def test_bfloat16_stays_bfloat16() -> None:
    """In autocast a scale and a shift in float32 would make all that follows float32."""
    held = still(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)))
    assert held.get_submodule("0.0")(torch.rand(2, 3, 8, 8).bfloat16()).dtype == torch.bfloat16
