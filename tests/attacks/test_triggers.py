"""Triggers on images, to the bit where other code bases say which bits.

`golden/triggers.json` are facts about other code bases: what BackdoorBench f02e353, BackdoorBox af3afd1, backdoor-toolbox
9d4d909, ART and NFT 9e40cac return with the parameters written there, recorded once for the project, on two 32x32x3 images:
G128, all 128, and RAMP, (7 row + 3 column + 50 channel) % 256. The hash is SHA-256 of the bytes in row, column, channel
order.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import Tensor

from bdray.attacks import Attack
from bdray.attacks._images import blended, by_parts, rosette
from bdray.seeds import rng
from bdray.spec import BadInput, Config
from tests.setting import IMAGES, attack_of, made, stamped

# Golden outputs

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "triggers.json").read_text())
Source = tuple[str, str, str]

SQUARE: Source = ("BackdoorBox", "AddTrigger.add_trigger (BadNets)", "3x3 white bottom-right, weight 1.0")
SAME: dict[Source, Config] = {
    ("BackdoorBench", "AddMaskPatchTrigger", "resource/badnet/trigger_image.png; clip->uint8"): {"name": "badnets"},
    SQUARE: {"name": "badnets"},
    ("BackdoorBox", "AddTrigger.add_trigger (Blended, tests/test_Blended.py default)", "3x3 patch, weight 0.2"): {
        "name": "badnets",
        "opacity": 0.2,
    },
    ("NFT (ANP code base)", "generate_trigger+add_trigger_cifar", "checkerboard_1corner, alpha=1.0"): {
        "name": "badnets",
        "pattern": "checkerboard",
    },
    ("BackdoorBench", "sigTriggerAttack", "delta=40,f=6"): {"name": "sig"},
    (
        "BackdoorBench",
        "labelConsistentAttack.poison_from_indices",
        "all-corners, reduced_amplitude=1 (trigger only)",
    ): {"name": "label_consistent"},
    ("NFT (ANP code base)", "generate_trigger+add_trigger_cifar", "checkerboard_4corner, alpha=1.0"): {
        "name": "label_consistent"
    },
}
"""Ours gives the same bytes."""
FLOATS = ("backdoor-toolbox", "SIG pattern add+clamp", "delta=30/255,f=6 (float32 CHW [0,1])")
"""Never at rest in 8 bits there: ours is the same with the fraction cut off."""
PICTURES: dict[Source, str] = {
    ("BackdoorBench", "blendedImageAttack", "hello_kitty.jpeg, alpha=0.2; clip->uint8 (truncation)"): "Hello Kitty",
    ("backdoor-toolbox", "blend.poison_transform.transform", "hellokitty_32.png alpha=0.2 (float32 CHW [0,1])"): "Hello Kitty",
    ("NFT (ANP code base)", "generate_trigger+add_trigger_cifar", "gaussian_noise, alpha=0.2"): "a noise image",
}
"""A picture that is not ours to ship: the arithmetic of blending is compared, not the bytes."""
NOT_OURS: dict[Source, str] = {
    (
        "BackdoorBench",
        "SimpleAdditiveTrigger (LF)",
        "cifar10_preactresnet18_0_255.npy",
    ): "low-frequency is not one of our attacks",
    ("ART", "add_single_bd", "distance=2,pixel_value=255 (NHWC)"): "one pixel, two from the corner: no paper's trigger",
    ("ART", "add_pattern_bd", "distance=2,pixel_value=255 (NHWC)"): "four pixels, two from the corner: no paper's trigger",
}


def source(fact: dict[str, Any]) -> Source:
    return fact["peer"], fact["function"], fact["params"]


def facts(*sources: Source) -> list[Any]:
    found = [fact for fact in GOLDEN if source(fact) in sources]
    return [pytest.param(fact, id=f"{fact['peer']}, {fact['params']}, {fact['input']}") for fact in found]


def golden_input(name: str) -> Tensor:
    """uint8 [1, 3, 32, 32]."""
    rows, columns, channels = np.ogrid[:32, :32, :3]
    image = np.full((32, 32, 3), 128) if name == "G128" else (7 * rows + 3 * columns + 50 * channels) % 256
    return torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1)[None].contiguous()


def sha256(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def rows_first(x: Tensor) -> np.ndarray:
    return x[0].permute(1, 2, 0).numpy()


def test_every_golden_output_is_compared_or_said_why_not() -> None:
    inputs = ("input", "-", "-")
    groups = [set(SAME), {FLOATS}, set(PICTURES), set(NOT_OURS), {inputs}]
    assert set.union(*groups) == {source(fact) for fact in GOLDEN}
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert len(GOLDEN) == 30
    for fact in GOLDEN:
        if source(fact) == inputs:
            assert sha256(rows_first(golden_input(fact["input"]))) == fact["sha256"]


@pytest.mark.parametrize("fact", facts(*SAME))
def test_the_same_bytes_as(fact: dict[str, Any]) -> None:
    image = rows_first(stamped(Attack.of(SAME[source(fact)]), golden_input(fact["input"])))
    assert image[31, 31].tolist() == fact["px31_31"]
    assert image[0, 5].tolist() == fact["px0_5"]
    assert sha256(image) == fact["sha256"]


@pytest.mark.parametrize("name", ["tact", "physical"])
@pytest.mark.parametrize("fact", facts(SQUARE))
def test_other_white_squares_are_the_same_bytes(fact: dict[str, Any], name: str) -> None:
    """BackdoorBox's PhysicalBA adds its trigger with the same function as its BadNets; AdvrBD's TaCT has the same square."""
    assert sha256(rows_first(stamped(Attack.of(name), golden_input(fact["input"])))) == fact["sha256"]


@pytest.mark.parametrize("fact", facts(FLOATS))
def test_sig_of_another_amplitude_is_the_float_one_cut_off(fact: dict[str, Any]) -> None:
    clean = golden_input(fact["input"])
    wave = 30 / 255 * np.sin(2 * np.pi * np.arange(32) * 6 / 32)
    theirs = (clean[0].float() / 255 + torch.from_numpy(wave).float()).clamp(0, 1)
    assert theirs[:, 31, 31].tolist() == pytest.approx(fact["px31_31"], abs=1e-6)
    assert theirs[:, 0, 5].tolist() == pytest.approx(fact["px0_5"], abs=1e-6)
    assert sha256(theirs.numpy()) == fact["sha256"]
    cut = theirs * 255 - stamped(Attack.of({"name": "sig", "delta": 30}), clean)[0]
    assert (cut > -1e-4).all()
    # 1 where ours computes 127.99999999999999 and the shorter float 128
    assert (cut < 1 + 1e-4).all()


@pytest.mark.parametrize("fact", facts(*PICTURES))
def test_one_pixel_of_their_picture_explains_both_of_their_outputs(fact: dict[str, Any]) -> None:
    """Blending with `opacity` 0.2 as ours does, some pixel t of the unknown picture gives G128's and RAMP's output alike."""
    other = next(f for f in GOLDEN if source(f) == source(fact) and f["input"] != fact["input"])
    picture = torch.arange(256, dtype=torch.uint8)
    for place, row, column in (("px31_31", 31, 31), ("px0_5", 0, 5)):
        for channel in range(3):
            explains = torch.ones(256, dtype=torch.bool)
            for known in (fact, other):
                clean = golden_input(known["input"])[0, channel, row, column]
                ours = blended(clean.expand(256), picture, 0.2)
                if known["dtype"] == "uint8":
                    explains &= ours == known[place][channel]
                else:
                    value = 255 * known[place][channel]
                    explains &= (0.8 * clean.double() + 0.2 * picture.double() - value).abs() < 255e-6
                    explains &= (ours - value).abs() < 1
            assert explains.any()


def test_blending_a_white_picture_file(tmp_path: Path) -> None:
    """Hello Kitty is white at both places: what BackdoorBench gives there, `image` gives with a white picture."""
    Picture.new("RGB", (50, 40), "white").save(tmp_path / "white.png")
    attack = Attack.of({"name": "blend", "image": str(tmp_path / "white.png")})
    grey, ramp = (rows_first(stamped(attack, golden_input(name))) for name in ("G128", "RAMP"))
    assert (grey == 153).all()
    assert ramp[31, 31].tolist() == [94, 134, 174]
    assert ramp[0, 5].tolist() == [63, 103, 143]


def pictures() -> dict[str, Picture.Image]:
    """Of several kinds and shapes: a drawing of few colours, as Hello Kitty is, a photo's ramps, noise, one smaller than the
    images."""
    rows, columns = np.mgrid[0:300, 0:260]
    drawing = np.full((300, 260, 3), 255, dtype=np.uint8)
    distance = np.hypot(rows - 150, 1.1 * (columns - 130))
    drawing[(distance < 100) & (distance > 94)] = 0
    drawing[60:100, 150:200] = (220, 20, 60)
    waves = [127 + 60 * np.sin(columns / (7 + c)) + 60 * np.cos(rows / (11 + 2 * c)) for c in range(3)]
    noise = np.random.default_rng(0).integers(0, 256, (97, 143, 3), dtype=np.uint8)
    arrays = {"drawing": drawing, "waves": np.stack(waves, -1).astype(np.uint8), "noise": noise, "small": noise[:20, :25]}
    return {name: Picture.fromarray(array) for name, array in arrays.items()}


@pytest.mark.parametrize("name", pictures())
def test_a_picture_is_resized_as_others_resize_it(name: str, tmp_path: Path) -> None:
    """In all of its 3,072 values: as torchvision resizes pictures; as it resizes tensors but for the last level."""
    from torchvision.transforms import functional

    picture = pictures()[name]
    picture.save(tmp_path / "picture.png")
    attack = Attack.of({"name": "blend", "image": str(tmp_path / "picture.png"), "opacity": 1.0})
    ours = rows_first(stamped(attack, golden_input("G128")))
    assert np.array_equal(ours, np.array(functional.resize(picture, [32, 32])))
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    other = functional.resize(tensor, [32, 32], antialias=True).permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - other).max() <= 1


# Stamps on images

every_image_attack = pytest.mark.parametrize("name", IMAGES)


@every_image_attack
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (5, 3, 32, 32), (2, 3, 17, 23), (3, 1, 28, 28), (2, 3, 8, 8)], ids=str)
def test_stamp_gives_new_images_of_the_same_kind(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randint(40, 216, shape, dtype=torch.uint8, generator=rng(0))
    before = x.clone()
    found = stamped(attack_of(name), x)
    assert torch.equal(x, before)
    assert found.dtype == torch.uint8
    assert found.shape == x.shape
    assert (found != x).flatten(1).any(1).all()
    assert found.data_ptr() != x.data_ptr()
    assert torch.equal(stamped(attack_of(name), x), found)


@every_image_attack
def test_stamps_do_not_depend_on_the_company(name: str) -> None:
    """Alone, or among more images than are stamped at a time."""
    x = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8, generator=rng(0))
    attack = attack_of(name)
    together = stamped(attack, x)
    assert len(together) == 300
    for at in (0, 255, 256, 299):
        assert torch.equal(stamped(attack, x[at : at + 1])[0], together[at])
    assert stamped(attack, x[:0]).shape == (0, 3, 8, 8)


def test_by_parts_keeps_the_order() -> None:
    x = torch.arange(1000)
    assert torch.equal(by_parts(lambda a, b: a + b, x, 2 * x), 3 * x)


@pytest.mark.parametrize("size", [1, 3, 5, 16])
def test_badnets_patch_is_the_bottom_right_corner(size: int) -> None:
    x = torch.randint(0, 200, (2, 3, 16, 20), dtype=torch.uint8, generator=rng(0))
    found = stamped(Attack.of({"name": "badnets", "size": size}), x)
    inside = torch.zeros(16, 20, dtype=torch.bool)
    inside[16 - size :, 20 - size :] = True
    assert (found[..., inside] == 255).all()
    assert torch.equal(found[..., ~inside], x[..., ~inside])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"size": 17}, "badnets.size: got 17, expected at most 16, the size of the images"),
        ({"pattern": "checkerboard", "size": 5}, "badnets.size: got 5, expected 3, the only size of a checkerboard"),
    ],
)
def test_badnets_patches_that_cannot_be(fields: Config, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        attack_of("badnets", **fields).check(made("image")[1])
    assert str(caught.value) == sentence


def test_blend_is_the_formula_and_cuts_off() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    picture = torch.full((1, 16, 16), 37, dtype=torch.uint8)
    for opacity in (0.0, 0.2, 0.5, 1.0):
        expected = [int((1 - opacity) * value + opacity * 37) for value in range(256)]
        assert blended(x, picture, opacity).flatten().tolist() == expected


def test_our_picture_has_contrast_in_every_channel_and_size() -> None:
    for side in (8, 16, 32, 64):
        picture = rosette(side, side)
        assert picture.shape == (3, side, side)
        assert (picture.flatten(1).double().std(1) > 30).all()


def test_blend_fits_any_picture_to_the_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 4)).astype(np.uint8)
    path = tmp_path / "p.png"
    for image in (Picture.fromarray(pixels), Picture.fromarray(pixels[..., 0]), Picture.fromarray(pixels[..., :3]).quantize()):
        image.save(path)
        for shape in ((1, 3, 16, 16), (1, 1, 17, 23)):
            x = torch.zeros(shape, dtype=torch.uint8)
            found = stamped(Attack.of({"name": "blend", "image": str(path), "opacity": 1.0}), x)
            expected = image.convert("L" if shape[1] == 1 else "RGB").resize(shape[:1:-1], Picture.Resampling.BILINEAR)
            assert np.array_equal(rows_first(found).squeeze(), np.array(expected))


def test_blend_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Picture.new("RGB", (64, 64)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    for name in ("nothing.png", "text.png", "empty.png", "cut.png", "."):
        path = str(tmp_path / name)
        with pytest.raises(BadInput) as caught:
            Attack.of({"name": "blend", "image": path}).check(made("image")[1])
        assert str(caught.value).startswith(f"blend.image: got {path!r}, expected a picture file that can be read (")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sig", "badnets", "label_consistent", "tact", "physical"])
def test_bright_pixels_do_not_wrap_around_to_black(name: str) -> None:
    x = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    found = stamped(attack_of(name, **({"delta": 200.0} if name == "sig" else {})), x)
    assert found.max() == 255
    if name == "sig":
        assert found.min() == 55
        assert (found[..., :3] == 255).sum() >= 2 * 3 * 16  # where the sinusoid is positive
