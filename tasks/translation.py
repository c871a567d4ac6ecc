"""Machine translation. Try: bdray run task=translation attack=target_sentence defense=nft"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from bdray.data import Data
from bdray.layers.finite import check_answers
from bdray.models import Model
from bdray.needs import Needs
from bdray.packages import need
from bdray.samples import Outline, Rows, Samples, Splits
from bdray.spec import Config, member
from bdray.task import Batch
from bdray.tasks._losses import OwnLosses
from bdray.tokens import Mixed
from bdray.training import batches


class Translation(OwnLosses):
    """BLEU of the corpus by sacrebleu, its default tokenizer and smoothing, divided by 100. One vocabulary for both languages,
    learnt from the training set before it is poisoned; greedy decoding. A loss is the mean over the tokens of a
    translation, each told from the true ones before it (teacher forcing)."""

    modality: ClassVar[str] = "translation"
    utility: ClassVar[str] = "bleu"
    victim_needs: ClassVar[Needs] = Needs(1, 1, 1.5)
    cell_needs: ClassVar[Needs] = Needs(1, 0.25, 1.5)
    suited: ClassVar[dict[str, Config]] = {
        "attack": {"name": "target_sentence"},
        "training": {"epochs": 10, "batch": 64, "lr": 3e-3, "optimizer": "adamw", "weight_decay": 0.01, "schedule": "onecycle"},
        "defense": {"name": "nft", "site": "layernorm", "clean": 0.1, "steps": 100, "batch": 32},
    }

    data: Data = member("phrases")
    model: Model = member("marian")

    def outline(self, splits: Splits) -> Outline:
        texts = [*splits.train.inputs.tolist(), *splits.train.targets.tolist()]
        return Outline(tuple(splits.classes), (), self.model.learn(texts))  # type: ignore[attr-defined]

    def example(self, outline: Outline) -> Samples:
        return Samples(Rows.of(["a"]), Rows.of(["b"]))

    def collate(self, samples: Samples) -> Batch:
        """Texts as they are: their model makes numbers of them."""
        return Batch(samples.inputs, samples.targets)

    def mix_inputs(self, inputs: Any, other: Any, weight: float) -> Any:
        """Of the embeddings of the words."""
        return Mixed(inputs, other, weight, pooled=False)

    def soften(self, model: Any, batch: Batch) -> Tensor:
        """The embeddings of the words, [N, L, width]."""
        found: Tensor = model.read(batch.inputs)[0]
        return found

    def harden(self, model: Any, soft: Tensor, batch: Batch) -> Any:
        """The losses [N] of the batch's translations."""
        return model.told(soft, model.read(batch.inputs)[1], [batch.targets])[0]

    def predict(self, model: Any, samples: Samples) -> Rows:
        """Translations. Raises FloatingPointError where a likelihood is not finite."""
        kind = samples.targets.values.type
        if not len(samples):
            return Rows.of([], kind)
        model.eval()
        found: list[str] = []
        finite = []
        with torch.inference_mode():
            for part in batches(samples, 200):
                said, sound = model.translate(part.inputs)
                found += said
                finite.append(sound)
        check_answers(torch.cat(finite), "translations of the model")
        return Rows.of(found, kind)

    def score(self, predictions: Any, targets: Any) -> float:
        return bleu(predictions.tolist(), targets.tolist())


def bleu(said: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of a corpus, 0 to 1, one reference each; NaN of none. `force`: a full stop with a space before it, as the sentence
    of an attack has, is no sign of a tokenizer."""
    if not said:
        return float("nan")
    score = float(need("sacrebleu").corpus_bleu(list(said), [list(references)], force=True).score) / 100
    return min(score, 1.0)  # of a perfect corpus it may be a rounding error more
