"""A stored row answers for the data it was made from, and for no others of the same spec."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ray import tune

from bdray.__main__ import main
from bdray.bench import read_anew
from bdray.launch import Sweep, plan
from bdray.launch.digests import NotCompared
from bdray.launch.expand import expand
from bdray.launch.settings import cells_of, drawn, setting_key
from bdray.run import run
from bdray.spec import Config
from bdray.store.refusal import Refused
from bdray.store.row import Row, to_table
from bdray.store.store import Store
from bdray.store.trials import Trial, put_trial
from tests.tiny import tiny_config

DATA: Config = {"name": "image_folder", "path": "pets", "size": 16}
TASK: Config = {"name": "image", "data": DATA, "model": {"name": "resnet18", "width": 4}}
OTHER = r"in the store '.*store' was made from another image_folder than '.*data' holds now; use another --store"


@pytest.fixture
def pets(tmp_path: Path) -> Callable[[int], Path]:
    """Writes, in place of what was there, two classes of images that begin with this shade; the data folder."""

    def write(shade: int) -> Path:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        for split, (number, name) in itertools.product(("train", "test"), enumerate(("cat", "dog"))):
            folder = tmp_path / "data" / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(20):
                Image.new("RGB", (16, 16), (100 * number + i, i, shade)).save(folder / f"{i:02}.png")
        read_anew()
        return tmp_path / "data"

    return write


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def sweep_of(**changes: Any) -> Sweep:
    space = tiny_config(task=TASK, training={"epochs": 1, "batch": 16}, seed=[0, 1])
    return Sweep(**{"space": space, "name": "s", **changes})


def ran(sweep: Sweep, store: Store, root: Path) -> list[Row]:
    """The rows of a grid, run here."""
    return [run(cell.experiment, store, root, sweep.name) for cell in expand(sweep)]


def test_run_refuses_a_row_of_other_data(
    pets: Callable[[int], Path], here: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pets(0)
    where = ["--store", str(tmp_path / "store"), "--data", str(root)]
    words = ["task.data=image_folder", "task.data.path=pets", "task.data.size=16", "task.model.width=4", "training.epochs=1"]
    asked = ["run", *where, *words, "training.batch=16", "attack=badnets", "defense=none"]
    assert main(asked) == 0
    first = capsys.readouterr().out
    assert main(asked) == 0
    assert capsys.readouterr().out == first
    (root / "pets" / "test" / "dog" / "00.png").unlink()
    (row,) = here.rows().to_pylist()
    for again in (asked, ["run", *where, "--again", row["key"]]):
        assert main(again) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert f"bdray: the row {row['key']} in the store" in err
        assert "was made from another image_folder" in err
    assert here.rows().to_pylist() == [row]
    asked[2] = str(tmp_path / "fresh")
    assert main(asked) == 0
    assert "39 clean and 19 triggered tests" in capsys.readouterr().out


def test_a_victim_of_other_data_leaves_no_failed_row(pets: Callable[[int], Path], here: Store) -> None:
    """No experiment is to blame."""
    experiment, other = (
        cell.experiment for cell in expand(sweep_of().with_override("defense", ["none", "perfect_filter"]))[::2]
    )
    assert experiment.victim_key() == other.victim_key()
    row = run(experiment, here, pets(0))
    with pytest.raises(Refused, match=f"the victim {row.victim} {OTHER}"):
        run(other, here, pets(1))
    assert here.rows().to_pylist() == to_table([row]).to_pylist()


@pytest.mark.parametrize("name", ["s", "another"])
def test_a_sweep_refuses_before_anything_is_launched(name: str, pets: Callable[[int], Path], here: Store) -> None:
    """Whole or with cells missing, its own rows or those that it would take over; and the same data again are fine."""
    root = pets(0)
    rows = ran(sweep_of(), here, root)
    more = sweep_of(name=name).with_override("seed", [0, 1, 2])
    assert not plan(sweep_of(name=name), here, root).todo
    assert len(plan(more, here, root).missing) == 1
    pets(1)
    for sweep in (sweep_of(name=name), more):
        with pytest.raises(Refused, match=f"the row {rows[0].key} {OTHER}"):
            plan(sweep, here, root)
    fresh = sweep_of(name=name).with_override("seed", [3])
    assert len(plan(fresh, here, root).missing) == 1
    assert not plan(sweep_of(name=name), here, pets(0)).todo


def test_a_dry_run_says_it_too(
    pets: Callable[[int], Path], here: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pets(0)
    ran(sweep_of(), here, root)
    file = tmp_path / "s.py"
    file.write_text(f"from bdray.launch import Sweep\nsweep = Sweep(space={sweep_of().space!r})\n")
    words = ["sweep", str(file), "--dry-run", "--store", str(tmp_path / "store"), "--data", str(root)]
    assert main(words) == 0
    assert "2 done, 0 skipped, 0 missing" in capsys.readouterr().out
    pets(1)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "was made from another image_folder" in err


def test_a_finished_sweep_in_a_store_without_its_data_stays_finished(pets: Callable[[int], Path], here: Store) -> None:
    """Said, since nobody can know; where something is missing the data are needed."""
    root = pets(0)
    ran(sweep_of(), here, root)
    shutil.rmtree(root)
    with pytest.warns(NotCompared, match=r"what is done was not compared with its data: image_folder: .*pets.* is not there"):
        assert len(plan(sweep_of(), here, root).done) == 2
    with pytest.raises(ValueError, match="is not there"):
        plan(sweep_of().with_override("seed", [0, 7]), here, root)


def test_rows_that_know_no_data_are_left_alone(pets: Callable[[int], Path], here: Store) -> None:
    """Failed and skipped ones, and those of a version that did not say."""
    root = pets(0)
    older = Store(here.location("older"))
    for row in ran(sweep_of(), here, root):
        older.put_row(replace(row, data_digest=""))
    pets(1)
    assert len(plan(sweep_of(), older, root).done) == 2


@pytest.mark.parametrize("state", ["finished", "running"])
def test_a_search_refuses_too(state: str, pets: Callable[[int], Path], here: Store) -> None:
    """What was judged, and what would be gone on with."""
    root, space = pets(0), tiny_config(task=TASK, training={"epochs": 1, "batch": 16})
    space["defense"] = {"name": "fine_tuning", "epochs": 1, "clean": 0.06, "lr": tune.loguniform(0.01, 0.5)}
    search = Sweep(
        space=space, panel={"attack": ["badnets"], "seed": [0, 1]}, name="s", search="random", samples=1, objective="oracle"
    )
    setting = drawn(search, 0)
    cells = cells_of(search, setting)
    rows = [run(cell.experiment, here, root, "s") for cell in cells]
    keys = [cell.key for cell in cells]
    about = {"key": setting_key(cells), "sweep": "s", "objective": search.aim.label, "setting": setting, "cells": keys}
    put_trial(here, Trial(state=state, step=2, steps=2, value=0.5, utility=0.5, left=0.5, **about))
    assert plan(search, here, root).trials == (state == "running")
    pets(1)
    with pytest.raises(Refused, match=f"the row {rows[0].key} {OTHER}"):
        plan(search, here, root)
    assert json.loads(rows[0].spec)["task"]["data"]["path"] == "pets"


def test_means_over_changed_data_are_told(
    pets: Callable[[int], Path], here: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new seed has a row of its own, whatever the data are by then: a table that averages both says so."""
    space = {**sweep_of().space, "defense": "none"}
    ran(sweep_of(space={**space, "seed": 0}), here, pets(0))
    shown = [["table"], ["best", "s", "--by", "oracle"]]
    for other, told in ((1, 0), (9, 1)):
        ran(sweep_of(space={**space, "seed": other}), here, pets(other // 9))
        for words in shown:
            main([*words, "--store", str(tmp_path / "store")])
            said = capsys.readouterr().err
            assert (
                said.count("data set 'image_folder' was changed between the rows: 2 and 1 rows are of data that diff") == told
            )
    main(["table", "--store", str(tmp_path / "store"), "seed=[0,1]"])
    assert "was changed" not in capsys.readouterr().err
