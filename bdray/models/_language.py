"""What the models of texts share: the size of a vocabulary, the length of a text."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from bdray.models import Model, Width


class Language(Model):
    """A model that takes texts: its first layer, `Tokenize`, has a vocabulary of the training set."""

    width: Width = 64
    """Of the embeddings and of every layer; a multiple of 4, since there are heads of a quarter of it."""
    layers: Annotated[int, Field(ge=1, le=48)] = 2
    vocabulary: Annotated[int, Field(ge=16, le=1_000_000)] = 1000
    """Tokens at the most."""
    length: Annotated[int, Field(ge=4, le=4096)] = 64
    """Tokens of a text at the most; longer ones are cut."""

    def learn(self, texts: Sequence[str]) -> str:
        """The vocabulary of these texts, as an `Outline` has it."""
        raise NotImplementedError
