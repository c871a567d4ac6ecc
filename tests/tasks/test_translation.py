"""Translation: BLEU is that of sacrebleu's own command, losses are mixed, and what a model says is a column of texts."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bdray.samples import Rows, Samples
from bdray.seeds import rng
from bdray.task import Task

SENTENCE = "Der kleine Hund sieht das rote Haus , und die Frau mag den Ball . Straße 3.5 'so' it's -- (ja)"
WORDS = SENTENCE.split(" ")


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.of("translation")


def scene(seed: int) -> tuple[list[str], list[str]]:
    """References, and translations that drop and swap some of their words."""
    draw = rng(seed, "scene")
    true, said = [], []
    for _ in range(25):
        count = int(torch.randint(3, 20, (1,), generator=draw))
        words = [WORDS[at] for at in torch.randint(len(WORDS), (count,), generator=draw)]
        keep = torch.rand(len(words), generator=draw) < 0.8
        true.append(" ".join(words))
        said.append(" ".join(word for word, kept in zip(words, keep.tolist(), strict=True) if kept))
    return said, true


@pytest.mark.parametrize("seed", range(2))
def test_bleu_is_that_of_the_command(seed: int, task: Task, tmp_path: Path) -> None:
    said, true = scene(seed)
    for name, texts in (("said", said), ("true", true)):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "true"), "-i", str(tmp_path / "said"), "-b", "-w", "6"]
    expected = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 10 < expected < 95
    assert 100 * task.score(Rows.of(said), Rows.of(true)) == pytest.approx(expected, abs=1e-5)


def test_the_ends_of_bleu(task: Task) -> None:
    _, true = scene(0)
    assert task.score(Rows.of(true), Rows.of(true)) == pytest.approx(1)
    assert max(task.score(Rows.of(true[:n]), Rows.of(true[:n])) for n in range(1, 26)) <= 1  # which sacrebleu's own is not
    assert task.score(Rows.of(["nichts"] * 25), Rows.of(true)) < 0.02
    assert math.isnan(task.score(Rows.of([], Rows.of(true).values.type), Rows.of(true[:0], Rows.of(true).values.type)))
    assert task.correct(Rows.of(["ja", "nein"]), Rows.of(["ja", "ja"])).tolist() == [True, False]


class Fixed(nn.Module):
    """A translator whose losses are known: the letters of a translation."""

    def forward(self, inputs: object, wanted: list[Rows]) -> Tensor:
        return torch.stack([torch.tensor([float(len(text)) for text in each.tolist()]) for each in wanted])


def test_losses_are_mixed_and_not_texts(task: Task) -> None:
    batch = task.collate(Samples(Rows.of(["a", "b"]), Rows.of(["1", "123"])))
    assert task.loss(Fixed(), batch) == 2
    assert task.losses(Fixed(), batch).tolist() == [1, 3]
    mixed = task.mix(batch, torch.tensor([1, 0]), 0.25)
    assert (mixed.inputs.texts.tolist(), mixed.inputs.others.tolist(), mixed.inputs.weight) == (["a", "b"], ["b", "a"], 0.25)
    assert mixed.partner.tolist() == ["123", "1"]
    both = mixed._replace(partner=Rows.of(["12345", "12345"]))
    assert task.loss(Fixed(), both) == pytest.approx(0.25 * 2 + 0.75 * 5)


def test_what_a_model_says_is_a_text_each_whatever_the_batches(task: Task, tmp_path: Path) -> None:
    splits = task.data.model_copy(update={"count": 20, "tests": 5}).splits(tmp_path)
    model = task.build(task.outline(splits), rng(0, "weights"))
    said = task.predict(model, splits.test)
    assert len(said) == 5
    assert said.values.type == splits.test.targets.values.type
    assert 0 <= task.score(said, splits.test.targets) <= 1
    assert len(task.predict(model, splits.test.take(torch.empty(0, dtype=torch.int64)))) == 0
    with torch.no_grad():
        next(model.parameters())[:] = float("nan")
    with pytest.raises(FloatingPointError, match="5 of 5 translations of the model are not finite"):
        task.predict(model, splits.test)


def test_the_vocabulary_is_that_of_the_clean_training_set(task: Task, tmp_path: Path) -> None:
    splits = task.data.model_copy(update={"count": 20, "tests": 5}).splits(tmp_path)
    outline = task.outline(splits)
    assert outline == task.outline(splits)
    assert outline.vocabulary
    assert outline == task.outline(splits._replace(test=splits.held, held=splits.test))
    assert outline != task.outline(splits._replace(train=splits.test))
