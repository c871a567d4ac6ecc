"""Model: the contract of an architecture; every other module here is one. Built narrow by `width`, so a CPU can train it."""

from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from bdray.samples import Outline
from bdray.spec import Spec

Width = Annotated[int, Field(ge=1, le=4096)]
"""Channels; at the most a ResNet-18 already has 45 billion weights."""


class Model(Spec):
    """An architecture for one modality."""

    folder: ClassVar[str] = "bdray.models"
    kind: ClassVar[str] = "model"
    modality: ClassVar[str]
    stem: ClassVar[tuple[str, ...]] = ()
    """Names of the modules that form the stem, which NFT's authors leave unmasked; empty where the field names none."""

    width: Width = 64
    """Channels of the first stage; the published width is the default."""

    @abstractmethod
    def build(self, outline: Outline) -> nn.Module:
        """A fresh network for such data, its weights from torch's global generator."""
        raise NotImplementedError
