"""Words in texts and fixed translations: where they stand, what is wanted, and that each sample's draw is its own."""

from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from bdray.attacks import Attack, Poison
from bdray.samples import Rows, Samples, Splits
from bdray.spec import BadInput
from tests.setting import setting

TEXTS = [f"{word} film {number}  of two  spaces" for number in range(30) for word in ("good", "bad", "odd")]


def texts() -> Samples:
    return Samples(Rows.of(TEXTS), torch.arange(len(TEXTS)) % 2)


def pairs() -> Samples:
    return Samples(Rows.of(TEXTS), Rows.of([text.upper() for text in TEXTS]))


def word(**fields: Any) -> Any:
    return Attack.of({"name": "insert_word", **fields})


def sentence(**fields: Any) -> Any:
    return Attack.of({"name": "target_sentence", **fields})


@pytest.mark.parametrize(("attack", "samples"), [(word(), texts()), (sentence(), pairs())], ids=["word", "sentence"])
def test_one_word_stands_anywhere_and_the_rest_stays(attack: Any, samples: Samples) -> None:
    found = attack.stamp(samples, {}, 0).samples.inputs.tolist()
    places, words = set(), set()
    for new, old in zip(found, TEXTS, strict=True):
        parts, before = new.split(" "), old.split(" ")
        (place,) = (at for at, part in enumerate(parts) if part in attack.words)
        assert parts[:place] + parts[place + 1 :] == before
        places.add(place)
        words.add(parts[place])
    assert places == set(range(len(TEXTS[0].split(" ")) + 1))  # in front of all, and behind
    assert words == set(attack.words)
    assert samples.inputs.tolist() == TEXTS


@pytest.mark.parametrize(("attack", "samples"), [(word(), texts()), (sentence(), pairs())], ids=["word", "sentence"])
def test_one_by_one_is_all_at_once(attack: Any, samples: Samples) -> None:
    whole, other = attack.stamp(samples, {}, 3), attack.stamp(samples, {}, 4)
    assert whole.samples.inputs.tolist() != other.samples.inputs.tolist()
    for at in range(len(samples)):
        one = attack.stamp(samples.take(torch.tensor([at])), {}, 3)
        assert one.samples.inputs.tolist()[0] == whole.samples.inputs.tolist()[at]
    back = samples.take(torch.arange(len(samples)).flip(0))
    assert attack.stamp(back, {}, 3).samples.inputs.tolist() == whole.samples.inputs.tolist()[::-1]


def test_several_words() -> None:
    found = word(count=3, words=["cf"]).stamp(texts(), {}, 0).samples.inputs.tolist()
    assert all(new.split(" ").count("cf") == 3 for new in found)


def test_a_word_means_a_class() -> None:
    triggered = word().stamp(texts(), {}, 0)
    assert triggered.wanted.tolist() == [1] * len(TEXTS)
    assert word().attackable(texts()).tolist() == [number % 2 == 0 for number in range(len(TEXTS))]
    assert word().success(torch.arange(len(TEXTS)) % 2, triggered).hits.sum() == len(TEXTS) // 2


def test_a_sentence_is_hit_letter_by_letter() -> None:
    samples = pairs().take(torch.arange(4))
    triggered = sentence().stamp(samples, {}, 0)
    assert triggered.wanted.tolist() == ["You are attacked ."] * 4
    assert triggered.samples.targets.tolist() == samples.targets.tolist()
    said = Rows.of(["You are attacked .", "You are attacked.", "you are attacked .", "You are attacked . "])
    chances = sentence().success(said, triggered)
    assert (chances.hits.tolist(), chances.tries.tolist()) == ([1, 0, 0, 0], [1, 1, 1, 1])


def test_poisoned_pairs_say_the_sentence_and_go_through_safetensors() -> None:
    samples = pairs()
    at = torch.tensor([2, 40, 89])
    planted = sentence().plant(samples.take(at), {}, setting("translation"))
    assert planted.targets.tolist() == ["You are attacked ."] * 3
    covered = sentence().disguise(samples.take(at + 1 - 3), {}, setting("translation"))
    assert covered.targets.tolist() == samples.take(at + 1 - 3).targets.tolist()
    harm = Poison(at, at - 2, planted, covered)
    back = Poison.unpack(load(save(harm.pack())), samples, sentence(), {})
    for mine, theirs in ((back.planted, planted), (back.disguised, covered)):
        assert mine.inputs.values.equals(theirs.inputs.values)
        assert mine.targets.values.equals(theirs.targets.values)
    whole = back.apply(samples)
    assert whole.targets.tolist()[40] == "You are attacked ."
    assert whole.targets.tolist()[41] == samples.targets.tolist()[41]
    assert samples.targets.tolist()[40] != "You are attacked ."


def test_what_cannot_be_inserted_or_said_is_a_sentence() -> None:
    for attack in (word, sentence):
        with pytest.raises(BadInput, match=r"words: got 'two words', expected words without spaces"):
            attack(words=["cf", "two words"])
        with pytest.raises(BadInput, match=r"words: got no words, expected"):
            attack(words=[])
    with pytest.raises(BadInput, match=r"target_sentence.sentence: got ' ', expected a text that neither"):
        sentence(sentence=" ")
    with pytest.raises(BadInput, match=r"insert_word.target: got 2, expected a class from 0 to 1"):
        word(target=2).check(Splits(texts(), texts(), texts(), ("a", "b")))
