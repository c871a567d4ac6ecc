"""The contract of data sets: splits, what every member says of itself, and the made miniature of images."""

from pathlib import Path

import pytest
import torch

from bdray.data import Data, Published
from bdray.data.miniature import Miniature
from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.task import Task
from bdray.training import Training, fit


class Numbered(Data):
    """Every input is its own number, so that a split can be told from any other."""

    def read(self, root: Path) -> Published:
        train, test = torch.arange(100), torch.arange(1000, 1040)
        return Published(Samples(train, train % 7), Samples(test, test % 7), ["seven"] * 7)


class Tracked(Data):
    """Ten tracks of five frames in each of three classes but the last, which has one; class and track can be told from the
    number."""

    def read(self, root: Path) -> Published:
        numbers = torch.arange(105)
        return Published(Samples(numbers, numbers // 50), Samples(numbers, numbers // 50), ["a", "b", "c"], numbers // 5)


class Spoken(Data):
    """Every one of 20 people says all five words, the first more often than the last."""

    def read(self, root: Path) -> Published:
        people = torch.arange(20).repeat_interleave(torch.arange(24, 4, -1))
        numbers = torch.arange(len(people))
        return Published(Samples(people, numbers % 5), Samples(people, numbers % 5), list("abcde"), people)


def split(**fields: object) -> Splits:
    return Numbered(**fields).splits(Path())


@pytest.mark.parametrize(("held", "limit"), [(0.1, 0), (0.0, 0), (0.25, 40), (0.5, 100), (0.5, 1000)])
def test_sizes_add_up_and_parts_are_disjoint(held: float, limit: int) -> None:
    found = split(held=held, limit=limit)
    used = min(limit or 100, 100)
    assert len(found.held) == round(held * used)
    assert len(found.train) + len(found.held) == used
    together = torch.cat([found.train.inputs, found.held.inputs]).tolist()
    assert len(set(together)) == used
    assert set(together) <= set(range(100))
    for part in (found.train, found.held, found.test):
        assert torch.equal(part.inputs % 7, part.targets)


def test_all_test_samples_in_their_order_or_as_many_as_asked() -> None:
    assert split().test.inputs.tolist() == list(range(1000, 1040))
    few = split(test_limit=10).test.inputs.tolist()
    assert len(few) == 10
    assert few == sorted(set(few))
    assert few != list(range(1000, 1010))
    assert set(few) <= set(range(1000, 1040))


def test_same_call_same_splits() -> None:
    for fields in ({}, {"limit": 40, "test_limit": 10}):
        for a, b in zip(split(**fields)[:3], split(**fields)[:3], strict=True):
            assert torch.equal(a.inputs, b.inputs)


def test_a_larger_limit_keeps_the_samples_of_a_smaller_one() -> None:
    small, large = (split(held=0, limit=limit).train.inputs.tolist() for limit in (20, 60))
    assert large[:20] == small
    assert small != list(range(20))


@pytest.mark.parametrize(("held", "limit"), [(0.1, 0), (0.25, 0), (0.5, 0), (0.1, 60), (0.02, 0)])
def test_a_track_is_held_out_whole_or_not_at_all(held: float, limit: int) -> None:
    """And of every class with several, though 0.02 of ten is none; never the only one."""
    found = Tracked(held=held, limit=limit).splits(Path())
    mine, rest = set((found.held.inputs // 5).tolist()), set((found.train.inputs // 5).tolist())
    assert not mine & rest
    assert len(found.train) + len(found.held) == (limit or 105)
    assert mine & set(range(10))
    assert mine & set(range(10, 20))
    assert not mine & {20}
    if not limit:
        wanted = max(1, round(10 * held)) * 5
        assert found.held.targets.bincount(minlength=3).tolist() == [wanted, wanted, 0]
        assert sorted(torch.cat([found.train.inputs, found.held.inputs]).tolist()) == list(range(105))


def test_so_is_a_person_who_is_in_every_class() -> None:
    found = Spoken(held=0.2).splits(Path())
    assert not set(found.held.inputs.tolist()) & set(found.train.inputs.tolist())
    assert len(found.held) == pytest.approx(0.2 * 290, abs=12)
    assert found.held.targets.unique().tolist() == [0, 1, 2, 3, 4]


def test_the_units_of_a_share_of_none() -> None:
    assert len(Tracked(held=0.0).splits(Path()).held) == 0


FROZEN = {
    "fields of none": (Numbered(), "3cce36a4e16cab5e470145dc0d228f252acc7d7cba4e7e2bd6c46fd4d9c9c4af"),
    "a limit": (Numbered(held=0.25, limit=40), "2332672d268e765270d6f6db31c21280657a8049af65fcc1a25b661947879b28"),
    "miniature": (Miniature(), "a232aeba84655ae32077bd3ac1b1638ea0b665c687451b0cf316fb5cd4daba1a"),
    "less of it": (
        Miniature(limit=100, held=0.25, test_limit=50),
        "2cc140078c835013fa6ba15e38e7c1ba6215201cc8dd0dc70233a50dde1eec8d",
    ),
}
"""Splits of data sets whose samples stand for themselves, and their digests at 6d0cb67."""


@pytest.mark.parametrize("name", FROZEN)
def test_the_splits_that_have_victims_stay(name: str) -> None:
    data, digest = FROZEN[name]
    assert data.splits(Path()).digest() == digest


@pytest.mark.parametrize("fields", [{"held": 1.0}, {"held": 0.99, "limit": 10}, {"held": 0.6, "limit": 1}])
def test_held_too_large(fields: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=rf"held: got {fields['held']}, which leaves 0 of"):
        split(**fields)


@pytest.mark.parametrize("fields", [{"held": 1.5}, {"held": -0.1}, {"limit": -1}, {"limit": 1.5}, {"test_limit": -1}])
def test_fields_out_of_range(fields: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(fields))):
        split(**fields)


@pytest.mark.parametrize("name", Data.names())
def test_every_member_says_what_it_is(name: str) -> None:
    member = Data.member(name)
    assert member.modality
    assert member.home
    assert member.layout
    assert "unit" in {field for kind in member.__mro__[: member.__mro__.index(Data)] for field in vars(kind)}
    assert "__doc__" in vars(member)
    assert (member.__doc__ or "").strip()


def test_the_readers_of_images_are_there() -> None:
    expected = {"cifar10", "cifar100", "digits", "gtsrb", "image_folder", "imagenette", "miniature", "tiny_imagenet"}
    assert expected <= set(Data.names())


def test_image_folder_wants_a_path() -> None:
    with pytest.raises(BadInput, match=r"image_folder\.path: got nothing"):
        Data.of("image_folder")


def test_miniature_shape_and_balance(tmp_path: Path) -> None:
    for fields, size, train, test in (({}, 16, 60, 30), ({"size": 9, "per_class": 5}, 9, 5, 3)):
        found = Miniature(**fields).read(tmp_path)
        assert found.train.inputs.shape == (4 * train, 3, size, size)
        assert found.train.inputs.dtype == torch.uint8
        assert found.train.targets.bincount().tolist() == [train] * 4
        assert found.test.targets.bincount().tolist() == [test] * 4
        assert len(found.classes) == 4
    with pytest.raises(BadInput, match=r"miniature.size: got 7, expected a whole number, at least 8"):
        Miniature(size=7)


def test_miniature_is_the_same_every_time_and_no_image_twice(tmp_path: Path) -> None:
    found, again = (Miniature().read(tmp_path) for _ in range(2))
    assert torch.equal(found.train.inputs, again.train.inputs)
    assert torch.equal(found.test.inputs, again.test.inputs)
    images = torch.cat([found.train.inputs, found.test.inputs]).flatten(1)
    assert len(images.unique(dim=0)) == 360


def test_miniature_was_never_changed(tmp_path: Path) -> None:
    """Stored victims depend on it: change the name of the data set, not its pixels."""
    train = Miniature().read(tmp_path).train.inputs
    assert train[::61, :, 8, 8].tolist() == [[183, 87, 56], [60, 166, 101], [87, 96, 204], [169, 191, 48]]


def test_miniature_mean_and_std(tmp_path: Path) -> None:
    pixels = Miniature().read(tmp_path).train.inputs / 255
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(Miniature.mean), atol=0.01, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(Miniature.std), atol=0.01, rtol=0)


def test_miniature_is_learnt_in_seconds_by_a_narrow_resnet(tmp_path: Path) -> None:
    task = Task.of({"name": "image", "data": "miniature", "model": {"name": "resnet18", "width": 4}})
    splits = task.data.splits(tmp_path)
    model = fit(task.build(task.outline(splits), rng(0, "model")), splits.train, task, Training(epochs=10, batch=32), seed=0)
    assert task.score(task.predict(model, splits.test), splits.test.targets) > 0.9
