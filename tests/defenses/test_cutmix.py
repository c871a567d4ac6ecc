"""CutMix: the weight of a label is the share of pixels, and nothing outside the box changes."""

from typing import Any

import pytest
import torch
from torch import nn

from bdray.defenses import Evidence
from bdray.defenses import cutmix as module
from bdray.defenses.cutmix import CutMix, box, pasted
from bdray.samples import Outline, Samples
from bdray.seeds import numpy_rng, rng
from bdray.spec import BadInput
from bdray.task import Batch, Task
from bdray.training import Training, silent

TASK = Task.of({"name": "image", "data": "miniature"})
MODEL = nn.Identity()


def flat(count: int, height: int = 10, width: int = 14) -> Batch:
    """Image i is i everywhere, and so is its label."""
    numbers = torch.arange(count)
    return Batch(numbers.float()[:, None, None, None].expand(count, 3, height, width).contiguous(), numbers)


@pytest.mark.parametrize("seed", range(20))
def test_a_labels_weight_is_the_share_of_its_pixels(seed: int) -> None:
    batch, order = flat(6), torch.tensor([3, 4, 5, 1, 2, 0])
    where = box(10, 14, 0.4, numpy_rng(rng(seed)))
    mixed = pasted(batch, order, where)
    assert torch.equal(batch.inputs, flat(6).inputs)
    assert torch.equal(mixed.targets, batch.targets)
    assert torch.equal(mixed.partner, order)
    for own, partner, image in zip(mixed.targets, mixed.partner, mixed.inputs, strict=True):
        assert float((image == own).double().mean()) == pytest.approx(mixed.weight, abs=1e-12)
        assert float((image == partner).double().mean()) == pytest.approx(1 - mixed.weight, abs=1e-12)
        inside = torch.zeros(10, 14, dtype=torch.bool)
        inside[where] = True
        assert (image[:, inside] == partner).all()
        assert (image[:, ~inside] == own).all()


def test_boxes() -> None:
    """Centres are uniform; a box has the size asked for, cut off at the border."""
    draw = numpy_rng(rng(0))
    boxes = [box(16, 32, 0.75, draw) for _ in range(3000)]
    assert all(0 <= s.start <= s.stop <= size for pair in boxes for s, size in zip(pair, (16, 32), strict=True))
    heights = torch.tensor([rows.stop - rows.start for rows, _ in boxes])
    widths = torch.tensor([columns.stop - columns.start for _, columns in boxes])
    assert (heights.max(), widths.max()) == (8, 16)  # the square root of 0.25 of each side
    assert (heights.min(), widths.min()) == (4, 8)  # around a pixel of the border
    assert float((heights == 8).double().mean()) == pytest.approx(9 / 16, abs=0.03)  # centres 4 to 12 of 16
    assert float((widths == 16).double().mean()) == pytest.approx(17 / 32, abs=0.03)


def mixing(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> tuple[Any, Training]:
    """What the defense makes of each batch, and the recipe that it trains by."""
    found: dict[str, Any] = {}

    def fit(model: nn.Module, samples: Samples, task: Task, training: Training, seed: int, *rest: Any, **more: Any) -> None:
        found.update(training=training, **more)

    monkeypatch.setattr(module, "fit", fit)
    samples = Samples(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
    evidence = Evidence(
        train=samples, outline=Outline(tuple("abcd"), tuple(samples.inputs.shape[1:])), training=Training(epochs=7)
    )
    CutMix(**fields).defend(evidence, TASK, rng(0), silent)
    return found["adversary"], found["training"]


def test_every_batch_is_mixed_by_a_bounded_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beta(1, 1) is uniform: three tenths of all shares are raised to 0.3, as many lowered to 0.7."""
    shares: list[float] = []

    def spy(height: int, width: int, share: float, draw: Any) -> tuple[slice, slice]:
        shares.append(share)
        return box(height, width, share, draw)

    monkeypatch.setattr(module, "box", spy)
    mix, _ = mixing(monkeypatch)
    mixed = [mix(MODEL, flat(5)) for _ in range(1000)]
    assert all(sorted(batch.partner.tolist()) == [0, 1, 2, 3, 4] for batch in mixed)
    assert len({tuple(batch.partner.tolist()) for batch in mixed}) > 100
    found = torch.tensor(shares)
    assert len(found) == 1000
    assert (found.min(), found.max()) == (pytest.approx(0.3), pytest.approx(0.7))
    assert float((found == found.min()).double().mean()) == pytest.approx(0.3, abs=0.04)
    assert float((found == found.max()).double().mean()) == pytest.approx(0.3, abs=0.04)


def test_a_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = flat(5)
    never, _ = mixing(monkeypatch, probability=0.0)
    assert never(MODEL, batch) is batch
    often, _ = mixing(monkeypatch, probability=0.25)
    assert sum(often(MODEL, batch) is not batch for _ in range(1000)) == pytest.approx(250, abs=40)


def test_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mixing(monkeypatch)[1] == Training(epochs=7)
    assert mixing(monkeypatch, epochs=3)[1] == Training(epochs=3)


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(BadInput, match=r"cutmix\.least: got 0\.8, expected at most cutmix\.most \(0\.7\)"):
        CutMix(least=0.8)
