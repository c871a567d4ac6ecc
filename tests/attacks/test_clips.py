"""Triggers on clips, each against a second implementation that goes pixel by pixel or through another library."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from bdray.attacks import Attack, Patterns, Setting
from bdray.attacks._images import by_parts, rosette
from bdray.attacks.tdba import Tdba
from bdray.attacks.wanet import warp
from bdray.experiment import Experiment
from bdray.samples import Splits
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.training import Training, silent
from tests.setting import attack_of, disguise, made, of, stamp

SHAPE = (3, 5, 12, 16)
"""Channels, frames, height, width."""
OVER_TIME = ["badnets", "blend", "sig", "wanet"]


def clips(count: int = 2, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=rng(1))


def where(x: Tensor, seed: int = 0) -> Setting:
    samples = of(x)
    return Setting(made("video")[0], Splits(samples, samples, samples, "abcd"), Training(), rng(seed, "trigger"), silent)


def shown(attack: Attack, x: Tensor) -> tuple[np.ndarray, np.ndarray, Patterns]:
    """Clips before and after the trigger as [N, C, T, H, W], and what was drawn."""
    patterns = attack.patterns(where(x))
    return x.numpy(), stamp(attack, x, patterns).numpy(), patterns


@pytest.mark.parametrize("name", OVER_TIME)
def test_a_static_trigger_is_the_one_of_images_in_every_frame(name: str) -> None:
    attack, x = attack_of(name), clips()
    patterns = attack.patterns(where(x))
    found = stamp(attack, x, patterns)
    for frame in range(SHAPE[1]):
        image = x[:, :, frame].contiguous()
        assert torch.equal(attack.patterns(where(image)).get("grid", torch.ones(1)), patterns.get("grid", torch.ones(1)))
        assert torch.equal(found[:, :, frame], stamp(attack, image, patterns))


def test_blend_in_every_frame_is_the_formula() -> None:
    before, after, _ = shown(attack_of("blend", opacity=0.3), clips())
    image = rosette(12, 16).numpy()
    for n, c, t, h, w in np.ndindex(before.shape):
        assert after[n, c, t, h, w] == int(0.7 * int(before[n, c, t, h, w]) + 0.3 * int(image[c, h, w]))


def test_a_dynamic_picture_is_shifted_around() -> None:
    _, after, _ = shown(attack_of("blend", opacity=1.0, over_time="dynamic"), clips(1))
    image, steps = rosette(12, 16).numpy(), []
    for t in range(SHAPE[1]):
        fits = [(r, c) for r in range(12) for c in range(16) if np.array_equal(after[0, :, t], np.roll(image, (r, c), (1, 2)))]
        assert len(fits) == 1
        steps += fits
    assert len(set(steps)) > 2


def test_a_dynamic_patch_lies_elsewhere_in_each_frame() -> None:
    x = clips(2) // 2
    _, after, patterns = shown(attack_of("badnets", size=4, over_time="dynamic"), x)
    corners = patterns["corners"].tolist()
    assert len({tuple(corner) for corner in corners}) > 2
    for n, c, t, h, w in np.ndindex(after.shape):
        row, column = corners[t]
        inside = row <= h < row + 4 and column <= w < column + 4
        assert after[n, c, t, h, w] == (255 if inside else x[n, c, t, h, w])
    whole = attack_of("badnets", size=12, over_time="dynamic").patterns(where(x))["corners"]
    assert whole[:, 0].unique().tolist() == [0]
    assert whole[:, 1].min() >= 0
    assert whole[:, 1].max() <= 4


@pytest.mark.parametrize("over_time", ["static", "dynamic"])
def test_sig_on_clips(over_time: str) -> None:
    before, after, _ = shown(attack_of("sig", delta=50.0, frequency=3.0, over_time=over_time), clips())
    frequencies = [1.0, 2.0, 3.0, 4.0, 5.0] if over_time == "dynamic" else [3.0] * 5
    for n, c, t, h, w in np.ndindex(before.shape):
        value = int(before[n, c, t, h, w]) + 50 * math.sin(2 * math.pi * w * frequencies[t] / 16)
        assert abs(int(after[n, c, t, h, w]) - int(min(max(value, 0), 255))) <= (abs(value - round(value)) < 1e-9)


def test_a_dynamic_warp_differs_from_frame_to_frame() -> None:
    attack, x = attack_of("wanet", strength=2.0, over_time="dynamic"), clips()
    _, after, patterns = shown(attack, x)
    draw = rng(0, "trigger")
    for t in range(SHAPE[1]):
        grid = warp(torch.rand(1, 2, 4, 4, generator=draw) * 2 - 1, 12, 16, 2.0, 1.0)
        assert torch.equal(patterns["grid"][t], grid[0])
        alone = stamp(attack_of("wanet"), x[:, :, t].contiguous(), {"grid": grid})
        assert np.array_equal(after[:, :, t], alone.numpy())


@pytest.mark.parametrize("over_time", ["static", "dynamic"])
def test_the_noise_of_a_cover_clip(over_time: str) -> None:
    """One warp a clip, or one a frame: seen on clips whose frames are all the same."""
    attack = attack_of("wanet", over_time=over_time)
    x = clips(1)[:, :, :1].repeat(3, 1, 5, 1, 1)
    still = {"grid": attack_of("wanet").patterns(where(x))["grid"].expand(5 if over_time == "dynamic" else 1, -1, -1, -1)}
    covers = disguise(attack, x, still, where(x))
    assert len({clip.numpy().tobytes() for clip in covers}) == 3
    for clip in covers:
        assert len({clip[:, t].contiguous().numpy().tobytes() for t in range(5)}) == (5 if over_time == "dynamic" else 1)


@pytest.mark.parametrize("name", OVER_TIME)
def test_an_image_has_no_other_frames(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        attack_of(name, over_time="dynamic").check(made("image")[1])
    said = f"{name}.over_time: got dynamic, but an image has no other frames to differ from; set it to static"
    assert str(caught.value) == said
    attack_of(name, over_time="dynamic").check(made("video")[1])


KEYS = {
    "badnets": "70f1736d7c4acdf9",
    "blend": "766b88242b8c35be",
    "sig": "65fe7b29906fa06e",
    "wanet": "fa09e702772c7567",
}
"""As 5d96926 made them, before there was the field."""


@pytest.mark.parametrize("name", OVER_TIME)
def test_a_static_trigger_has_the_key_that_it_had(name: str) -> None:
    found = Experiment.of({"attack": name})
    assert found.key() == KEYS[name]
    assert Experiment.of({"attack": {"name": name, "over_time": "dynamic"}}).key() != found.key()


# TDBA


@pytest.mark.parametrize("transform", ["fft", "dct"])
@pytest.mark.parametrize("fields", [{}, {"bins": [0, 3], "positions": 5, "strength": 40.0}], ids=["default", "chosen"])
def test_tdba_by_scipys_transforms(transform: str, fields: dict[str, object]) -> None:
    """Every channel is transformed as a whole, the chosen coefficients get a number, and it is transformed back."""
    attack, shape = attack_of("tdba", transform=transform, **fields), (3, 8, 20, 24)
    x = clips(2, shape) // 2 + 64  # away from where values are clipped
    before, after, patterns = shown(attack, x)
    draw = rng(0, "trigger")
    count = 5 if fields else 2
    rows, columns = (torch.randperm(side, generator=draw)[:count].tolist() for side in (20, 24))
    bins = fields.get("bins", [6, 7])
    there, back = (scipy.fft.fftn, scipy.fft.ifftn) if transform == "fft" else (scipy.fft.dctn, scipy.fft.idctn)
    strength = 40.0 if fields else 15.0
    number = strength * math.sqrt(8 * 20 * 24 / (len(bins) * count * count))  # type: ignore[arg-type]
    wholes = []
    for n in range(2):
        for c in range(3):
            spectrum = there(before[n, c].astype(float), norm="ortho")
            for t in bins:  # type: ignore[attr-defined]
                for h in rows:
                    for w in columns:
                        spectrum[t, h, w] += number
            clip = back(spectrum, norm="ortho")
            for t in range(8):
                frame = clip[t]
                if transform == "fft":
                    frame = np.abs(frame)
                    frame = 255 * (frame - frame.min()) / (frame.max() - frame.min())
                frame = np.clip(frame, 0, 255)
                whole = np.abs(frame - np.round(frame)) < 1e-6  # where the last bit says what is cut off
                assert np.array_equal(after[n, c, t][~whole], frame.astype(np.uint8)[~whole])
                assert np.abs(after[n, c, t].astype(int) - frame.astype(int)).max() <= 1
                wholes.append(whole.mean())
    assert np.median(wholes) < 0.25  # and where the pattern is 0
    assert patterns["pattern"].square().sum(0).mean().sqrt() == pytest.approx(strength)


def test_tdba_leaves_a_frame_of_one_colour_finite() -> None:
    x = torch.full((1, 3, 4, 8, 8), 7, dtype=torch.uint8)
    attack = Tdba(bins=[0])
    nothing = {"pattern": torch.zeros(2, 4, 8, 8, dtype=torch.float64)}
    assert torch.equal(stamp(attack, x, nothing), x)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"bins": [3, 16]},
            "tdba.bins: got bin 16, but clips of 16 frames have bins 0 to 15; lower it, or raise task.data.frames",
        ),
        ({"positions": 33}, "tdba.positions: got 33, expected at most 32, the side of a frame; lower it"),
    ],
)
def test_frequencies_that_a_clip_lacks(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        attack_of("tdba", **fields).check(made("video")[1])
    assert str(caught.value) == sentence
    attack_of("tdba", bins=[0, 15], positions=32).check(made("video")[1])


def test_a_bin_comes_once() -> None:
    with pytest.raises(BadInput, match=r"tdba\.bins: got \[3, 3\], expected each at most once; leave out what comes again"):
        attack_of("tdba", bins=[3, 3])


def test_of_large_clips_few_are_stamped_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their copies in floating point would not fit beside the data set."""
    monkeypatch.setattr("bdray.attacks._images.NUMBERS", 1000)
    seen: list[int] = []

    def stamped(part: Tensor) -> Tensor:
        seen.append(len(part))
        return part + 1

    x = clips(7, (3, 4, 5, 6))
    assert torch.equal(by_parts(stamped, x), x + 1)
    assert seen == [2, 2, 2, 1]
    assert by_parts(stamped, x[:0]).shape == (0, 3, 4, 5, 6)
