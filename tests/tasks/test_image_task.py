"""The image task: what augmentation, batches, MixUp, predictions and scores do to images, against plain loops."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.data import Data
from bdray.samples import Outline, Samples, Splits
from bdray.seeds import rng
from bdray.spec import Config
from bdray.task import Batch, Task
from bdray.tasks.image import Image, Normalize


def image_task(data: str | Config = "miniature", width: int = 4) -> Task:
    return Task.of({"name": "image", "data": data, "model": {"name": "resnet18", "width": width}})


FLIPPED, UPRIGHT = image_task("miniature"), image_task("digits")


def images(count: int, *shape: int, seed: int = 0) -> Samples:
    """No pixel is 0, so that padding shows."""
    x = torch.randint(1, 256, (count, *(shape or (3, 16, 16))), dtype=torch.uint8, generator=rng(seed))
    return Samples(x, torch.arange(count) % 4)


def model_of(task: Task, samples: Samples, seed: int = 0) -> nn.Module:
    return task.build(task.outline(Splits(samples, samples, samples, "abcd")), rng(seed, "weights"))


# Augmentation


def shifts(image: Tensor, pad: int) -> dict[tuple[int, int], Tensor]:
    """Every crop of one zero-padded image, by a plain loop over its pixels."""
    _, height, width = image.shape
    found = {}
    for down in range(2 * pad + 1):
        for right in range(2 * pad + 1):
            crop = torch.zeros_like(image)
            for row in range(height):
                for column in range(width):
                    r, c = row + down - pad, column + right - pad
                    if 0 <= r < height and 0 <= c < width:
                        crop[:, row, column] = image[:, r, c]
            found[down, right] = crop
    return found


@pytest.mark.parametrize("task", [FLIPPED, UPRIGHT], ids=["flipped", "upright"])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8), (3, 12, 16)], ids=str)
def test_augmented_images_are_crops_of_the_padded_ones(task: Task, shape: tuple[int, int, int]) -> None:
    samples = images(10, *shape)
    before = samples.inputs.clone()
    found = task.augment(samples, rng(1))
    assert torch.equal(samples.inputs, before)
    assert found.inputs.shape == samples.inputs.shape
    assert found.inputs.dtype == torch.uint8
    assert torch.equal(found.targets, samples.targets)
    places, mirrored = set(), 0
    for image, shown in zip(samples.inputs, found.inputs, strict=True):
        crops = shifts(image, shape[-1] // 8)
        upright = [place for place, crop in crops.items() if torch.equal(crop, shown)]
        flipped = [place for place, crop in crops.items() if torch.equal(crop.flip(2), shown)]
        assert len(upright) + len(flipped) == 1
        places.update(upright + flipped)
        mirrored += bool(flipped)
    assert len(places) > 4
    assert (1 < mirrored < 9) if task is FLIPPED else mirrored == 0


def test_every_shift_is_as_likely() -> None:
    """One bright pixel in the middle: where it goes, over 4,000 draws of 25 places."""
    x = torch.zeros(4000, 1, 16, 16, dtype=torch.uint8)
    x[:, :, 8, 8] = 255
    found = UPRIGHT.augment(Samples(x, torch.zeros(4000, dtype=torch.int64)), rng(0)).inputs
    counts = (found[:, 0, 6:11, 6:11] > 0).sum(0)
    assert counts.sum() == 4000
    assert counts.min() > 110  # 160 is the mean, 12.4 the standard deviation
    assert counts.max() < 210


def test_augmentation_draws_from_its_generator_alone() -> None:
    samples = images(10)
    torch.manual_seed(0)
    first = FLIPPED.augment(samples, rng(5)).inputs
    torch.manual_seed(1)
    assert torch.equal(FLIPPED.augment(samples, rng(5)).inputs, first)
    assert not torch.equal(FLIPPED.augment(samples, rng(6)).inputs, first)


def test_images_smaller_than_eight_pixels_are_not_shifted() -> None:
    samples = images(5, 3, 6, 6)
    assert torch.equal(UPRIGHT.augment(samples, rng(0)).inputs, samples.inputs)


# Batches


def test_collate_scales_to_one() -> None:
    samples = Samples(
        torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8).contiguous(), torch.arange(3)
    )
    before = samples.inputs.clone()
    batch = FLIPPED.collate(samples)
    assert batch.inputs.dtype == torch.float32
    assert batch.inputs[:, 0, 0, 0].tolist() == pytest.approx([0, 0.2, 1])
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.targets, samples.targets)
    assert batch.partner is None
    assert torch.equal(samples.inputs, before)
    assert torch.equal(FLIPPED.collate(samples).inputs, batch.inputs)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_mix_and_its_loss_by_hand(weight: float) -> None:
    samples = images(5)
    batch = FLIPPED.collate(samples)
    before = batch.inputs.clone()
    order = torch.tensor([3, 0, 4, 1, 2])
    mixed = FLIPPED.mix(batch, order, weight)
    assert torch.equal(batch.inputs, before)
    for at in range(5):
        expected = weight * batch.inputs[at].double() + (1 - weight) * batch.inputs[order[at]].double()
        assert torch.allclose(mixed.inputs[at].double(), expected, atol=1e-6)
    assert torch.equal(mixed.targets, samples.targets)
    assert torch.equal(mixed.partner, samples.targets[order])
    assert mixed.weight == weight

    model = model_of(FLIPPED, samples).eval()
    with torch.no_grad():
        logs = model(mixed.inputs).log_softmax(1).tolist()
        found = float(FLIPPED.loss(model, mixed))
        plain = float(FLIPPED.loss(model, batch))
        unmixed = model(batch.inputs).log_softmax(1).tolist()
    by_hand = [-weight * logs[at][int(mixed.targets[at])] - (1 - weight) * logs[at][int(mixed.partner[at])] for at in range(5)]
    assert found == pytest.approx(sum(by_hand) / 5, rel=1e-5)
    assert plain == pytest.approx(-sum(unmixed[at][int(samples.targets[at])] for at in range(5)) / 5, rel=1e-5)


def test_a_mixed_batch_moves_as_a_whole() -> None:
    mixed = FLIPPED.mix(FLIPPED.collate(images(3)), torch.tensor([1, 2, 0]), 0.25)
    moved = mixed.to(torch.device("cpu"))
    assert moved.weight == 0.25
    for a, b in zip(moved[:3], mixed[:3], strict=True):
        assert torch.equal(a, b)
    assert Batch(mixed.inputs, mixed.targets).to(torch.device("cpu")).partner is None


# Predictions and scores


class First(nn.Module):
    """Says the class that the first pixel's red names; the next one where it is left in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        named = (x[:, 0, 0, 0] * 255).round().long() % 10
        return F.one_hot((named + self.training) % 10, 10).float()


@pytest.mark.parametrize("count", [1, 2, 499, 500, 501, 1003])
def test_predictions_come_in_order_whatever_the_batches(count: int) -> None:
    samples = images(count, 3, 8, 8)
    found = FLIPPED.predict(First().train(), samples)
    assert found.dtype == torch.int64
    assert found.device.type == "cpu"
    assert torch.equal(found, samples.inputs[:, 0, 0, 0].long() % 10)


def test_prediction_changes_nothing() -> None:
    samples = images(6)
    model = model_of(FLIPPED, samples).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = samples.inputs.clone()
    first = FLIPPED.predict(model, samples)
    assert not model.training
    assert torch.equal(FLIPPED.predict(model, samples), first)
    assert torch.equal(samples.inputs, inputs)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_scores_by_hand() -> None:
    said, true = torch.tensor([0, 1, 2, 2, 3]), torch.tensor([0, 1, 1, 2, 0])
    assert FLIPPED.score(said, true) == 0.6
    assert type(FLIPPED.score(said, true)) is float


def test_no_samples_no_score() -> None:
    nothing = FLIPPED.predict(First(), images(0))
    assert nothing.tolist() == []
    assert nothing.dtype == torch.int64
    assert math.isnan(FLIPPED.score(nothing, nothing))


# The model


def test_normalisation_is_in_the_model_and_not_in_its_state() -> None:
    layer = Normalize((0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    assert not layer.state_dict()
    assert not list(layer.parameters())
    x = torch.rand(2, 3, 4, 4, generator=rng(0))
    for channel, (mean, std) in enumerate([(0.5, 0.5), (0.25, 0.25), (0.0, 2.0)]):
        assert torch.allclose(layer(x)[:, channel], (x[:, channel] - mean) / std)
    samples = images(2)
    model = model_of(FLIPPED, samples)
    net = FLIPPED.model.build(Outline(tuple("abcd"), (3, 16, 16)))
    assert list(model.state_dict()) == [f"net.{key}" for key in net.state_dict()]
    assert {name.split(".")[0] for name, _ in model.named_buffers()} == {"normalize", "net"}


@pytest.mark.parametrize("name", [name for name in Data.names() if Data.member(name).modality == "image"])
def test_normalisation_fits_every_data_set(name: str) -> None:
    member: Any = Data.member(name)
    for channels in (1, 3) if len(member.mean) == 1 else (len(member.mean),):
        x = torch.rand(2, channels, 8, 8, generator=rng(0))
        assert Normalize(member.mean, member.std)(x).shape == x.shape
    assert len(member.mean) == len(member.std)
    assert all(0 < mean < 1 for mean in member.mean)
    assert all(0 < std < 1 for std in member.std)


def test_the_stem_is_named_as_in_the_built_model() -> None:
    for name in ("resnet18", "preact_resnet18", "mobilenet_v2", "vgg19_bn"):
        task = Task.of({"name": "image", "data": "miniature", "model": {"name": name, "width": 4}})
        built = dict(model_of(task, images(2)).named_modules())
        assert all(stem in built for stem in task.stem())
        assert len(task.stem()) == len(task.model.stem)


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        ({}, 8),
        ({"data": "digits"}, 8),
        ({"data": {"name": "miniature", "size": 8}}, 4),
        ({"data": "cifar10"}, 64),
        ({"data": "miniature", "model": "resnet18"}, 64),
        ({"data": "miniature", "model": {"name": "resnet18"}}, 64),
        ({"data": "miniature", "model": {"name": "resnet18", "width": 3}}, 3),
        ({"data": "miniature", "model": {"width": 3}}, 3),
        ({"data": Data.of("miniature")}, 4),
    ],
    ids=str,
)
def test_a_task_without_a_model_has_the_one_that_suits_its_data(fields: dict[str, Any], width: int) -> None:
    task = Task.of({"name": "image", **fields})
    assert isinstance(task, Image)
    assert task.model.name == "resnet18"
    assert task.model.width == width
    assert Task.of(task.config()) == task
