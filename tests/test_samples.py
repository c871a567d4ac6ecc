"""Columns of tensors and of Arrow: taken, put, joined, packed, hashed alike; draws that go with a sample."""

import hashlib

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from bdray.samples import Column, Rows, Samples, Splits, draws, equal, feed, joined, pack, put, take, unpack

TEXTS = ["a b", "", "ü", "c" * 300, "a b"]
BOXES = [[{"x": 1.0, "label": 2}], [], [{"x": 0.5, "label": 0}, {"x": -1.0, "label": 1}], [], [{"x": 3.0, "label": 1}]]
COLUMNS = {
    "texts": Rows.of(TEXTS),
    "boxes": Rows.of(BOXES),
    "numbers": torch.arange(5),
    "pixels": torch.arange(60).view(5, 3, 4),
}
every_column = pytest.mark.parametrize("name", COLUMNS)


def same(one: Column, other: Column) -> bool:
    return type(one) is type(other) and one.tolist() == other.tolist()


@every_column
def test_taken_by_positions_and_by_a_mask(name: str) -> None:
    column = COLUMNS[name]
    all_of = column.tolist()
    assert take(column, torch.tensor([4, 0, 0])).tolist() == [all_of[4], all_of[0], all_of[0]]
    assert take(column, torch.tensor([False, True, True, False, False])).tolist() == all_of[1:3]
    assert len(take(column, torch.empty(0, dtype=torch.int64))) == 0


@every_column
def test_put_changes_a_copy(name: str) -> None:
    column = COLUMNS[name]
    before = column.tolist()
    found = put(column, torch.tensor([3, 1]), take(column, torch.tensor([2, 0])))
    assert found.tolist() == [before[0], before[0], before[2], before[2], before[4]]
    assert column.tolist() == before
    assert same(put(column, torch.empty(0, dtype=torch.int64), take(column, torch.empty(0, dtype=torch.int64))), column)


@every_column
def test_packed_and_joined_again(name: str) -> None:
    column = COLUMNS[name]
    parts = [take(column, torch.arange(5)[:2]), take(column, torch.arange(5)[2:])]
    assert same(joined(parts), column)
    for one in (column, parts[1], take(column, torch.empty(0, dtype=torch.int64))):
        again = unpack("inputs", load(save(pack("inputs", one))))
        assert again is not None
        assert same(again, one)
        assert equal(again, one).tolist() == [True] * len(one)
    assert unpack("targets", pack("inputs", column)) is None


@every_column
def test_a_hash_sees_values_and_not_how_they_were_cut(name: str) -> None:
    def digest(column: Column) -> str:
        hasher = hashlib.sha256()
        feed(column, hasher)
        return hasher.hexdigest()

    column = COLUMNS[name]
    whole = digest(column)
    assert digest(joined([take(column, torch.arange(2)), take(column, torch.arange(2, 5))])) == whole
    assert digest(take(take(column, torch.tensor([4, 3, 2, 1, 0])), torch.tensor([4, 3, 2, 1, 0]))) == whole
    assert digest(take(column, torch.tensor([1, 0, 2, 3, 4]))) != whole


def test_equal_tells_each_value() -> None:
    assert equal(COLUMNS["texts"], Rows.of(["a b", "x", "ü", "c", "a b"])).tolist() == [True, False, True, False, True]
    assert equal(torch.tensor([1, 2]), torch.tensor([1, 3])).tolist() == [True, False]
    assert equal(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 5]])).tolist() == [True, False]


@pytest.mark.parametrize("damage", [b"", b"no arrow", Rows.of(TEXTS).dump()[:-40]])
def test_what_is_no_column_is_refused(damage: bytes) -> None:
    bad = {"inputs.arrow": torch.frombuffer(bytearray(damage or b"\0"), dtype=torch.uint8)}
    with pytest.raises(ValueError, match="has no readable inputs"):
        unpack("inputs", bad)
    with pytest.raises(ValueError, match="has no readable inputs"):
        unpack("inputs", {"inputs.arrow": torch.zeros(2, 2)})


def test_texts_of_any_length_are_one_type() -> None:
    assert Rows.of(["a"]).values.type == Rows.of(["b" * 5]).values.type == pa.large_string()


def test_a_place_stays_with_its_sample() -> None:
    samples = Samples(COLUMNS["texts"], torch.arange(5), 10 + torch.arange(5))
    some = samples.take(torch.tensor([3, 0]))
    assert some.at.tolist() == [13, 10]
    assert samples.put(torch.tensor([1]), some.take(torch.tensor([0]))).at.tolist() == [10, 11, 12, 13, 14]
    assert some.labels is not None
    assert Samples(COLUMNS["texts"], COLUMNS["texts"]).labels is None


def test_draws_one_by_one_are_those_all_at_once() -> None:
    def make(generator: torch.Generator) -> Tensor:
        return torch.rand(3, generator=generator)

    at = torch.tensor([7, 2, 9])
    together = draws(5, "stamp", at)(make)
    for place, row in zip(at.split(1), together, strict=True):
        assert torch.equal(draws(5, "stamp", place)(make)[0], row)
    assert not torch.equal(draws(6, "stamp", at)(make), together)
    assert not torch.equal(draws(5, "plant", at)(make), together)
    assert draws(5, "stamp", at[:0])(make).shape == (0, 3)


def test_the_digest_of_dense_data_is_what_it_was() -> None:
    """That of the first version, on which stored victims and rows rely."""
    one = Samples(torch.arange(48, dtype=torch.uint8).view(2, 3, 4, 2), torch.tensor([1, 0]))
    parts = Splits(one, one.take(torch.tensor([0])), one.take(torch.tensor([1])), ("a", "b"))
    assert parts.digest() == "c8f0b2629d3ca294c88a1bb1fc534943406062a5b2314bafaa110fa9b987c788"
