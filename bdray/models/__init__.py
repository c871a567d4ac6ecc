"""Model: the contract of an architecture; every other module here is one. Built narrow by `width`, so a CPU can train it."""

from typing import ClassVar

from torch import nn

from bdray.spec import Count, Spec


class Model(Spec):
    """An architecture for one modality."""

    folder: ClassVar[str] = "bdray.models"
    kind: ClassVar[str] = "model"
    modality: ClassVar[str]
    stem: ClassVar[tuple[str, ...]] = ()
    """Names of the modules that form the stem, which NFT's authors leave unmasked; empty where the field names none."""

    width: Count = 64
    """Channels of the first stage; the published width is the default."""

    def build(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """A fresh network for inputs of `shape` (without the batch axis), its weights from torch's global generator."""
        raise NotImplementedError
