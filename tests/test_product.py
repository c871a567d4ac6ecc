"""The product: every defense on every task ends in a row, done or skipped with its reason."""

import functools
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from bdray.bench import Bench, load
from bdray.defenses import Defended, Defense, Evidence
from bdray.defenses._isolation import losses
from bdray.defenses._stages import Stages
from bdray.evidence import collect
from bdray.experiment import Experiment
from bdray.run import run
from bdray.samples import Outline
from bdray.seeds import rng
from bdray.spec import Config
from bdray.store.store import Store
from bdray.task import Task
from bdray.training import silent
from bdray.victim import Backdoored, backdoor
from tests.tiny import QUICK

SMALL: dict[str, tuple[Config, Config]] = {
    "image": ({"name": "miniature", "per_class": 15, "held": 0.2}, {"name": "resnet18", "width": 4}),
    "video": ({"name": "moving_shapes", "frames": 4, "size": 16, "limit": 50, "test_limit": 8, "held": 0.2}, {"width": 2}),
    "points": ({"name": "solids", "points": 64, "limit": 50, "test_limit": 8, "held": 0.2}, {"width": 4}),
    "text": ({"name": "reviews", "count": 100, "tests": 8, "held": 0.2}, {"width": 16, "layers": 1, "vocabulary": 120}),
    "translation": (
        {"name": "phrases", "count": 100, "tests": 8, "held": 0.2},
        {"width": 16, "layers": 1, "vocabulary": 300, "length": 6},
    ),
    "detection": ({"name": "drawn_shapes", "count": 50, "tests": 8, "held": 0.2}, {"width": 4}),
}
"""The made data set and the model of each task, small."""
BRIEF: dict[str, Config] = {
    **{name: {key: value for key, value in fields.items() if key != "shots"} for name, fields in QUICK.items()},
    "advrbd": {"warmup": 1, "partition_rate": 0.2, "iterations": 1},
    "dbr": {"tuning_epochs": 1, "intra_epochs": 1, "removal_epochs": 1, "alpha_p": 0.1, "alpha_c": 0.2},
    "fine_tuning": {"epochs": 1},
    "fine_pruning": {"epochs": 1},
}
SKIPPED = {
    **{("advrbd", task): "boxes and sentences have no one distribution" for task in ("translation", "detection")},
    **{("clp", task): "finds no BatchNorm after a convolution" for task in ("text", "translation")},
    **{("cutmix", task): "pastes a box of one image" for task in Task.names() if task != "image"},
    **{("dbr", task): "turns and shifts images" for task in Task.names() if task != "image"},
    **{(name, task): "removes points that lie apart" for name in ("sor", "ror") for task in Task.names() if task != "points"},
    ("fine_pruning", "detection"): "'ssd' has none with a weight of its own",
}
"""Where a defense has no meaning, and what is said of it."""
_FOLDER = tempfile.TemporaryDirectory(prefix="bdray-product-")


def small(task: str, defense: str, **fields: Any) -> Experiment:
    """A cell of the product: one epoch, and a tenth of the samples are the defender's."""
    data, model = SMALL[task]
    return Experiment.of(
        {
            "task": {"name": task, "data": data, "model": {"name": Task.of({"name": task, "data": data}).model.name, **model}},
            "training": {"epochs": 1, "batch": 16},
            "defense": {"name": defense, **({} if defense == "none" else {"clean": 0.2}), **BRIEF.get(defense, {}), **fields},
        }
    )


@functools.cache
def victim(task: str) -> tuple[Store, Path, Backdoored]:
    """Its store, in which it is trained once, and its data folder."""
    store, root = Store(f"{_FOLDER.name}/{task}"), Path(_FOLDER.name)
    return store, root, backdoor(small(task, "none"), store, root)


@pytest.mark.parametrize("name", Defense.names())
@pytest.mark.parametrize("task", Task.names())  # one after the other: a process keeps the data of two
def test_every_defense_on_every_task(name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, root, before = victim(task)
    monkeypatch.setattr("bdray.victim.fit", lambda *_, **__: pytest.fail("a victim is trained again"))
    experiment, made = small(task, name), []
    defend = Defense.member(name).defend

    def seen(*given: Any) -> Defended:
        made.append(defend(*given))
        return made[-1]

    monkeypatch.setattr(Defense.member(name), "defend", seen)
    row = run(experiment, store, root)
    assert (row.status, row.task, row.defense) == ("skipped" if (name, task) in SKIPPED else "done", task, name)
    assert SKIPPED.get((name, task), "") in row.error
    if row.status == "skipped":
        assert row.error.endswith("choose another")
        assert not made
        return
    assert not row.error
    assert row.victim == small(task, "none").victim_key()
    assert 0 <= row.asr_after <= 1
    assert 0 <= row.utility_after <= 1
    assert row.triggered_tests > 0
    assert row.poisoned == len(before.poison.poisoned) > 0
    assert math.isnan(row.flag_recall) != Defense.member(name).flags
    (defended,) = made
    model, flagged = defended.model, defended.flagged
    shapes = {key: value.shape for key, value in before.model.state_dict().items()}
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes
    assert not model.training
    learns = [weight.requires_grad for weight in before.model.parameters()]  # a sinus never does
    assert [weight.requires_grad for weight in model.parameters()] == learns
    assert flagged is None or flagged.shape == (row.trained_on,)


@pytest.mark.parametrize("task", Task.names())
def test_a_stored_victim_is_the_one_that_was_trained(task: str) -> None:
    store, root, trained = victim(task)
    experiment = small(task, "none")
    loaded, splits = backdoor(experiment, store, root), load(experiment.task.data, root)
    state = trained.model.state_dict()
    assert loaded.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    said, again = (experiment.task.predict(found.model, splits.test) for found in (trained, loaded))
    assert said.tolist() == again.tolist()
    mine, theirs = trained.poison.pack(), loaded.poison.pack()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert str(loaded.scores) == str(trained.scores)


@pytest.mark.parametrize("task", Task.names())
def test_nft_with_nothing_else_finds_its_layers(task: str) -> None:
    """Each task suits it to its own model."""
    data, _ = SMALL[task]
    experiment = Experiment.of({"task": {"name": task, "data": data}, "defense": "nft"})
    bench = Bench(experiment, Store(_FOLDER.name), Path(_FOLDER.name))
    experiment.defense.fits(experiment.task.build(bench.outline, rng(0)), experiment.task)


@pytest.mark.parametrize("task", Task.names())
def test_what_abl_isolates(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of the lowest losses, each by itself, wherever the others are longer or have more boxes."""
    _, root, before = victim(task)
    experiment = small(task, "abl", isolation=0.25)
    train = before.poison.apply(load(experiment.task.data, root).train).take(torch.arange(12))
    alone = torch.cat([losses(before.model, train.take(torch.tensor([at])), experiment.task) for at in range(12)])
    assert losses(before.model, train, experiment.task).tolist() == pytest.approx(alone.tolist(), rel=1e-3)
    teaches = experiment.task.teaches(train)
    assert task == "detection" or teaches.all()
    monkeypatch.setattr(Stages, "fit", lambda *_, **__: None)
    monkeypatch.setattr(Task, "build", lambda *_: before.model)
    flagged = experiment.defense.defend(Evidence(train=train, outline=Outline(())), experiment.task, rng(0), silent).flagged
    assert flagged is not None
    lowest = alone.masked_fill(~teaches, math.inf).argsort()[:3]
    assert flagged.nonzero().flatten().tolist() == lowest.sort().values.tolist()


def test_an_image_without_objects_is_never_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss is 0, whatever the model."""
    _, root, before = victim("detection")
    experiment = small("detection", "abl", isolation=0.2)
    train = load(experiment.task.data, root).train.take(torch.arange(20))
    boxes = train.targets.tolist()
    train = train.having(targets=train.targets.like([[] if at % 4 == 0 else mine for at, mine in enumerate(boxes)]))
    empty = ~experiment.task.teaches(train)
    assert empty[::4].all()
    assert not losses(before.model, train, experiment.task)[empty].any()
    monkeypatch.setattr(Stages, "fit", lambda *_, **__: None)
    monkeypatch.setattr(Task, "build", lambda *_: before.model)
    flagged = experiment.defense.defend(Evidence(train=train, outline=Outline(())), experiment.task, rng(0), silent).flagged
    assert flagged is not None
    assert int(flagged.sum()) == 4
    assert not (flagged & empty).any()


def test_fine_pruning_cuts_no_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A translator's last layer shares its weight with the embeddings: the one before it is pruned."""
    store, root, before = victim("translation")
    monkeypatch.setattr(type(small("translation", "none").task), "score", lambda *_: 1.0)
    experiment = small("translation", "fine_pruning", epochs=0)
    evidence, _ = collect(Bench(experiment, store, root), before)
    model = experiment.defense.defend(evidence, experiment.task, rng(0), silent).model
    changed = {name for name, value in before.model.state_dict().items() if not torch.equal(value, model.state_dict()[name])}
    assert changed == {"marian.model.decoder.layers.0.fc2.weight"}
    columns = (model.state_dict()["marian.model.decoder.layers.0.fc2.weight"] == 0).all(0)
    assert int(columns.sum()) == round(0.99 * len(columns))
    marian = model.marian
    assert marian.lm_head.weight is marian.model.shared.weight  # type: ignore[union-attr]


def test_dropout_is_drawn_from_the_seed(tmp_path: Path) -> None:
    """The same victim and the same defended model, whatever was drawn in the process before; a transformer has dropout."""
    experiment = small("text", "fine_tuning")
    rows = []
    for number in range(2):
        torch.manual_seed(number)
        rows.append(run(experiment, Store(str(tmp_path / str(number))), tmp_path))
    states = [Store(str(tmp_path / str(n))).victim_part(experiment.victim_key(), "model") for n in range(2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert [r.utility_after for r in rows] == [rows[0].utility_after] * 2
