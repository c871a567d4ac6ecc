"""Every attack: triggers to the bit, who is poisoned, what is changed, and what is left alone.

`golden/triggers.json` are facts about other code bases: what BackdoorBench f02e353, BackdoorBox af3afd1, backdoor-toolbox
9d4d909, ART and NFT 9e40cac return, run once by us with the parameters written there, on two 32x32x3 images: G128, all 128,
and RAMP, (7 row + 3 column + 50 channel) % 256. The hash is SHA-256 of the bytes in row, column, channel order.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Picture
from torch import Tensor, nn

from bdray.attacks import Attack, Poison, Setting, poison
from bdray.attacks._images import CHECKER, blended, by_parts, rosette
from bdray.attacks.label_consistent import LabelConsistent
from bdray.attacks.wanet import WaNet, identity, sample, warp
from bdray.data import Data, Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput, Config
from bdray.task import Task
from bdray.training import Training, silent

MADE: dict[str, Config] = {"image": {"name": "miniature", "per_class": 25, "held": 0.0}}
"""The made data set of each modality: 100 training samples of 4 classes."""
QUICK: dict[str, Config] = {"label_consistent": {"steps": 2, "surrogate_epochs": 1}}
"""Settings that make an attack quick; one that is not here runs with its defaults."""

PAIRS = [(name, modality) for name in Attack.names() for modality in sorted(Attack.member(name).modalities & MADE.keys())]
every_attack = pytest.mark.parametrize(("name", "modality"), PAIRS, ids=[f"{n}-{m}" for n, m in PAIRS])


def attack_of(name: str, **fields: Any) -> Attack:
    return Attack.of({"name": name, **QUICK.get(name, {}), **fields})


@lru_cache(maxsize=4)
def made(modality: str) -> tuple[Task, Splits]:
    task = Task.of({"name": modality, "data": MADE[modality]})
    return task, task.data.splits(Path())


def setting(modality: str, seed: int = 0, purpose: str = "poison") -> Setting:
    task, splits = made(modality)
    return Setting(task, splits, Training(epochs=1, batch=50), rng(seed, purpose), silent)


def poisoned_by(attack: Attack, modality: str, seed: int = 0) -> tuple[Poison, Samples, Samples]:
    """What an experiment does with a seed: the poison, the clean training set and the poisoned one."""
    patterns = attack.patterns(setting(modality, seed, "trigger"))
    harm = poison(attack, patterns, setting(modality, seed))
    train = made(modality)[1].train
    return harm, train, harm.apply(attack, train)


def stamped(attack: Attack, x: Tensor, seed: int = 0) -> Tensor:
    """Images stamped with the trigger that this seed draws for their shape."""
    samples = Samples(x, torch.arange(len(x)) % 4)
    task, _ = made("image")
    where = Setting(task, Splits(samples, samples, samples, "abcd"), Training(), rng(seed, "trigger"), silent)
    return attack.stamp(x, attack.patterns(where), rng(seed, "test"))


# Golden outputs

GOLDEN = json.loads((Path(__file__).parent / "golden" / "triggers.json").read_text())
Source = tuple[str, str, str]

SAME: dict[Source, Config] = {
    ("BackdoorBench", "AddMaskPatchTrigger", "resource/badnet/trigger_image.png; clip->uint8"): {"name": "badnets"},
    ("BackdoorBox", "AddTrigger.add_trigger (BadNets)", "3x3 white bottom-right, weight 1.0"): {"name": "badnets"},
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


# WaNet


def test_wanet_grid_is_the_published_formula() -> None:
    controls = torch.arange(32).reshape(1, 2, 4, 4) / 31 * 2 - 1
    grid = warp(controls, 32, 32, 0.5, 1)
    assert grid.shape == (1, 32, 32, 2)
    assert grid[0, 16, 16].tolist() == pytest.approx([0.0169886, 0.0482386], abs=1e-5)
    assert torch.equal(warp(4 * controls, 32, 32, 0.5, 1), grid)  # normalised by their mean size
    assert grid.abs().max() == 1


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (17, 23), (28, 28), (32, 32), (64, 48)])
def test_a_grid_without_warp_leaves_images_to_the_bit(shape: tuple[int, int]) -> None:
    x = torch.randint(0, 256, (3, 3, *shape), dtype=torch.uint8, generator=rng(0))
    assert torch.equal(sample(x, identity(*shape)), x)
    assert torch.equal(sample(x, warp(torch.ones(1, 2, 4, 4), *shape, strength=0, rescale=1)), x)


def test_wanet_samples_x_before_y() -> None:
    """A grid moved right by one pixel centre shows each pixel's right neighbour."""
    x = torch.randint(0, 256, (2, 3, 16, 20), dtype=torch.uint8, generator=rng(0))
    grid = identity(16, 20)
    grid[..., 0] += 2 / 19
    assert torch.equal(sample(x, grid.clamp(-1, 1))[..., :-1], x[..., 1:])


def test_wanet_draws_its_grid_from_the_seed() -> None:
    first, same, other = (WaNet().patterns(setting("image", seed, "trigger"))["grid"] for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    strong = WaNet(strength=2).patterns(setting("image", 0, "trigger"))["grid"]
    assert (strong - identity(16, 16)).abs().sum() > 2 * (first - identity(16, 16)).abs().sum()


def test_wanet_covers_are_warped_by_noise_of_their_own() -> None:
    attack, where = WaNet(), setting("image")
    patterns = attack.patterns(setting("image", 0, "trigger"))
    x = made("image")[1].train.inputs[:1].repeat(5, 1, 1, 1)
    covers = attack.disguise(x, patterns, where)
    seen = [*covers, attack.stamp(x, patterns, where.rng)[0], x[0]]
    assert len({image.numpy().tobytes() for image in seen}) == 7
    assert torch.equal(attack.disguise(x, patterns, setting("image")), covers)


def test_wanet_defaults_are_the_authors() -> None:
    attack = WaNet()
    assert (attack.strength, attack.grid, attack.rescale, attack.rate) == (0.5, 4, 1.0, 0.1)
    assert attack.cover == 2 * attack.rate


# Every attack on every made data set of its modalities


@every_attack
@pytest.mark.parametrize(("rate", "cover"), [(0.05, 0.0), (0.13, 0.1), (0.004, 0.3)])
def test_the_poisoned_share_is_the_rate(name: str, modality: str, rate: float, cover: float) -> None:
    harm, train, poisoned = poisoned_by(attack_of(name, rate=rate, cover=cover), modality)
    assert len(harm.poisoned) == len(harm.planted) == round(rate * len(train))
    assert len(harm.cover) == len(harm.disguised) == round(cover * len(train))
    assert len(poisoned) == len(train) == 100
    for positions in (harm.poisoned, harm.cover):
        assert positions.dtype == torch.int64
        assert positions.tolist() == sorted(set(positions.tolist()))
    assert not set(harm.poisoned.tolist()) & set(harm.cover.tolist())


@every_attack
def test_only_the_chosen_samples_change(name: str, modality: str) -> None:
    _, splits = made(modality)
    parts = (splits.train, splits.held, splits.test)
    before = [(part.inputs.clone(), part.targets.clone()) for part in parts]
    harm, train, poisoned = poisoned_by(attack_of(name, cover=0.1), modality)
    for part, (inputs, targets) in zip(parts, before, strict=True):
        assert torch.equal(part.inputs, inputs)
        assert torch.equal(part.targets, targets)
    assert poisoned.inputs.dtype == train.inputs.dtype
    assert poisoned.inputs.shape == train.inputs.shape
    changed = (poisoned.inputs != train.inputs).flatten(1).any(1).nonzero().flatten()
    assert changed.tolist() == sorted([*harm.poisoned.tolist(), *harm.cover.tolist()])
    assert torch.equal(poisoned.inputs[harm.poisoned], harm.planted)
    assert torch.equal(poisoned.inputs[harm.cover], harm.disguised)


@every_attack
@pytest.mark.parametrize("target", [0, 3])
def test_labels(name: str, modality: str, target: int) -> None:
    attack = attack_of(name, target=target, cover=0.1)
    harm, train, poisoned = poisoned_by(attack, modality)
    clean = torch.ones(len(train), dtype=torch.bool)
    clean[harm.poisoned] = False
    assert torch.equal(poisoned.targets[clean], train.targets[clean])  # covers, too
    assert (poisoned.targets[harm.poisoned] == target).all()
    true = train.targets[harm.poisoned]
    assert (true == target).all() if attack.clean_label else (true != target).all()
    every_class = torch.arange(4)
    assert attack.attackable(every_class).tolist() == [c != target for c in range(4)]
    assert attack.relabel(every_class).tolist() == [target] * 4
    assert attack.poisonable(every_class).tolist() == [(c == target) == attack.clean_label for c in range(4)]


@every_attack
def test_the_seed_alone_decides(name: str, modality: str) -> None:
    attack = attack_of(name, cover=0.1)
    torch.manual_seed(1)
    first, _, _ = poisoned_by(attack, modality, 7)
    torch.manual_seed(2)
    same, _, _ = poisoned_by(attack, modality, 7)
    other, _, _ = poisoned_by(attack, modality, 8)
    for field in Poison._fields:
        assert torch.equal(getattr(first, field), getattr(same, field))
    assert not torch.equal(first.poisoned, other.poisoned)
    assert not torch.equal(first.cover, other.cover)


@every_attack
def test_rate_zero_poisons_nothing(name: str, modality: str) -> None:
    harm, train, poisoned = poisoned_by(attack_of(name, rate=0, cover=0), modality)
    assert len(harm.poisoned) == len(harm.cover) == 0
    assert torch.equal(poisoned.inputs, train.inputs)
    assert torch.equal(poisoned.targets, train.targets)


@every_attack
def test_too_few_to_poison_says_how_many_there_are(name: str, modality: str) -> None:
    attack = attack_of(name, rate=0.9, cover=0)
    _, splits = made(modality)
    possible = int(attack.poisonable(splits.train.targets).sum())
    with pytest.raises(BadInput) as caught:
        attack.check(splits)
    text = str(caught.value)
    assert text.startswith(f"{name}.rate: got 0.9, that is 90 of 100 training samples, but only {possible} can be poisoned")
    largest = float(text.rpartition("the largest possible rate is ")[2])
    harm, _, _ = poisoned_by(attack_of(name, rate=largest, cover=0), modality)
    assert len(harm.poisoned) == possible


@pytest.mark.parametrize(("possible", "total"), [(1, 3), (2, 3), (0, 7), (7, 7), (4999, 45001), (1, 99999), (333333, 999999)])
def test_the_largest_rate_works_whatever_the_counts(possible: int, total: int) -> None:
    y = torch.ones(total, dtype=torch.int64)
    y[:possible] = 0
    with pytest.raises(BadInput, match=f"only {possible} can be poisoned") as caught:
        attack_of("sig", rate=1.0).select(torch.cat([y, torch.ones(1, dtype=torch.int64)]), rng(0))
    assert f"of {total + 1} " in str(caught.value)
    if possible < total:
        with pytest.raises(BadInput) as caught:
            attack_of("sig", rate=1.0).select(y, rng(0))
        largest = float(str(caught.value).rpartition(" ")[2])
        assert len(attack_of("sig", rate=largest).select(y, rng(0))[0]) == possible


@every_attack
def test_too_many_covers_and_no_such_class(name: str, modality: str) -> None:
    _, splits = made(modality)
    with pytest.raises(BadInput, match=rf"{name}\.cover: got 0\.95, that is 95 of 100 .* only 90 are left beside 10 poisoned"):
        attack_of(name, rate=0.1, cover=0.95).check(splits)
    with pytest.raises(BadInput, match=rf"{name}\.target: got 4, expected a class from 0 to 3"):
        attack_of(name, target=4).check(splits)
    with pytest.raises(BadInput, match=rf"{name}\.target: got -1, expected a whole number"):
        attack_of(name, target=-1)
    attack_of(name, target=3).check(splits)


# Stamps on images

IMAGES = [name for name, modality in PAIRS if modality == "image"]
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


@pytest.mark.parametrize("name", ["sig", "badnets", "label_consistent"])
def test_bright_pixels_do_not_wrap_around_to_black(name: str) -> None:
    x = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    found = stamped(attack_of(name, **({"delta": 200.0} if name == "sig" else {})), x)
    assert found.max() == 255
    if name == "sig":
        assert found.min() == 55
        assert (found[..., :3] == 255).sum() >= 2 * 3 * 16  # where the sinusoid is positive


# Label-consistent


def clean_loss(model: nn.Module, x: Tensor, target: int) -> float:
    with torch.no_grad():
        logits = model.eval()(x.float() / 255)
    return float(F.cross_entropy(logits, torch.full((len(x),), target)))


def perturbed(
    monkeypatch: pytest.MonkeyPatch, seed: int = 0, training: Training | None = None, **fields: Any
) -> tuple[nn.Module | None, Tensor, Tensor]:
    """The surrogate, the target class's images, and what stands in their place before the corners are stamped."""
    import bdray.attacks.label_consistent as module

    models: list[nn.Module] = []
    fit = module.fit

    def spy(model: nn.Module, *rest: Any, **more: Any) -> nn.Module:
        models.append(model)
        return fit(model, *rest, **more)

    monkeypatch.setattr(module, "fit", spy)
    monkeypatch.setattr(module.LabelConsistent, "stamp", lambda self, x, patterns, rng: x)
    attack = LabelConsistent(**{"target": 2, "steps": 8, **fields})
    where = setting("image", seed)._replace(training=training or Training(epochs=3, batch=20, lr=0.05))
    x = where.splits.train.inputs[where.splits.train.targets == 2]
    hard = attack.plant(x, {}, where)
    return (models[0] if models else None), x, hard


@pytest.mark.parametrize("surrogate", ["robust", "standard"])
def test_the_perturbation_makes_images_hard_within_its_bound(monkeypatch: pytest.MonkeyPatch, surrogate: str) -> None:
    model, x, hard = perturbed(monkeypatch, surrogate=surrogate, eps=8.0)
    assert model is not None
    assert hard.dtype == torch.uint8
    moved = (hard.int() - x.int()).abs()
    assert moved.max() == 8
    assert (moved.flatten(1).max(1).values > 0).all()
    noise = (x.int() + torch.randint(-8, 9, x.shape, generator=rng(0))).clamp(0, 255).to(torch.uint8)
    assert clean_loss(model, hard, 2) > 3 * max(clean_loss(model, x, 2), clean_loss(model, noise, 2))


@pytest.mark.parametrize("eps", [0.4, 2.5, 16.0])
def test_any_bound_holds(monkeypatch: pytest.MonkeyPatch, eps: float) -> None:
    _, x, hard = perturbed(monkeypatch, eps=eps, steps=2, surrogate="standard", surrogate_epochs=1)
    assert (hard.int() - x.int()).abs().max() == int(eps)


def test_more_steps_are_harder(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for steps in (1, 20):
        with monkeypatch.context() as patch:
            model, _, hard = perturbed(patch, steps=steps, surrogate="standard")
            assert model is not None
            losses.append(clean_loss(model, hard, 2))
    assert losses[1] > losses[0] + 0.05


@pytest.mark.parametrize("fields", [{"eps": 0}, {"steps": 0}])
def test_without_perturbation_no_surrogate_is_trained(monkeypatch: pytest.MonkeyPatch, fields: Config) -> None:
    model, x, hard = perturbed(monkeypatch, **fields)
    assert model is None
    assert torch.equal(hard, x)


def test_eps_zero_is_the_stamp_alone() -> None:
    attack = LabelConsistent(eps=0)
    x = made("image")[1].train.inputs[:5]
    assert torch.equal(attack.plant(x, {}, setting("image")), attack.stamp(x, {}, rng(0)))


def test_the_surrogates_are_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Robust training really sees other inputs, and `surrogate_epochs` counts."""
    found = []
    for fields in ({"surrogate": "robust"}, {"surrogate": "standard"}, {"surrogate": "standard", "surrogate_epochs": 1}):
        with monkeypatch.context() as patch:
            model, _, _ = perturbed(patch, steps=1, **fields)
            assert model is not None
            found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_corners_are_checkers_that_mirror_each_other() -> None:
    found = stamped(LabelConsistent(), torch.full((1, 3, 16, 16), 100, dtype=torch.uint8))[0, 0]
    assert torch.equal(found[-3:, -3:], CHECKER)
    assert torch.equal(found[:3, -3:], CHECKER)
    assert torch.equal(found, found.flip(1))
    assert (found[3:-3] == 100).all()
    assert (found[:, 3:-3] == 100).all()


def test_at_test_time_only_the_corners_are_stamped() -> None:
    x = made("image")[1].test.inputs
    changed = (stamped(LabelConsistent(), x) != x).any(1).any(0)
    assert changed.sum() <= 4 * 9
    assert changed[:3, :3].any()


def test_made_data_sets_are_there() -> None:
    assert all(config["name"] in Data.names() for config in MADE.values())
    assert {name for name, _ in PAIRS} >= {"badnets", "blend", "label_consistent", "sig", "wanet"}
