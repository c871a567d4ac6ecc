"""Adaptive-Blend: half of the pieces of the image in each training sample, all of them at test time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bdray.attacks import Attack, poison
from bdray.seeds import rng
from bdray.spec import BadInput, Config
from tests.setting import made, plant, setting, stamped
from tests.test_spec import refusal


def covered(tmp_path: Path, count: int, height: int, width: int, seed: int = 0, **fields: Any) -> Tensor:
    """Which pixels of so many black images turn white when a white picture is blended in whole, bool [N, H, W]."""
    Image.new("RGB", (8, 8), "white").save(tmp_path / "white.png")
    attack = Attack.of({"name": "adaptive_blend", "image": str(tmp_path / "white.png"), "opacity": 1.0, **fields})
    x = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    planted = plant(attack, x, {"image": torch.full((3, height, width), 255, dtype=torch.uint8)}, setting("image", seed))
    assert set(planted.unique().tolist()) <= {0, 255}
    assert torch.equal(planted[:, 0], planted[:, 1])
    assert torch.equal(planted[:, 0], planted[:, 2])
    return planted[:, 0] == 255


def test_every_sample_has_its_own_eight_of_sixteen_pieces(tmp_path: Path) -> None:
    pieces = covered(tmp_path, 300, 32, 32).view(300, 4, 8, 4, 8).permute(0, 1, 3, 2, 4).flatten(3)
    whole, some = pieces.all(-1), pieces.any(-1)
    assert torch.equal(whole, some)  # a piece is there or it is not
    assert (whole.flatten(1).sum(1) == 8).all()
    assert len({tuple(row) for row in whole.flatten(1).tolist()}) > 280  # of 12,870 that there are
    assert ((whole.float().mean(0) - 0.5).abs() < 0.1).all()
    assert not torch.equal(covered(tmp_path, 300, 32, 32, seed=1), covered(tmp_path, 300, 32, 32))


@pytest.mark.parametrize(("masked", "left"), [(0.0, 9), (0.5, 5), (0.7, 3), (1.0, 0)])
def test_the_masked_share_is_that_of_the_pieces(tmp_path: Path, masked: float, left: int) -> None:
    pieces = covered(tmp_path, 20, 9, 9, pieces=9, masked=masked)[:, ::3, ::3]
    assert (pieces.flatten(1).sum(1) == left).all()


@pytest.mark.parametrize("shape", [(17, 23), (32, 32), (5, 64)])
def test_pieces_of_any_image_are_all_of_it(tmp_path: Path, shape: tuple[int, int]) -> None:
    one = covered(tmp_path, 400, *shape, masked=15 / 16)
    pieces = one.unique(dim=0)
    assert len(pieces) == 16
    assert (pieces.sum(0) == 1).all()
    sizes = pieces.flatten(1).sum(1)
    rows, columns = (-(-side // 4) for side in shape)
    assert sizes.max() <= rows * columns
    assert sizes.min() >= (shape[0] // 4) * (shape[1] // 4)


def test_what_is_planted_is_the_formula() -> None:
    """Against numbers written out one by one: faint where a piece is, untouched elsewhere."""
    attack, patterns = Attack.of("adaptive_blend"), {"image": torch.randint(0, 256, (3, 16, 16), generator=rng(1))}
    x = made("image")[1].train.inputs[:6]
    before = x.clone()
    planted = plant(attack, x, patterns, setting("image"))
    assert torch.equal(x, before)
    image, clean = patterns["image"].double().numpy(), x.double().numpy()
    whole = np.floor((1 - 0.15) * clean + 0.15 * image)
    here = (planted != x).any(1).view(-1, 4, 4, 4, 4).any(4).any(2)  # pieces that changed
    assert (here.flatten(1).sum(1) == 8).all()
    where = here.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].numpy()
    assert np.array_equal(planted.numpy(), np.where(where, whole, clean))


def test_the_whole_image_at_test_time_is_blends() -> None:
    x = made("image")[1].test.inputs
    assert torch.equal(stamped(Attack.of("adaptive_blend"), x), stamped(Attack.of({"name": "blend", "opacity": 0.2}), x))
    strong = Attack.of({"name": "adaptive_blend", "test_opacity": 0.5, "opacity": 0.01})
    assert torch.equal(stamped(strong, x), stamped(Attack.of({"name": "blend", "opacity": 0.5}), x))


def test_covers_have_pieces_of_their_own() -> None:
    attack = Attack.of({"name": "adaptive_blend", "rate": 0.1, "cover": 0.1, "opacity": 0.3})
    where = setting("image")
    harm = poison(attack, attack.patterns(where), where)
    clean = made("image")[1].train.inputs[harm.cover]
    untouched = (harm.disguised.inputs == clean).all(1).float().flatten(1).mean(1)
    assert ((untouched > 0.45) & (untouched < 0.65)).all()
    masks = (harm.disguised.inputs != clean).any(1)
    assert len(masks.unique(dim=0)) == len(masks)


def test_pieces_that_cannot_be() -> None:
    assert refusal(Attack.of, {"name": "adaptive_blend", "pieces": 15}) == (
        "adaptive_blend.pieces: got 15, expected a square number, such as 4, 9 or 16"
    )
    fields: list[tuple[Config, str]] = [
        ({"pieces": 400}, "adaptive_blend.pieces: got 400, expected at most 256, one a pixel"),
        ({"image": "no.png"}, "adaptive_blend.image: got 'no.png', expected a picture file that can be read"),
    ]
    for field, sentence in fields:
        with pytest.raises(BadInput) as caught:
            Attack.of({"name": "adaptive_blend", "rate": 0.1, "cover": 0.1, **field}).check(made("image")[1])
        assert str(caught.value).startswith(sentence)
