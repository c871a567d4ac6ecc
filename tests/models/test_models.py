"""Every architecture: it is the published one at the published width, and it can be built narrow and for any images."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from bdray.models import Model
from bdray.models._resnet import BasicBlock, PreActBlock
from bdray.samples import Outline, Samples, Splits
from bdray.seeds import rng
from bdray.task import Task

IMAGES = [name for name in Model.names() if Model.member(name).modality == "image"]
every_image_model = pytest.mark.parametrize("name", IMAGES)
NARROW = 4


def build(name: str, classes: int = 10, shape: tuple[int, ...] = (3, 32, 32), seed: int = 0, **fields: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model.of({"name": name, **fields}).build(Outline(tuple(map(str, range(classes))), shape))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def published(name: str, classes: int = 10) -> nn.Module:
    """torchvision's, untrained."""
    with torch.random.fork_rng(devices=[]):
        return getattr(torchvision.models, name)(num_classes=classes)


@every_image_model
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 16, 16), (3, 32, 32), (3, 128, 128), (1, 16, 16), (3, 20, 28)], ids=str)
def test_any_images_in_and_logits_out(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, 10, shape, width=NARROW)
    x = torch.rand(2, *shape, generator=rng(0))
    before = x.clone()
    logits = model.train()(x)
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
    assert torch.equal(x, before)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_image_model
def test_images_do_not_see_each_other_in_eval_mode(name: str) -> None:
    model = build(name, 7, width=NARROW).eval()
    x = torch.rand(3, 3, 32, 32, generator=rng(0))
    with torch.no_grad():
        assert torch.allclose(model(x)[1:2], model(x[1:2]), atol=1e-5)


@every_image_model
def test_parameters_grow_with_the_width_and_the_classes(name: str) -> None:
    assert count(build(name, width=2)) < count(build(name, width=4)) < count(build(name, width=8))
    heads = count(build(name, 11, width=NARROW)) - count(build(name, 10, width=NARROW))
    last = [module for module in build(name, 10, width=NARROW).modules() if isinstance(module, nn.Linear)][-1]
    assert heads == last.in_features + 1


@every_image_model
def test_the_stem_is_in_the_model(name: str) -> None:
    member = Model.of(name)
    for shape in ((3, 32, 32), (3, 128, 128)):
        built = dict(build(name, shape=shape, width=NARROW).named_modules())
        for stem in member.stem:
            assert stem in built
    built = dict(build(name, width=NARROW).named_modules())
    if member.stem:  # it is where the images come in
        first = next(module for module in built.values() if isinstance(module, nn.Conv2d))
        assert any(module is first for module in built[member.stem[0]].modules())


# The published widths


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_on_large_images_resnets_are_torchvisions(name: str) -> None:
    """The same names and shapes, and with the same weights the same outputs."""
    ours, theirs = build(name, 10, (3, 96, 96)).eval(), published(name).eval()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 96, 96, generator=rng(0))
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_on_small_images_resnets_differ_by_the_stem_alone(name: str) -> None:
    with torch.device("meta"):  # shapes alone
        ours, theirs = build(name).state_dict(), published(name).state_dict()
    assert list(ours) == list(theirs)
    different = {key for key in ours if ours[key].shape != theirs[key].shape}
    assert different == {"conv1.weight"}
    assert ours["conv1.weight"].shape == (64, 3, 3, 3)


def test_small_resnets_do_not_pool_before_the_first_stage() -> None:
    model = build("resnet18", width=NARROW)
    sizes: list[int] = []
    for stage in range(1, 5):
        model.get_submodule(f"layer{stage}").register_forward_hook(lambda module, _, out: sizes.append(out.shape[-1]))
    model(torch.rand(2, 3, 32, 32))
    assert sizes == [32, 16, 8, 4]


@pytest.mark.parametrize(
    ("name", "parameters"),
    # kuangliu/pytorch-cifar's counts for ten classes, from which the field's CIFAR nets descend
    [("resnet18", 11_173_962), ("resnet34", 21_282_122), ("preact_resnet18", 11_171_146 + 2 * 512)],
)
def test_parameters_of_the_cifar_nets(name: str, parameters: int) -> None:
    """PreAct: the BatchNorm after the last block, which is He's and not theirs, is the difference."""
    with torch.device("meta"):
        assert count(build(name)) == parameters


def test_mobilenet_is_torchvisions_with_fewer_strides() -> None:
    ours, theirs = build("mobilenet_v2", 10, (3, 96, 96)).eval(), published("mobilenet_v2").eval()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 96, 96, generator=rng(0))
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    small = build("mobilenet_v2")
    assert count(small) == count(theirs)
    assert small.features(torch.rand(1, 3, 32, 32)).shape[-2:] == (4, 4)  # type: ignore[operator]


def test_vgg_convolutions_are_torchvisions() -> None:
    with torch.device("meta"):
        ours, theirs = build("vgg19_bn"), published("vgg19_bn")
    assert [str(module) for module in ours.features] == [str(module) for module in theirs.features]  # type: ignore[union-attr]
    found = {k: v.shape for k, v in ours.state_dict().items() if k.startswith("features.")}
    assert found == {k: v.shape for k, v in theirs.state_dict().items() if k.startswith("features.")}
    assert count(ours) == count(theirs.get_submodule("features")) + 512 * 10 + 10


@pytest.mark.parametrize(("size", "halvings"), [(8, 3), (16, 4), (31, 4), (32, 5), (128, 5)])
def test_vgg_halves_as_often_as_the_image_allows(size: int, halvings: int) -> None:
    pools = [module for module in build("vgg19_bn", 10, (3, size, size), width=2).modules() if isinstance(module, nn.MaxPool2d)]
    assert len(pools) == halvings


# Blocks, written out plainly


@pytest.mark.parametrize(("inside", "out", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1)])
def test_blocks_are_the_papers(inside: int, out: int, stride: int) -> None:
    x = torch.randn(2, inside, 8, 8, generator=rng(0))
    relu = torch.relu
    post, pre = BasicBlock(inside, out, stride).eval(), PreActBlock(inside, out, stride).eval()
    for block in (post, pre):
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
                nn.init.normal_(module.bias)
    before = x.clone()
    with torch.no_grad():
        shortcut = post.downsample(x) if post.downsample else x
        assert torch.equal(post(x), relu(post.bn2(post.conv2(relu(post.bn1(post.conv1(x))))) + shortcut))
        active = relu(pre.bn1(x))
        shortcut = pre.shortcut(active) if pre.shortcut else x
        assert torch.equal(pre(x), pre.conv2(relu(pre.bn2(pre.conv1(active)))) + shortcut)
    assert torch.equal(x, before)
    assert (post.downsample is None) == (pre.shortcut is None) == (inside == out and stride == 1)


# Weights


def splits(shape: tuple[int, ...] = (3, 16, 16)) -> Splits:
    samples = Samples(torch.zeros(2, *shape, dtype=torch.uint8), torch.arange(2))
    return Splits(samples, samples, samples, "abcdefghij")


@every_image_model
def test_weights_depend_on_the_generator_alone(name: str) -> None:
    task = Task.of({"name": "image", "model": {"name": name, "width": NARROW}})
    torch.manual_seed(3)
    untouched = torch.get_rng_state()
    first = task.build(task.outline(splits()), rng(0, "weights")).state_dict()
    assert torch.equal(torch.get_rng_state(), untouched)
    torch.manual_seed(4)
    same, other = (task.build(task.outline(splits()), rng(seed, "weights")).state_dict() for seed in (0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    drawn = [key for key in first if not torch.equal(first[key], other[key])]
    assert len([key for key in first if first[key].dim() == 4]) == len([key for key in drawn if first[key].dim() == 4])


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "preact_resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_start_as_torchvisions(name: str, channels: int) -> None:
    """He's normal of the fan out: standard deviation sqrt(2 / fan out), the grey stem's too."""
    for module in build(name, 10, (channels, 32, 32), width=32).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 250:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.2)


ODD = """
import torch
from torch import nn
from bdray.models import Model
from bdray.samples import Outline
torch.set_num_threads(2)
for name in ("resnet18", "preact_resnet18"):
    net = Model.of({"name": name, "width": 8}).build(Outline(tuple("0123456789"), (3, 16, 16)))
    net = net.to(memory_format=torch.channels_last)
    for size in (129, 141):
        net(torch.rand(size, 3, 16, 16).to(memory_format=torch.channels_last)).square().sum().backward()
print("alive")
"""


def test_a_batch_of_an_odd_size_on_two_threads() -> None:
    """oneDNN's backward pass of a strided 1x1 convolution of few channels crashes there."""
    found = subprocess.run([sys.executable, "-c", ODD], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "alive\n"), found.stderr
