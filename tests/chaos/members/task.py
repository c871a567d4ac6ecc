"""Image classification that writes down every batch of a victim, every epoch saved, every victim and every row."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from bdray.samples import Samples
from bdray.seeds import seed_of
from bdray.store.store import Store, StoreCheckpoint
from bdray.tasks.image import Image
from tests.chaos.events import note, pause


@functools.cache
def _epochs() -> dict[int, dict[str, int]]:
    """Which victim's seed, epoch and rank in a team a generator's seed means; rank -1 stands for a victim without a team."""
    found = {}
    for seed in range(8):
        for epoch in range(64):
            found[seed_of(seed, "epoch", epoch)] = {"seed": seed, "epoch": epoch, "rank": -1}
            for rank in range(4):
                found[seed_of(seed, "epoch", epoch, "worker", rank)] = {"seed": seed, "epoch": epoch, "rank": rank}
    return found


class Logged(Image):
    """Scores and learns as `image` does."""

    def augment(self, samples: Samples, rng: torch.Generator) -> Samples:
        note("batch", **_epochs()[rng.initial_seed()])
        pause()
        return super().augment(samples, rng)


def _noting(owner: type, method: str, about: Callable[..., dict[str, Any]]) -> None:
    """From now on every call of a method is written down after it has returned."""
    plain = getattr(owner, method)

    @functools.wraps(plain)
    def noting(self: Any, *values: Any) -> Any:
        result = plain(self, *values)
        note(**about(self, *values))
        return result

    setattr(owner, method, noting)


_noting(Store, "put_row", lambda store, row: {"what": "row", "key": row.key, "status": row.status})
_noting(Store, "put_victim", lambda store, key, parts, about: {"what": "victim", "key": key, "seed": about["spec"]["seed"]})
_noting(
    StoreCheckpoint,
    "save",
    lambda point, tensors, epochs: {"what": "saved", "key": point._path.split("/")[1].split(".")[0], "epochs": epochs},
)
