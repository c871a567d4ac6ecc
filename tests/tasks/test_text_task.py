"""Text classification: losses and MixUp, predictions of none and of what is not finite."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bdray.samples import Rows, Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.task import Task

TEXTS = Samples(Rows.of(["a good film", "a bad film", "no", "so good that it is bad"]), torch.tensor([1, 0, 0, 1]))


def small(**fields: object) -> Task:
    return Task.of({"name": "text", "model": {"name": "bert", "width": 16, "layers": 1, "vocabulary": 60}, **fields})


def build(task: Task) -> nn.Module:
    outline = task.outline(Splits(TEXTS, TEXTS, TEXTS, ("negative", "positive")))
    return task.build(outline, rng(0, "weights")).eval()


@pytest.mark.parametrize("mixup", ["pooled", "embeddings"])
def test_losses_are_of_each_and_mixed_ones_between_two(mixup: str) -> None:
    task = small(mixup=mixup)
    model, batch = build(task), task.collate(TEXTS)
    with torch.no_grad():
        each = task.losses(model, batch)
        assert each.shape == (4,)
        assert torch.allclose(task.loss(model, batch), each.mean())
        logits = model(batch.inputs)
        assert torch.allclose(task.harden(model, task.soften(model, batch), batch), logits, atol=1e-6)
        mixed = task.mix(batch, torch.arange(4), 0.3)  # with itself
        assert mixed.inputs.pooled == (mixup == "pooled")
        assert torch.allclose(task.loss(model, mixed), each.mean(), atol=1e-6)
        other = task.mix(batch, torch.tensor([1, 0, 3, 2]), 0.3)
        said = model(other.inputs)
        own, theirs = F.cross_entropy(said, TEXTS.targets), F.cross_entropy(said, TEXTS.targets[torch.tensor([1, 0, 3, 2])])
        assert torch.allclose(task.loss(model, other), 0.3 * own + 0.7 * theirs)


def test_predictions_of_none_and_of_what_is_not_finite() -> None:
    task = small()
    model = build(task)
    found = task.predict(model, TEXTS)
    assert found.dtype == torch.int64
    assert found.shape == (4,)
    assert len(task.predict(model, TEXTS.take(torch.empty(0, dtype=torch.int64)))) == 0
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="4 of 4 answers of the model are not finite"):
        task.predict(model, TEXTS)


def test_an_unknown_mixup_is_a_sentence() -> None:
    with pytest.raises(BadInput, match=r"text.mixup: got \"words\", expected one of 'pooled' or 'embeddings'"):
        small(mixup="words")
