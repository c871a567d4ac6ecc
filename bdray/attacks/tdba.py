"""TDBA, temporal-distributed backdoor attack (Li, Wang, Huang, Gowda and Kesidis 2024, AAAI, arXiv 2308.11070): a few
frequencies of space and time are made stronger in the whole clip, labels changed."""

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from bdray.attacks import Patterns, Setting, ToClass
from bdray.attacks._frames import frame_count, frame_shape
from bdray.attacks._images import by_parts, to_uint8
from bdray.samples import Draw, Splits
from bdray.spec import Amount, BadInput, Config, Positive, Several, Share


class Tdba(ToClass):
    """To every channel's coefficients at some rows x columns x temporal bins the same number is added: so it is a fixed pattern
    of space and time that is added to the clip, since the transform is linear. The clips that a model gets are stamped, after
    the frames of the videos were sampled: a trigger put on a whole video is cut, or its frequencies shift, with each frame that
    a reader leaves out.

    The authors number temporal bins 35 to 44 for clips of 32 frames: their code lengthens these by black frames and cuts them
    off again, after which the bins are none of the clip's. Here a bin that the clip lacks is refused. They also name the number
    that is added, whose effect depends on the size of the clip; here `strength` says how large it comes out."""

    modalities: ClassVar[frozenset[str]] = frozenset({"video"})
    presets: ClassVar[dict[str, Config]] = {"tdba": {"target": 0, "rate": 0.2, "transform": "fft", "positions": 25}}

    rate: Share = 0.2
    transform: Literal["fft", "dct"] = "fft"
    """Over time, height and width. fft: the absolute value of what comes back is stretched to 0..255 in every frame and
    channel, as the authors do, so that a poisoned clip also has the full contrast; dct: real, and clipped."""
    bins: Several[Amount] = ()
    """Temporal frequencies, from 0; of T frames there are T. Empty: the last quarter of them; of the authors' 45 it is about
    as much. Of fft these are the slow ones, since bin T - k turns as fast as bin k, of dct the fast ones."""
    positions: Amount = 0
    """As many rows and as many columns of the frame's spectrum, drawn once a victim. 0: a tenth of the frame's shorter side,
    but at least 2; the authors have 25 of 224."""
    strength: Positive = 15.0
    """Root of the mean square of what is added to a pixel, of 255. The authors' 500,000 come to 11 in their frames of 240x320
    pixels."""

    @model_validator(mode="after")
    def _no_bin_comes_twice(self) -> Self:
        if len(set(self.bins)) < len(self.bins):
            raise BadInput(f"tdba.bins: got {list(self.bins)}, expected each at most once; leave out what comes again")
        return self

    def check(self, splits: Splits) -> None:
        super().check(splits)
        count, (_, height, width) = frame_count(splits), frame_shape(splits)
        if self.bins and max(self.bins) >= count:
            raise BadInput(
                f"tdba.bins: got bin {max(self.bins)}, but clips of {count} frames have bins 0 to {count - 1}; lower it, or "
                "raise task.data.frames"
            )
        if self.positions > min(height, width):
            raise BadInput(
                f"tdba.positions: got {self.positions}, expected at most {min(height, width)}, the side of a frame; lower it"
            )

    def patterns(self, setting: Setting) -> Patterns:
        """What is added to every channel of a clip, float64 [1 or 2, T, H, W]: its real and, of fft, its imaginary part."""
        count, (_, height, width) = frame_count(setting.splits), frame_shape(setting.splits)
        drawn = self.positions or max(2, min(height, width) // 10)
        rows, columns = (torch.randperm(side, generator=setting.rng)[:drawn] for side in (height, width))
        bins = torch.tensor(self.bins or range(count - max(1, count // 4), count))
        back = _inverse_fft if self.transform == "fft" else _inverse_dct
        # The frequencies are all combinations, so that the pattern is a product of what each axis adds to it.
        along = [back(chosen, size) for chosen, size in ((bins, count), (rows, height), (columns, width))]
        pattern = along[0][:, None, None] * along[1][:, None] * along[2]
        pattern = pattern * (self.strength * math.sqrt(count * height * width / (len(bins) * drawn**2)))
        return {"pattern": torch.stack([pattern.real, pattern.imag] if pattern.is_complex() else [pattern])}

    def trigger(self, x: Tensor, patterns: Patterns, draw: Draw) -> Tensor:
        pattern = patterns["pattern"].to(x.device)
        if self.transform == "dct":
            return by_parts(lambda part: to_uint8(part.double() + pattern[0]), x)
        return by_parts(lambda part: _stretched(torch.hypot(part.double() + pattern[0], pattern[1].expand_as(part))), x)


def _inverse_fft(bins: Tensor, size: int) -> Tensor:
    """What ones in these bins are before the transform, complex [size]; orthonormal."""
    spectrum = torch.zeros(size, dtype=torch.float64)
    spectrum[bins] = 1
    return torch.fft.ifft(spectrum, norm="ortho")


def _inverse_dct(bins: Tensor, size: int) -> Tensor:
    """The same of the cosine transform (DCT-II), real."""
    angle = math.pi / size * (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * bins
    return (angle.cos() * torch.where(bins == 0, 1.0, math.sqrt(2)).double() / math.sqrt(size)).sum(1)


def _stretched(x: Tensor) -> Tensor:
    """Every frame and channel of [N, C, T, H, W] from its own least value to its largest, as 0 to 255; one that is all the same
    is left so."""
    least, most = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    span = most - least
    return to_uint8(torch.where(span > 0, 255 * (x - least) / torch.where(span > 0, span, 1), x))
