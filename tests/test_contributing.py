"""The templates of CONTRIBUTING.md: each joins the registry as it stands there, and an experiment with it ends in a row."""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bdray import spec
from bdray.defenses import Defense
from bdray.experiment import Experiment
from bdray.report.catalogue import CONTRACTS, FOLDERS, SINGULAR, catalogue
from bdray.run import run
from bdray.spec import BadInput, Config, Spec
from bdray.store.row import Row
from bdray.store.store import Store
from tests.tiny import quick, tiny_config

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
PATH = re.compile(r"^`((?:bdray/)?\w+/\w+\.py)`", re.M)
"""Of a member, where a line begins with it."""
TEXTS: Config = {
    "name": "text",
    "data": {"name": "reviews", "count": 60, "tests": 8, "held": 0.2},
    "model": {"name": "bert", "width": 16, "layers": 1, "vocabulary": 120},
}
CLIPS: Config = {
    "name": "video",
    "data": {"name": "clips", "frames": 4, "size": 16, "held": 0.2},
    "model": {"name": "conv3d", "width": 2},
}
SIGNALS: Config = {"name": "signals", "data": {"count": 100, "tests": 20, "held": 0.2}, "model": {"width": 4}}
OF_SIGNALS = ("tasks/signals.py", "bdray/data/waves.py", "bdray/models/conv1d.py", "bdray/attacks/click.py")
RUNS: dict[str, Config] = {
    "bdray/attacks/shout.py": {"task": TEXTS, "attack": {"name": "shout", "rate": 0.2}, "training": {"epochs": 1}},
    "bdray/defenses/jitter.py": {"defense": {"name": "jitter", "clean": 0.1, "steps": 2}},
    "bdray/proxies/class_pull.py": {},
    "bdray/data/clips.py": {"task": CLIPS, "attack": {"name": "badnets", "rate": 0.2}, "training": {"epochs": 1, "batch": 8}},
    **{path: {"task": SIGNALS, "attack": {}, "training": {"epochs": 1}} for path in OF_SIGNALS},
}
"""A quick experiment with each: what it changes of the tiny one."""


def templates() -> dict[str, str]:
    """The blocks of the document that are members, by their paths."""
    found = {}
    for block in re.finditer(r"^```python\n(.*?)^```$", TEXT, re.M | re.S):
        before = TEXT[: block.start()].rpartition("```\n")[2]
        if paths := PATH.findall(before):
            found[paths[-1]] = block[1]
    return found


def package(path: str) -> str:
    """The package that a member's file joins."""
    folder = Path(path).parent.name
    return FOLDERS[folder]


@pytest.fixture
def members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """All of them are members, and are gone afterwards; the folder that they lie in."""
    base = tmp_path / "members"
    for path, text in templates().items():
        file = base / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for folder in {str(Path(path).parent) for path in templates()}:
        joined = importlib.import_module(package(f"{folder}/any.py"))
        monkeypatch.setattr(joined, "__path__", [*joined.__path__, str(base / folder)])
    yield base
    for path in templates():
        joined, name = importlib.import_module(package(path)), Path(path).stem
        sys.modules.pop(f"{joined.__name__}.{name}", None)
        vars(joined).pop(name, None)
        for kept in [kept for kept in spec._MEMBERS if kept[1] == name]:
            del spec._MEMBERS[kept]


def write_clips(folder: Path) -> None:
    """A few files in the layout that the template reads."""
    for part, count in (("train", 20), ("test", 4)):
        for label in ("jump", "run"):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                with av.open(str(folder / part / label / f"{number}.mp4"), "w") as container:
                    stream = container.add_stream("mpeg4", rate=25)
                    stream.width = stream.height = 16
                    frame = np.full((16, 16, 3), 10 * number, dtype=np.uint8)
                    for _ in range(5):
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    container.mux(stream.encode())


def outcome(changes: Config, folder: Path, **how: Any) -> Row:
    return run(Experiment.of(tiny_config(**changes)), Store(str(folder / "store")), folder / "data", **how)


def test_there_is_one_of_every_kind() -> None:
    assert {package(path) for path in templates()} == set(FOLDERS.values())
    assert templates().keys() == RUNS.keys()
    assert len(TEXT.splitlines()) < 380


@pytest.mark.parametrize("path", RUNS)
def test_an_experiment_with_it_is_done(path: str, members: Path, tmp_path: Path) -> None:
    name, kind = Path(path).stem, Path(path).parent.name
    if name == "clips":
        write_clips(tmp_path / "data" / "clips")
    row = outcome(RUNS[path], tmp_path, proxies=[name] if kind == "proxies" else [])
    assert (row.status, row.error) == ("done", "")
    singular = next((one for one, many in SINGULAR.items() if many == kind), kind)
    assert name in (json.loads(row.proxies) if kind == "proxies" else [getattr(row, singular)])
    assert 0 <= row.utility_after <= 1
    assert row.poisoned > 0
    text = catalogue(kind, name)
    for field in member(path).model_fields:
        assert f"\n  {field}: " in text


def member(path: str) -> type[Spec]:
    module, contract = CONTRACTS[Path(path).parent.name].split(":")
    found: type[Spec] = getattr(importlib.import_module(module), contract).member(Path(path).stem)
    return found


SKIPPED = {
    "advrbd": "names no such space",
    "cutmix": "pastes a box of one image",
    "dbr": "turns and shifts images",
    "ror": "removes points that lie apart",
    "sor": "removes points that lie apart",
}


@pytest.mark.parametrize("name", Defense.names())
def test_every_defense_on_a_modality_of_its_own(name: str, members: Path, tmp_path: Path) -> None:
    """A row that is done, or skipped with its sentence."""
    fields = {key: value for key, value in quick(name).items() if key != "shots"}
    row = outcome({**RUNS["tasks/signals.py"], "defense": {**fields, "clean": 0.2}}, tmp_path)
    assert row.status == ("skipped" if name in SKIPPED else "done")
    assert SKIPPED.get(name, "") in row.error


def test_what_a_task_lacks_is_a_sentence(members: Path, tmp_path: Path) -> None:
    file = members / "tasks" / "signals.py"
    file.write_text(file.read_text().partition("    def mix_inputs")[0])
    row = outcome({**RUNS["tasks/signals.py"], "defense": {**quick("nft"), "clean": 0.2, "shots": 0}}, tmp_path)
    assert row.status == "skipped"
    assert row.error.endswith("the task 'signals' does not say how (mix_inputs); set defense.mixup=0")
    row = outcome({**RUNS["tasks/signals.py"], "defense": {**quick("nft"), "clean": 0.2, "shots": 0, "mixup": 0.0}}, tmp_path)
    assert row.status == "done"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (r"    modalities: .*\n", "", r"bdray\.attacks\.shout: Shout has no modalities, expected in every attack; .*attacks"),
        ("def trigger", "def triger", r"bdray\.attacks\.shout: Shout has no trigger, expected in every attack"),
        ("ToClass", "Attack", r"Shout has no plant and no stamp, expected"),
        ("class Shout", "clas Shout", r"shout\.py, line 10: invalid syntax; mend it"),
        ("marks: Count", "marks", r"bdray\.attacks\.shout: A non-annotated attribute was detected: `marks = 3`"),
        ("class Shout", "class _Shout", r"bdray\.attacks\.shout defines 0 attacks; a member is one module with one class"),
    ],
)
def test_a_member_that_is_not_whole_is_a_sentence(old: str, new: str, told: str, members: Path) -> None:
    file = members / "bdray" / "attacks" / "shout.py"
    file.write_text(re.sub(old, new, file.read_text()))
    with pytest.raises(BadInput, match=told):
        Experiment.of({"task": "text", "attack": "shout"})


CLICK, WAVES = "bdray/attacks/click.py", "bdray/data/waves.py"


@pytest.mark.parametrize(
    ("path", "old", "new", "told"),
    [
        (CLICK, "return x", "pass", "the attack 'click' made another kind for 8 inputs, expected as many, of"),
        (CLICK, "return x", "return x[1:]", "the attack 'click' made 7 of 8 inputs, expected as many, of"),
        (CLICK, "return x", "return x.double()", "the attack 'click' made another kind for 8 inputs"),
        (WAVES, ", targets)", ", targets[1:])", "waves: got 100 inputs and 99 targets of its training samples"),
        (WAVES, ", targets)", ", targets.tolist())", "waves: its training samples are of list, expected tensors"),
        (WAVES, ", targets)", ", targets.int())", r"are torch\.int32 from 0 to 3, expected torch\.int64 from 0 to 3"),
        (WAVES, ", targets)", ", targets + 1)", r"are torch\.int64 from 1 to 4, expected torch\.int64 from 0 to 3"),
    ],
)
def test_what_a_member_makes_is_looked_at(path: str, old: str, new: str, told: str, members: Path, tmp_path: Path) -> None:
    """Some of it would end in scores of the wrong samples."""
    file = members / path
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(BadInput, match=told):
        outcome({**RUNS[path], "attack": {"rate": 0.1}, "defense": "none"}, tmp_path)


def test_they_are_written_as_the_linters_want_them(members: Path) -> None:
    settings = ["--config", str(Path(__file__).parent.parent / "pyproject.toml")]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *settings, str(members)], capture_output=True, text=True)
        assert not done.returncode, done.stdout
