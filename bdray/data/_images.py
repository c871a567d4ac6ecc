"""What the readers of image data sets share: the shape of an image data set, and decoding files into one uint8 tensor."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from bdray.data import Data
from bdray.spec import BadInput

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Images(Data):
    """Class-labelled images, uint8 [N, C, H, W], all of one size."""

    modality: ClassVar[str] = "image"
    mean: ClassVar[tuple[float, ...]] = IMAGENET_MEAN
    """Of pixels in 0..1, per channel: what the models subtract."""
    std: ClassVar[tuple[float, ...]] = IMAGENET_STD
    flip: ClassVar[bool] = True
    """Whether a mirrored image still shows its class."""


def decode(encoded: Sequence[Path] | Sequence[bytes], size: int | None, names: Sequence[str] | None = None) -> Tensor:
    """RGB images as uint8 [N, 3, H, W], resized to `size` x `size` (bilinear, antialiased) unless None.

    Raises BadInput with the file's name where one is damaged, or where sizes differ and `size` is None.
    """

    def one(at: int) -> np.ndarray:
        source = encoded[at]
        name = names[at] if names is not None else source
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                rgb = image.convert("RGB")
                if size is not None and rgb.size != (size, size):
                    rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
                return np.asarray(rgb)
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
            raise BadInput(
                f"the image {name} is damaged ({str(error).splitlines()[0]}); fetch the data set again or remove it"
            ) from None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        quiet = None if len(encoded) > 5000 else True
        first = one(0)
        out = np.empty((len(encoded), *first.shape), dtype=np.uint8)
        for at, pixels in enumerate(tqdm(pool.map(one, range(len(encoded))), "reading images", len(encoded), False, disable=quiet)):
            if pixels.shape != first.shape:
                name = names[at] if names is not None else encoded[at]
                raise BadInput(f"the image {name} is {pixels.shape[1]}x{pixels.shape[0]}, expected {first.shape[1]}x{first.shape[0]}")
            out[at] = pixels
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()
