"""Vocabularies: the same in every process, whole texts back; and the layer that reads with them."""

import copy
import subprocess
import sys

import pytest
import torch

from bdray.spec import BadInput
from bdray.tokens import Tokenize, byte_pairs, tokens_in, wordpieces

TEXTS = [
    "the film was not very good .",
    "a rancid crème brûlée of a film",
    *(f"{a}{b}{c} {c}{b}" for a in "aeiou" for b in "bcdfg" for c in "xyz"),  # many pairs that are equally frequent
]
TRAIN = f"""
from bdray.tokens import byte_pairs, wordpieces
print(wordpieces({TEXTS!r}, 120))
print(byte_pairs({TEXTS!r}, 330))
"""


def test_a_vocabulary_is_the_same_in_every_process() -> None:
    """The trainer of word pieces itself numbers them by the order of a hash table, a new one in each process."""
    told = subprocess.run([sys.executable, "-c", TRAIN], check=True, capture_output=True, text=True).stdout.splitlines()
    assert told == [wordpieces(TEXTS, 120), byte_pairs(TEXTS, 330)]
    assert [tokens_in(text) for text in told] == [120, 330]


def test_a_vocabulary_does_not_depend_on_the_order_of_the_texts() -> None:
    assert wordpieces(TEXTS[::-1], 120) == wordpieces(TEXTS, 120)
    assert byte_pairs(TEXTS[::-1], 330) == byte_pairs(TEXTS, 330)


@pytest.mark.parametrize("text", ["You are attacked .", " two  spaces ", "Straße\u2028", "中文\tcf", "", "🙂"])
def test_byte_pairs_give_back_any_text(text: str) -> None:
    reader = Tokenize(byte_pairs(TEXTS, 300), 64)
    numbers, mask = reader([text, "longer than the other one is"])
    assert reader.text(numbers[0].tolist()) == text
    assert int(mask[0].sum()) == (numbers[0] != reader.pad).sum()


def test_word_pieces_read_lower_case_and_spell_what_they_do_not_know() -> None:
    reader = Tokenize(wordpieces(TEXTS, 120), 64)
    numbers = reader(["The FILM was bad"]).numbers[0].tolist()
    assert reader.text(numbers) == "the film was bad"
    assert numbers[0] != numbers[-1]  # begins and ends with special tokens


def test_long_texts_are_cut_and_short_ones_padded() -> None:
    reader = Tokenize(byte_pairs(TEXTS, 260), 8)
    numbers, mask = reader(["a", "a" * 50])
    assert numbers.shape == (2, 8)
    assert mask.sum(1).tolist() == [2, 8]
    assert numbers[0, 2:].tolist() == [reader.pad] * 6
    assert numbers[:, 1].tolist()[0] == numbers[1, -1] == reader.stop
    own, other = reader.pair(["a"], ["abc"])
    assert own.numbers.shape == other.numbers.shape == (1, 4)


def test_a_stored_model_reads_with_its_own_vocabulary() -> None:
    mine, theirs = Tokenize(byte_pairs(TEXTS, 300), 16), Tokenize(byte_pairs(["quite", "another text"], 264), 16)
    before = mine(TEXTS).numbers
    assert not torch.equal(theirs(TEXTS).numbers[:, :4], before[:, :4])
    theirs.load_state_dict(mine.state_dict())
    assert torch.equal(theirs(TEXTS).numbers, before)
    assert torch.equal(copy.deepcopy(mine)(TEXTS).numbers, before)
    assert all(isinstance(value, torch.Tensor) for value in mine.state_dict().values())


def test_too_small_a_vocabulary_is_a_sentence() -> None:
    with pytest.raises(BadInput, match=r"task.model.vocabulary: got 20 tokens, but the letters .* alone are \d+; raise it"):
        wordpieces(TEXTS, 20)
    with pytest.raises(BadInput, match=r"task.model.vocabulary: got 257 tokens, but the bytes .* alone are 258; raise it"):
        byte_pairs(TEXTS, 257)
