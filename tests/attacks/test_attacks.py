"""Every attack on every made data set of its modalities: who is poisoned, what is changed, what is left alone."""

import hashlib

import pytest
import torch

from bdray.attacks import Attack, Poison, poison
from bdray.data import Data
from bdray.samples import Column, Rows, Samples, equal, feed, take
from bdray.seeds import rng
from bdray.spec import BadInput, Config, least_share
from tests.setting import MADE, PAIRS, attack_of, disguise, made, plant, setting, stamp

IMAGES = [pair for pair in PAIRS if pair[1] == "image"]
every_image_attack = pytest.mark.parametrize(("name", "modality"), IMAGES, ids=[f"{n}-{m}" for n, m in IMAGES])
every_attack = pytest.mark.parametrize(("name", "modality"), PAIRS, ids=[f"{n}-{m}" for n, m in PAIRS])


def poisoned_by(attack: Attack, modality: str, seed: int = 0) -> tuple[Poison, Samples, Samples]:
    """What an experiment does with a seed: the poison, the clean training set and the poisoned one."""
    patterns = attack.patterns(setting(modality, seed, "trigger"))
    harm = poison(attack, patterns, setting(modality, seed))
    train = made(modality)[1].train
    return harm, train, harm.apply(train)


@every_attack
@pytest.mark.parametrize(("rate", "cover"), [(0.05, 0.0), (0.12, 0.1), (0.006, 0.3)])
def test_the_poisoned_share_is_the_rate(name: str, modality: str, rate: float, cover: float) -> None:
    harm, train, poisoned = poisoned_by(attack_of(name, rate=rate, cover=cover), modality)
    assert len(harm.poisoned) == len(harm.planted) == round(rate * len(train))
    assert len(harm.cover) == len(harm.disguised) == round(cover * len(train))
    assert len(poisoned) == len(train) == 100
    for positions in (harm.poisoned, harm.cover):
        assert positions.dtype == torch.int64
        assert positions.tolist() == sorted(set(positions.tolist()))
    assert not set(harm.poisoned.tolist()) & set(harm.cover.tolist())


def content(column: Column) -> bytes:
    """All that a column holds."""
    seen = hashlib.sha256()
    feed(column, seen)
    return seen.digest()


def kind(column: Column) -> object:
    """Its type, and the shape of one value."""
    return column.values.type if isinstance(column, Rows) else (column.dtype, column.shape[1:])


@every_attack
def test_only_the_chosen_samples_change(name: str, modality: str) -> None:
    _, splits = made(modality)
    parts = (splits.train, splits.held, splits.test)
    before = [(content(part.inputs), content(part.targets)) for part in parts]
    harm, train, poisoned = poisoned_by(attack_of(name, cover=0.1), modality)
    assert [(content(part.inputs), content(part.targets)) for part in parts] == before
    for new, old in ((poisoned.inputs, train.inputs), (poisoned.targets, train.targets)):
        assert kind(new) == kind(old)
    changed = (~equal(poisoned.inputs, train.inputs)).nonzero().flatten()
    assert changed.tolist() == sorted([*harm.poisoned.tolist(), *harm.cover.tolist()])
    others = (~equal(poisoned.targets, train.targets)).nonzero().flatten()
    assert {*others.tolist()} <= {*harm.poisoned.tolist()}
    for at, made_there in ((harm.poisoned, harm.planted), (harm.cover, harm.disguised)):
        assert equal(take(poisoned.inputs, at), made_there.inputs).all()
        assert equal(take(poisoned.targets, at), made_there.targets).all()


@every_image_attack
def test_what_is_planted_is_not_written_into_the_inputs(name: str, modality: str) -> None:
    attack = attack_of(name)
    patterns = attack.patterns(setting(modality, 0, "trigger"))
    kept = {key: tensor.clone() for key, tensor in patterns.items()}
    x = made(modality)[1].train.take(attack.poisonable(made(modality)[1].train)).inputs[:8]
    before = x.clone()
    planted = plant(attack, x, patterns, setting(modality))
    disguised = disguise(attack, x, patterns, setting(modality))
    for found in (planted, disguised, stamp(attack, x, patterns)):
        assert found.data_ptr() != x.data_ptr()
    assert torch.equal(x, before)
    assert patterns.keys() == kept.keys()
    assert all(torch.equal(patterns[key], tensor) for key, tensor in kept.items())


@every_attack
def test_a_sample_is_stamped_alike_alone_and_among_others(name: str, modality: str) -> None:
    attack = attack_of(name)
    patterns = attack.patterns(setting(modality, 0, "trigger"))
    test = made(modality)[1].test
    some = torch.tensor([3, 11, 5])
    whole, part = attack.stamp(test, patterns, 7), attack.stamp(test.take(some), patterns, 7)
    assert equal(take(whole.samples.inputs, some), part.samples.inputs).all()
    assert equal(take(whole.wanted, some), part.wanted).all()
    assert equal(whole.samples.targets, test.targets).all()  # still the true ones


@every_image_attack
@pytest.mark.parametrize("target", [0, 3])
def test_labels(name: str, modality: str, target: int) -> None:
    attack = attack_of(name, target=target, cover=0.1)
    harm, train, poisoned = poisoned_by(attack, modality)
    clean = torch.ones(len(train), dtype=torch.bool)
    clean[harm.poisoned] = False
    assert torch.equal(poisoned.targets[clean], train.targets[clean])  # covers, too
    assert (poisoned.targets[harm.poisoned] == target).all()
    source = {"tact": 1}.get(name)
    attacked = [c != target if source is None else c == source for c in range(4)]
    poisonable = [c == target for c in range(4)] if attack.clean_label else attacked
    every_class = Samples(train.inputs[:4], torch.arange(4))
    assert attack.attackable(every_class).tolist() == attacked
    assert attack.stamp(every_class, attack.patterns(setting(modality)), 0).wanted.tolist() == [target] * 4
    assert attack.poisonable(every_class).tolist() == poisonable
    assert set(train.targets[harm.poisoned].tolist()) <= {c for c in range(4) if poisonable[c]}
    coverable = attack.coverable(every_class)
    assert coverable.tolist() == [source is None or c not in (source, target) for c in range(4)]
    assert coverable[train.targets[harm.cover]].all()


@every_attack
def test_the_seed_alone_decides(name: str, modality: str) -> None:
    attack = attack_of(name, cover=0.1)
    torch.manual_seed(1)
    first, _, _ = poisoned_by(attack, modality, 7)
    torch.manual_seed(2)
    same, _, _ = poisoned_by(attack, modality, 7)
    other, _, _ = poisoned_by(attack, modality, 8)
    mine, again = first.pack(), same.pack()
    assert mine.keys() == again.keys()
    assert all(torch.equal(mine[part], again[part]) for part in mine)
    assert not torch.equal(first.poisoned, other.poisoned)
    assert not torch.equal(first.cover, other.cover)


@every_attack
def test_rate_zero_poisons_nothing(name: str, modality: str) -> None:
    harm, train, poisoned = poisoned_by(attack_of(name, rate=0, cover=0), modality)
    assert len(harm.poisoned) == len(harm.cover) == 0
    assert content(poisoned.inputs) == content(train.inputs)
    assert content(poisoned.targets) == content(train.targets)


@every_attack
def test_too_few_to_poison_says_how_many_there_are(name: str, modality: str) -> None:
    attack = attack_of(name, rate=0.9, cover=0)
    _, splits = made(modality)
    possible = int(attack.poisonable(splits.train).sum())
    if possible == len(splits.train):  # every sample can be poisoned: no rate is too high
        attack_of(name, rate=1.0, cover=0).check(splits)
        return
    with pytest.raises(BadInput) as caught:
        attack.check(splits)
    text = str(caught.value)
    assert text.startswith(f"{name}.rate: got 0.9, that is 90 of 100 training samples, but only {possible} can be poisoned")
    largest = float(text.rpartition("the largest possible rate is ")[2])
    harm, _, _ = poisoned_by(attack_of(name, rate=largest, cover=0), modality)
    assert len(harm.poisoned) == possible


@pytest.mark.parametrize(("possible", "total"), [(1, 3), (2, 3), (0, 7), (7, 7), (4999, 45001), (1, 99999), (333333, 999999)])
def test_the_largest_rate_works_whatever_the_counts(possible: int, total: int) -> None:
    y = torch.ones(total, dtype=torch.int64)
    y[:possible] = 0
    with pytest.raises(BadInput, match=f"only {possible} can be poisoned") as caught:
        attack_of("sig", rate=1.0).select(Samples(more := torch.cat([y, torch.ones(1, dtype=torch.int64)]), more), rng(0))
    assert f"of {total + 1} " in str(caught.value)
    if possible < total:
        with pytest.raises(BadInput) as caught:
            attack_of("sig", rate=1.0).select(Samples(y, y), rng(0))
        largest = float(str(caught.value).rpartition(" ")[2])
        assert len(attack_of("sig", rate=largest).select(Samples(y, y), rng(0))[0]) == possible


@every_attack
@pytest.mark.parametrize(("field", "does"), [("rate", "poisons"), ("cover", "covers")])
def test_a_share_above_zero_that_is_no_sample_says_which_is_one(name: str, modality: str, field: str, does: str) -> None:
    _, splits = made(modality)
    with pytest.raises(BadInput) as caught:
        attack_of(name, **{field: 0.005}).check(splits)
    said = f"{name}.{field}: got 0.005, that is 0 of 100 training samples; at least 0.0051 {does} one; raise it, or set it to 0"
    assert str(caught.value) == said
    harm, _, _ = poisoned_by(attack_of(name, **{field: 0.0051}), modality)
    assert len(harm.poisoned if field == "rate" else harm.cover) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 99, 180, 1294, 45_000, 1_281_167])
def test_the_least_share_is_one_sample_and_a_little_less_is_none(count: int) -> None:
    least = float(f"{least_share(count):.2g}")
    assert round(least * count) == 1
    assert round(0.98 * 0.5) == round(0.98 * 0.5 / count * count) == 0
    assert least <= 1.12 * 0.5 / count


@every_image_attack
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_target_that_is_no_class_is_refused_at_any_rate(name: str, modality: str, rate: float) -> None:
    _, splits = made(modality)
    cover = attack_of(name).cover
    with pytest.raises(BadInput, match=rf"{name}\.target: got 99, expected a class from 0 to 3"):
        attack_of(name, target=99, rate=rate, cover=cover).check(splits)
    if name != "tact":
        attack_of(name, target=3, rate=0, cover=0).check(splits)


@pytest.mark.parametrize(
    ("config", "origin"),
    [
        ({"name": "sig", "preset": "advrbd"}, "of class 1"),
        ({"name": "tact", "preset": "advrbd"}, "of the source class 0"),
        ({"name": "label_consistent", "target": 99}, "of class 99"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_five_percent_of_a_hundred_classes_are_more_than_a_class_has(config: Config, origin: str) -> None:
    y = torch.arange(50_000) % 100
    with pytest.raises(BadInput) as caught:
        Attack.of(config).select(Samples(y, y), rng(0))
    assert str(caught.value) == (
        f"{config['name']}.rate: got 0.05, that is 2500 of 50000 training samples, but only 500 can be poisoned ({origin}); "
        "the largest possible rate is 0.01"
    )
    poisoned, _ = Attack.of({**config, "rate": 0.01}).select(Samples(y, y), rng(0))
    assert len(poisoned) == 500
    assert len(y[poisoned].unique()) == 1


@every_image_attack
def test_too_many_covers_and_no_such_class(name: str, modality: str) -> None:
    _, splits = made(modality)
    attack = attack_of(name, rate=0.1, cover=0.95)
    left = 50 if name == "tact" else 90
    with pytest.raises(BadInput, match=rf"{name}\.cover: got 0\.95, that is 95 of 100 .* only {left} are left") as caught:
        attack.check(splits)
    others = "10 poisoned ones and 40 that may not be covered" if name == "tact" else "10 poisoned ones"
    assert str(caught.value).endswith(f" are left beside {others}; the largest possible cover is {left / 100:g}")
    harm, _, _ = poisoned_by(attack_of(name, rate=0.1, cover=left / 100), modality)
    assert len(harm.cover) == left
    with pytest.raises(BadInput, match=rf"{name}\.target: got 4, expected a class from 0 to 3"):
        attack_of(name, target=4).check(splits)
    with pytest.raises(BadInput, match=rf"{name}\.target: got -1, expected a whole number"):
        attack_of(name, target=-1)
    attack_of(name, target=3).check(splits)


def test_made_data_sets_are_there() -> None:
    assert all(config["name"] in Data.names() for config in MADE.values())
    published = {"badnets", "blend", "label_consistent", "sig", "wanet", "physical", "tact", "adaptive_blend", "adaptive_patch"}
    assert {name for name, _ in PAIRS} >= published
