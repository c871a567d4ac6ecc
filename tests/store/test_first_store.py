"""A store that the first version made (commit 6d0cb67: made shapes, BadNets and WaNet, `none` and NFT) is read, continued and
repeated by this one. tests/stores/first is that store as it was written."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

from bdray.experiment import Experiment
from bdray.run import run
from bdray.spec import Config
from bdray.store.row import of_record
from bdray.store.store import Store
from bdray.victim import backdoor

SCORES = ("utility_after", "asr_after", "recovery_after", "target_utility_after", "held_utility_after")
KEYS = {"591e7d348f422b53", "cc89d486025b6ae8", "8f376d12d9ddbb36", "72ea11861556f641"}


@pytest.fixture
def first(tmp_path: Path) -> Store:
    shutil.copytree(Path(__file__).parents[1] / "stores" / "first", tmp_path / "first")
    return Store(str(tmp_path / "first"))


def test_its_rows_are_read_and_have_the_keys_of_now(first: Store) -> None:
    rows = first.rows().to_pylist()
    assert {row["key"] for row in rows} == KEYS
    for row in rows:
        assert Experiment.of(json.loads(row["spec"])).key() == row["key"]
        assert of_record(row).status == "done"


@pytest.mark.parametrize("key", sorted(KEYS))
def test_the_same_again_is_the_stored_row(first: Store, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdray.run._run", lambda *_: pytest.fail("it ran again"))
    stored = first.row(key)
    assert stored is not None
    assert run(Experiment.of(json.loads(stored["spec"])), first, Path()) == of_record(stored)


@pytest.mark.parametrize("key", sorted(KEYS))
def test_repeated_it_gives_the_same_numbers(first: Store, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its stored victims, which are not trained again."""
    monkeypatch.setattr("bdray.victim.fit", lambda *_, **__: pytest.fail("a victim was trained"))
    stored = first.row(key)
    assert stored is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its files have no checksums is said once a store
        again = run(Experiment.of(json.loads(stored["spec"])), first, Path(), again=True)
    assert {name: getattr(again, name) for name in SCORES} == {name: stored[name] for name in SCORES}
    assert again.data_digest == stored["data_digest"]


@pytest.mark.parametrize("attack", ["badnets", {"name": "wanet", "rate": 0.1}], ids=["badnets", "wanet"])
def test_it_is_continued(first: Store, attack: str | Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new defense on a stored victim, whose poison is in the form of then."""
    old = next(
        row for row in first.rows().to_pylist() if row["attack"] == (attack if isinstance(attack, str) else attack["name"])
    )
    config = {**json.loads(old["spec"]), "defense": {"name": "fine_tuning", "clean": 0.1, "epochs": 1}}
    experiment = Experiment.of(config)
    assert experiment.victim_key() == old["victim"]
    harm = backdoor(experiment, first, Path()).poison
    assert len(harm.planted) == len(harm.poisoned) == old["poisoned"]
    assert len(harm.disguised) == len(harm.cover) == old["covered"]
    assert set(harm.planted.targets.tolist()) == {0}
    row = run(experiment, first, Path())
    assert (row.status, row.asr_before) == ("done", old["asr_before"])
    assert len(first.rows()) == len(KEYS) + 1
