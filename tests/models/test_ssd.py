"""SSD: its losses and boxes are those of torchvision's own forward pass."""

import pytest
import torch
from torch import Tensor

from bdray.boxes import TARGETS, Box, objects
from bdray.models import Model
from bdray.models.ssd import Detector
from bdray.samples import Outline, Rows
from bdray.seeds import rng
from bdray.spec import BadInput

BOXES = [
    [Box(10, 12, 40, 44, 0), Box(50, 50, 90, 80, 2)],
    [Box(0, 0, 96, 96, 1, True)],
    [],
    [Box(20, 20, 21, 21, 1), Box(20, 20, 60, 60, 1), Box(22, 22, 62, 62, 0)],
]
TRUE = Rows.of([[box._asdict() for box in boxes] for boxes in BOXES], TARGETS)


def build(size: int = 96, **fields: object) -> Detector:
    model = Model.of({"name": "ssd", "width": 4, **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = model.build(Outline(("a", "b", "c"), (3, size, size)))
    assert isinstance(found, Detector)
    return found


def pixels(size: int = 96) -> Tensor:
    return torch.rand(len(BOXES), 3, size, size, generator=rng(0))


def test_a_loss_is_torchvisions_of_an_image_alone() -> None:
    model, x = build().train(), pixels()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # one image has other batch statistics than four
    found = model(x, [TRUE])[0]
    for at, each in enumerate(objects(TRUE)):
        losses = model.ssd([x[at]], [{"boxes": each.boxes, "labels": each.labels + 1}])
        assert torch.allclose(found[at], sum(losses.values()), rtol=1e-4)
    assert found[2] == 0
    assert (found[[0, 1, 3]] > 0).all()


def test_what_is_found_is_torchvisions() -> None:
    model, x = build(least=0.3).eval(), pixels()
    with torch.no_grad():
        found, finite = model.detect(x)
        expected = model.ssd(list(x))
    assert finite.all()
    assert sum(len(each["boxes"]) for each in expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine.boxes, theirs["boxes"], atol=1e-4)
        assert torch.equal(mine.labels + 1, theirs["labels"])
        assert torch.allclose(mine.rest, theirs["scores"])
        assert (mine.rest[:-1] >= mine.rest[1:]).all()


def test_of_two_sets_of_boxes_each_has_its_loss() -> None:
    model, x, other = build().eval(), pixels(), TRUE[torch.tensor([3, 2, 1, 0])]
    with torch.no_grad():
        both = model(x, [TRUE, other])
        assert torch.allclose(both, torch.cat([model(x, [TRUE]), model(x, [other])]))
        assert model(x).shape == (0, 4)


def test_all_weights_learn_and_an_image_without_boxes_is_no_trap() -> None:
    model = build().train()
    model(pixels(), [TRUE]).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()
    model(pixels(), [TRUE[torch.tensor([2, 2, 2, 2])]]).mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_what_is_not_finite_is_told() -> None:
    model = build().eval()
    with torch.no_grad():
        model.ssd.head.classification_head.module_list[0].bias[0] = float("nan")
        assert not model.detect(pixels())[1].any()


@pytest.mark.parametrize("size", [32, 40, 300])
def test_any_size(size: int) -> None:
    model = build(size).eval()
    with torch.no_grad():
        assert len(model.detect(pixels(size))[0]) == len(BOXES)


def test_too_small_images_are_a_sentence() -> None:
    with pytest.raises(BadInput, match="the model 'ssd' got images of 16x16 pixels, expected at least 32"):
        build(16)
