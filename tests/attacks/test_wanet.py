"""WaNet: the published grid, the sampling, and covers with noise of their own."""

import pytest
import torch

from bdray.attacks.wanet import WaNet, identity, sample, warp
from bdray.seeds import rng
from tests.setting import disguise, made, setting, stamp


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
    covers = disguise(attack, x, patterns, where)
    seen = [*covers, stamp(attack, x, patterns)[0], x[0]]
    assert len({image.numpy().tobytes() for image in seen}) == 7
    assert torch.equal(disguise(attack, x, patterns, setting("image")), covers)


def test_wanet_defaults_are_the_authors() -> None:
    attack = WaNet()
    assert (attack.strength, attack.grid, attack.rescale, attack.rate) == (0.5, 4, 1.0, 0.1)
    assert attack.cover == 2 * attack.rate
