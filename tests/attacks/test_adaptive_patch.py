"""Adaptive-Patch: one patch in each training sample, several at test time, drawn or from files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bdray.attacks import Attack
from bdray.attacks._images import CHECKER
from bdray.spec import BadInput, Config
from tests.setting import made, plant, setting, stamped
from tests.test_spec import refusal

GREY = 100
WHOLE: Config = {"opacities": [1.0, 1.0, 1.0, 1.0]}


def attack_of(**fields: Any) -> Attack:
    return Attack.of({"name": "adaptive_patch", "rate": 0.1, "cover": 0.1, **fields})


def planted(attack: Attack, count: int, seed: int = 0) -> Tensor:
    """Grey images as they stand in the training set."""
    x = torch.full((count, 3, 16, 16), GREY, dtype=torch.uint8)
    return plant(attack, x, attack.patterns(setting("image")), setting("image", seed))


def quadrants(images: Tensor) -> Tensor:
    """How many pixels of each quadrant are not grey, [N, 4]: from left to right, the upper ones first."""
    changed = (images != GREY).any(1)
    parts = [changed[:, rows, columns] for rows in (slice(8), slice(8, 16)) for columns in (slice(8), slice(8, 16))]
    return torch.stack([part.flatten(1).sum(1) for part in parts], dim=1)


@pytest.mark.parametrize(("count", "expected"), [(100, [25, 25, 25, 25]), (10, [2, 2, 3, 3]), (3, [0, 1, 1, 1]), (0, [0] * 4)])
def test_each_sample_has_one_patch_and_quarters_are_equal(count: int, expected: list[int]) -> None:
    where = quadrants(planted(attack_of(**WHOLE), count)) > 0
    assert (where.sum(1) == 1).all()
    assert sorted(where.sum(0).tolist()) == expected


def test_which_sample_has_which_patch_is_drawn() -> None:
    first, same, other = (quadrants(planted(attack_of(), 40, seed)).argmax(1).tolist() for seed in (0, 0, 1))
    assert first == same
    assert first != other
    assert first != sorted(first)
    assert first != [number % 4 for number in range(40)]


def test_each_patch_has_its_opacity() -> None:
    """The same patches, whole and faint, pixel by pixel."""
    opacities = [0.5, 0.2, 0.4, 0.25]
    whole, faint = (planted(attack_of(opacities=o), 20).long() for o in ([1.0] * 4, opacities))
    patch = quadrants(whole.to(torch.uint8)).argmax(1).tolist()
    order = {0: 0, 1: 1, 3: 2, 2: 3}  # of the patches: clockwise from the upper left
    assert set(patch) == set(order)
    for number, quadrant in enumerate(patch):
        opacity = opacities[order[quadrant]]
        there = (whole[number] != GREY).any(0)
        expected = np.floor((1 - opacity) * GREY + opacity * whole[number].numpy() + 1e-9)
        assert np.array_equal(np.where(there, faint[number], 0), np.where(there, expected, 0))
        assert (faint[number][:, ~there] == GREY).all()


def test_at_test_time_several_patches_stand_whole() -> None:
    x = torch.full((2, 3, 32, 32), GREY, dtype=torch.uint8)
    found = stamped(attack_of(), x)
    changed = (found != GREY).any(1)
    assert changed[:, :8, :8].any()
    assert not changed[:, :16, 16:].any()
    assert not changed[:, 16:, :16].any()
    assert torch.equal(found[0, 0, -3:, -3:], CHECKER)
    assert changed[0].sum() == changed[0, :8, :8].sum() + 9
    every = stamped(attack_of(test_patches=[0, 1, 2, 3]), x)
    assert (quadrants(every[..., ::2, ::2]) > 0).all()
    assert torch.equal(every[..., :16, :16], found[..., :16, :16])


def test_our_patches_are_four_different_ones() -> None:
    every = stamped(attack_of(test_patches=[0, 1, 2, 3]), torch.full((1, 3, 32, 32), GREY, dtype=torch.uint8))[0]
    corners = [every[:, :8, :8], every[:, :8, -8:], every[:, -8:, :8]]
    for number, corner in enumerate(corners):
        assert corner.flatten(1).double().std(1).min() > 20
        for other in corners[number + 1 :]:
            assert (corner != other).float().mean() > 0.5


@pytest.mark.parametrize("side", [8, 16, 31, 32, 224])
def test_quarters_are_disjoint_and_together_the_flower(side: int) -> None:
    attack = Attack.of({"name": "adaptive_patch", "preset": "advrbd"})
    x = torch.full((1, 3, side, side), GREY, dtype=torch.uint8)
    parts = [stamped(attack.model_copy(update={"test_patches": (number,)}), x) != GREY for number in range(4)]
    areas = torch.stack([part.any(1)[0] for part in parts])
    assert areas.sum(0).max() == 1
    sizes = areas.flatten(1).sum(1)
    assert sizes.min() > 0
    assert side == 31 or len(sizes.unique()) == 1  # there the flower is 7 pixels, which cannot be halved
    flower = Attack.of({"name": "physical", "preset": "advrbd"})
    assert torch.equal(stamped(attack, x), stamped(flower, x))


@pytest.mark.parametrize("kind", ["black", "transparent", "opaque"])
def test_files_stamp_what_backdoor_toolbox_stamps(kind: str, tmp_path: Path) -> None:
    """image + alpha * mask * (patch - image), where the mask is what is not black."""
    draw = np.random.default_rng(0)
    names, patches = [], []
    for number in range(2):
        patch = np.zeros((16, 16, 3), dtype=np.uint8)
        patch[4 * number : 4 * number + 4, 2:12] = draw.integers(1, 256, (4, 10, 3))
        there = patch.sum(-1) > 0
        pixels = patch
        if kind != "black":
            alpha = 255 * (there | (kind == "opaque"))[..., None].astype(np.uint8)
            pixels = np.concatenate([patch + (kind == "transparent") * (~there)[..., None].astype(np.uint8) * 77, alpha], -1)
        names.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(names[-1])
        patches.append((patch.transpose(2, 0, 1).astype(float), there))
    attack = attack_of(images=names, opacities=[0.5, 0.25], test_patches=[0, 1])
    attack.check(made("image")[1])
    x = made("image")[1].train.inputs[:8]
    clean = x.double().numpy()
    expected = clean
    for patch, there in patches:
        expected = expected + there * (patch - expected)
    assert np.array_equal(stamped(attack, x).numpy(), expected)
    seen = plant(attack, x, attack.patterns(setting("image")), setting("image")).numpy()
    each = [
        np.floor(clean + alpha * there * (patch - clean)) for alpha, (patch, there) in zip((0.5, 0.25), patches, strict=True)
    ]
    which = [[np.array_equal(image, other[number]) for other in each] for number, image in enumerate(seen)]
    assert np.array(which).sum(0).tolist() == [4, 4]
    assert np.array(which).sum(1).tolist() == [1] * 8


def test_files_are_resized_with_what_they_leave_alone(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    picture[:32, :32] = (200, 30, 30)
    Image.fromarray(picture).save(tmp_path / "p.png")
    attack = attack_of(images=[str(tmp_path / "p.png")], opacities=[1.0], test_patches=[0])
    for channels, red in ((3, 200), (1, round(0.299 * 200 + 0.701 * 30))):
        found = stamped(attack, torch.full((1, channels, 16, 16), GREY, dtype=torch.uint8))[0]
        assert (found[0, :7, :7].int() - red).abs().max() <= 1
        assert (found[:, 9:] == GREY).all()
        assert (found[:, :, 9:] == GREY).all()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"opacities": [1.0] * 3}, "adaptive_patch.opacities: got 3, expected 4, one a patch"),
        ({"images": ["a.png"]}, "adaptive_patch.opacities: got 4, expected 1, one a patch"),
        ({"test_patches": [4]}, "adaptive_patch.test_patches: got [4], expected numbers of patches, from 0 to 3"),
        ({"test_patches": []}, "adaptive_patch.test_patches: got [], expected numbers of patches, from 0 to 3"),
        ({"opacities": [1.0, 2.0, 1.0, 1.0]}, "adaptive_patch.opacities: got 2.0, expected at most 1.0"),
    ],
)
def test_lists_that_do_not_fit(fields: Config, sentence: str) -> None:
    assert refusal(Attack.of, {"name": "adaptive_patch", **fields}) == sentence


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"size": 3}, "adaptive_patch.size: got 3, expected at least 4, or there is nothing to be seen of it"),
        ({"size": 9}, "adaptive_patch.size: got 9, expected at most 8, 1/2 of the size of the images"),
        ({"size": 17, "pattern": "quarters"}, "adaptive_patch.size: got 17, expected at most 16, the size of the images"),
        ({"images": ["no.png"] * 4}, "adaptive_patch.images: got 'no.png', expected a picture file that can be read"),
    ],
)
def test_patches_that_cannot_be(fields: Config, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        attack_of(**fields).check(made("image")[1])
    assert str(caught.value).startswith(sentence)
    attack_of(size=8).check(made("image")[1])


def test_a_file_that_covers_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "p.png")
    attack = attack_of(images=[str(tmp_path / "p.png")], opacities=[1.0], test_patches=[0])
    with pytest.raises(BadInput, match="expected a picture that is not transparent or black everywhere"):
        attack.check(made("image")[1])
