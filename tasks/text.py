"""Text classification. Try: bdray run task=text attack=insert_word defense=nft"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bdray.data import Data
from bdray.models import Model
from bdray.needs import Needs
from bdray.samples import Outline, Rows, Samples, Splits
from bdray.spec import Config, member
from bdray.task import Batch
from bdray.tasks._classes import Classification
from bdray.tokens import Mixed


class Text(Classification):
    """Top-1 accuracy. A model's vocabulary is learnt from the training set, before it is poisoned."""

    modality: ClassVar[str] = "text"
    space: ClassVar[Literal["", "pixels", "points", "words"]] = "words"
    victim_needs: ClassVar[Needs] = Needs(1, 1, 1.5)
    cell_needs: ClassVar[Needs] = Needs(1, 0.25, 1.5)
    suited: ClassVar[dict[str, Config]] = {
        "attack": {"name": "insert_word"},
        "training": {"epochs": 20, "batch": 64, "lr": 1e-3, "optimizer": "adamw", "weight_decay": 0.01, "schedule": "onecycle"},
        "defense": {"name": "nft", "site": "layernorm", "clean": 0.1, "steps": 200, "batch": 32},
    }

    data: Data = member("reviews")
    model: Model = member("bert")
    mixup: Literal["pooled", "embeddings"] = "pooled"
    """What MixUp mixes of two texts: what the model knows of each at its end (Mixup-Transformer, Sun et al. 2020, which NFT's
    authors point to), or the embeddings of their words."""

    def outline(self, splits: Splits) -> Outline:
        return Outline(tuple(splits.classes), (), self.model.learn(splits.train.inputs.tolist()))  # type: ignore[attr-defined]

    def example(self, outline: Outline) -> Samples:
        return Samples(Rows.of(["a"]), torch.zeros(1, dtype=torch.int64))

    def mix_inputs(self, inputs: Any, other: Any, weight: float) -> Any:
        return Mixed(inputs, other, weight, self.mixup == "pooled")

    def soften(self, model: Any, batch: Batch) -> Tensor:
        """The embeddings of the words, [N, L, width]."""
        found: Tensor = model.embed(model.tokens(batch.inputs.tolist()))
        return found

    def harden(self, model: Any, soft: Tensor, batch: Batch) -> Any:
        return model.classify(soft, model.tokens(batch.inputs.tolist()).mask)

    def words(self, model: Any, batch: Batch) -> Tensor:
        found: Tensor = model.tokens.words(model.tokens(batch.inputs.tolist()))
        return found
