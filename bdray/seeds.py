"""One way to get randomness: a named generator, the same on every machine, independent of every other name."""

import hashlib

import numpy as np
import torch


def seed_of(*names: object) -> int:
    """A 63-bit seed hashed from names (numbers and strings); any change of any name gives an unrelated seed."""
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for one purpose, e.g. `rng(experiment.seed, "poison")`."""
    return torch.Generator().manual_seed(seed_of(seed, *names))


def numpy_rng(generator: torch.Generator) -> np.random.Generator:
    """A NumPy generator seeded by one draw from a torch one, for the distributions torch has no generator for."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
