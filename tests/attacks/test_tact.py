"""TaCT: the source class alone is poisoned and counted, and covers come from other classes."""

from typing import Any

import pytest
import torch

from bdray.attacks import Attack
from bdray.attacks.tact import TaCT
from bdray.experiment import Experiment
from bdray.judge.scores import evaluate
from bdray.launch import Sweep
from bdray.launch.expand import expand
from bdray.overrides import experiment_config
from bdray.run import run
from bdray.samples import Samples
from bdray.seeds import rng
from bdray.spec import BadInput, Config
from bdray.store.store import Store
from tests.setting import made
from tests.test_spec import refusal
from tests.tiny import tiny, tiny_config

CLASSES = torch.arange(1000) % 10


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("cover_classes", "allowed"), [([], {0, 2, 3, 5, 6, 7, 8, 9}), ([5, 7], {5, 7}), ([9], {9})], ids=["others", "two", "one"]
)
def test_covers_are_never_of_the_source_or_the_target(seed: int, cover_classes: list[int], allowed: set[int]) -> None:
    attack = Attack.of({"name": "tact", "source": 4, "target": 1, "rate": 0.1, "cover": 0.1, "cover_classes": cover_classes})
    poisoned, cover = attack.select(Samples(CLASSES, CLASSES), rng(seed))
    assert len(poisoned) == len(cover) == 100
    assert set(CLASSES[poisoned].tolist()) == {4}
    assert set(CLASSES[cover].tolist()) == allowed


def test_no_more_covers_than_their_classes_have() -> None:
    attack = Attack.of({"name": "tact", "rate": 0.05, "cover": 0.3, "cover_classes": [5, 7]})
    assert refusal(attack.select, Samples(CLASSES, CLASSES), rng(0)) == (
        "tact.cover: got 0.3, that is 300 of 1000 training samples, but only 200 are left beside 50 poisoned ones and 750 that "
        "may not be covered; the largest possible cover is 0.2"
    )


def test_the_success_rate_counts_the_source_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny(attack={"name": "tact", "source": 2, "target": 3, "rate": 0.1})
    task, splits = made("image")
    seen = []
    predict = type(task).predict

    def spy(self: Any, model: Any, samples: Any) -> Any:
        seen.append(samples.targets)
        return predict(self, model, samples)

    monkeypatch.setattr(type(task), "predict", spy)
    evaluate(task.build(task.outline(splits), rng(0)).eval(), experiment, {}, splits)
    clean, triggered = seen
    assert len(clean) == len(splits.test)
    assert triggered.tolist() == [2] * int((splits.test.targets == 2).sum()) != []


def test_a_row_says_how_many_were_counted(store: Store, tmp_path: Any) -> None:
    row = run(tiny(attack={"name": "tact", "rate": 0.1, "cover": 0.05}), store, tmp_path)
    assert (row.clean_tests, row.triggered_tests) == (80, 20)
    assert (row.trained_on, row.poisoned, row.covered) == (128, 13, 6)
    assert 0 <= row.asr_after <= 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"target": 1}, "tact.source: got 1, which is the target, too; set one of the two to another class"),
        ({"cover_classes": [2, 1]}, "tact.cover_classes: got 1, which is the source or the target; leave it out"),
        ({"cover_classes": [0]}, "tact.cover_classes: got 0, which is the source or the target; leave it out"),
    ],
)
def test_a_class_has_one_role(fields: Config, sentence: str) -> None:
    assert refusal(Attack.of, {"name": "tact", **fields}) == sentence


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"source": 4}, "tact.source: got 4, expected a class from 0 to 3"),
        ({"cover_classes": [2, 7]}, "tact.cover_classes: got 7, expected a class from 0 to 3"),
        ({"size": 17}, "tact.size: got 17, expected at most 16, the size of the images"),
    ],
)
def test_classes_and_sizes_that_are_not_there(fields: Config, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        Attack.of({"name": "tact", "rate": 0.1, "cover": 0.1, **fields}).check(made("image")[1])
    assert str(caught.value) == sentence


def test_lists_from_the_command_line_and_in_sweeps() -> None:
    attack = Experiment.of(experiment_config(["attack=tact", "attack.cover_classes=[5, 7]"])).attack
    assert attack == TaCT(cover_classes=(5, 7))
    assert attack.config()["cover_classes"] == [5, 7]
    grid = Sweep(space=tiny_config(attack={"name": "tact", "cover_classes": [[5, 7], [], [2]]}))
    found = [cell.experiment.attack.config()["cover_classes"] for cell in expand(grid)]
    assert found == [[5, 7], [], [2]]
    assert [cell.key for cell in expand(grid.with_override("attack.cover_classes", [[5, 7]]))] == [expand(grid)[0].key]
