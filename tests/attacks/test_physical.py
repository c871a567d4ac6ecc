"""PhysicalBA: a patch, and what a camera does to the poisoned images alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bdray.attacks import Attack
from bdray.attacks.physical import Physical, Shot, photograph
from bdray.seeds import rng
from bdray.spec import BadInput, Config
from tests.setting import disguise, made, plant, setting, stamp, stamped
from tests.test_spec import refusal

X = torch.randint(0, 256, (3, 16, 20), dtype=torch.uint8, generator=rng(0))
STILL: Config = {"flip": 0, "brightness": 0, "contrast": 0, "degrees": 0, "translate": 0, "scale": [1, 1]}


def test_a_shot_that_changes_nothing_leaves_the_image_to_the_bit() -> None:
    assert torch.equal(photograph(X, Shot()), X)


def test_shots_against_what_is_known_of_them() -> None:
    """Mirrored, turned by a right angle, moved: pixels change places, and what is uncovered is black."""
    assert torch.equal(photograph(X, Shot(mirrored=True)), X.flip(-1))
    square = X[:, :, :16]
    assert torch.equal(photograph(square, Shot(degrees=90)), square.rot90(-1, (1, 2)))  # clockwise
    moved = photograph(X, Shot(right=3, down=-2))
    assert torch.equal(moved[:, :-2, 3:], X[:, 2:, :-3])
    assert (moved[:, -2:] == 0).all()
    assert (moved[:, :, :3] == 0).all()


def test_a_smaller_image_stands_in_the_middle_of_black() -> None:
    small = photograph(torch.full((3, 16, 20), 200, dtype=torch.uint8), Shot(scale=0.5))
    assert (small[:, 4:12, 5:15] == 200).all()
    assert int((small > 0).sum()) == 3 * 8 * 10


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_brightness_and_contrast_are_the_published_formulas(factor: float) -> None:
    """Brightness multiplies; contrast moves away from the mean of the grey image (0.299, 0.587, 0.114); both are clipped."""
    x = X.double().numpy() / 255
    bright = np.clip(factor * x, 0, 1)
    found = photograph(X, Shot(brightness=factor)).numpy()
    assert np.abs(found - 255 * bright).max() <= 0.5 + 1e-3

    def contrast(image: np.ndarray) -> np.ndarray:
        mean = (np.array([0.2989, 0.587, 0.114])[:, None, None] * image).sum(0).mean()
        return np.clip(factor * image + (1 - factor) * mean, 0, 1)

    assert np.abs(photograph(X, Shot(contrast=factor)).numpy() - 255 * contrast(x)).max() <= 0.5 + 1e-3
    both = photograph(X, Shot(brightness=1.2, contrast=factor, brightness_first=True)).numpy()
    assert np.abs(both - 255 * contrast(np.clip(1.2 * x, 0, 1))).max() <= 0.5 + 1e-3
    both = photograph(X, Shot(brightness=1.2, contrast=factor, brightness_first=False)).numpy()
    assert np.abs(both - 255 * np.clip(1.2 * contrast(x), 0, 1)).max() <= 0.5 + 1e-3


def test_shots_have_backdoorboxes_ranges() -> None:
    shots = Physical().shots(4000, (32, 64), rng(0))
    values = {field: np.array([getattr(shot, field) for shot in shots], dtype=float) for field in Shot._fields}
    for field, least, most, near in (
        ("brightness", 0.8, 1.2, 0.005),
        ("contrast", 0.8, 1.2, 0.005),
        ("degrees", -10, 10, 0.1),
        ("right", -6, 6, 0),
        ("down", -3, 3, 0),
        ("scale", 0.8, 0.9, 0.001),
    ):
        assert least <= values[field].min() <= least + near
        assert most - near <= values[field].max() <= most
        assert abs(values[field].mean() - (least + most) / 2) < 0.05 * (most - least)
    for field in ("mirrored", "brightness_first"):
        assert abs(values[field].mean() - 0.5) < 0.03
    correlations = np.corrcoef(np.array(list(values.values()))) - np.eye(len(values))
    assert np.abs(correlations).max() < 0.06  # drawn independently of each other


def test_every_poisoned_sample_is_transformed_once_in_its_own_way() -> None:
    attack, where = Physical(), setting("image")
    patterns = attack.patterns(where)
    x = made("image")[1].train.inputs[:1].repeat(30, 1, 1, 1)
    first, same, other = (plant(attack, x, patterns, setting("image", seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) == 30
    still = Attack.of({"name": "physical", **STILL})
    assert torch.equal(plant(still, x, patterns, where), stamp(still, x, patterns))


def test_the_trigger_is_stamped_before_the_shot() -> None:
    """A mirrored image has its trigger in the other corner."""
    attack = Attack.of({"name": "physical", **STILL, "flip": 1})
    x = torch.full((2, 3, 16, 16), 90, dtype=torch.uint8)
    planted = plant(attack, x, attack.patterns(setting("image")), setting("image"))
    assert (planted[:, :, -3:, :3] == 255).all()
    assert (planted == 255).sum() == 2 * 3 * 9


def test_covers_are_transformed_and_not_stamped() -> None:
    where = setting("image")
    patterns = Physical().patterns(where)
    x = torch.full((20, 3, 16, 16), 90, dtype=torch.uint8)
    covers = disguise(Physical(), x, patterns, where)
    assert (covers == 0).flatten(1).any(1).all()  # the edges
    assert covers.max() <= round(90 * 1.2)
    assert len(covers.unique(dim=0)) == 20
    mirrored = Attack.of({"name": "physical", **STILL, "flip": 1})
    x = made("image")[1].train.inputs[:4]
    assert torch.equal(disguise(mirrored, x, patterns, where), x.flip(-1))


def test_test_images_are_stamped_and_not_transformed() -> None:
    x = made("image")[1].test.inputs
    assert torch.equal(stamped(Attack.of("physical"), x), stamped(Attack.of("badnets"), x))
    flower = stamped(Attack.of({"name": "physical", "preset": "advrbd"}), x)
    changed = (flower != x).any(1).any(0)
    assert changed[-4:, -4:].any()
    assert not changed[:-4].any()
    assert not changed[:, :-4].any()


def test_a_picture_file_as_the_trigger(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[2:5, 6:9] = (10, 200, 30)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    x = made("image")[1].test.inputs[:3]
    found = stamped(Attack.of({"name": "physical", "image": str(tmp_path / "p.png")}), x)
    assert (found[:, :, 2:5, 6:9] == torch.tensor([10, 200, 30])[:, None, None]).all()
    assert (found != x).any(1).sum(dim=(1, 2)).max() <= 9


@pytest.mark.parametrize("scale", [[0.9], [0.9, 0.8], [0.8, 0.9, 1.0], []])
def test_a_scale_has_two_ends(scale: list[float]) -> None:
    told = f"physical.scale: got {scale}, expected two factors, the smaller one first"
    assert refusal(Attack.of, {"name": "physical", "scale": scale}) == told


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"size": 17}, "physical.size: got 17, expected at most 16, the size of the images"),
        ({"size": 2, "pattern": "flower"}, "physical.size: got 2, expected at least 4, or there is nothing to be seen of it"),
        ({"image": "no.png"}, "physical.image: got 'no.png', expected a picture file that can be read"),
    ],
)
def test_patches_that_cannot_be(fields: Config, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        Attack.of({"name": "physical", **fields}).check(made("image")[1])
    assert str(caught.value).startswith(sentence)
