"""The command line as a person meets it: what it prints, its exit status, and one sentence for every mistake."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

import bdray
from bdray.__main__ import main
from bdray.defenses.advrbd import AdvrBD
from bdray.spec import GaveUp
from bdray.store.row import spec_of
from bdray.store.store import Store
from bdray.victim import backdoor
from tests.report.test_table import make_row
from tests.tiny import tiny

QUICK = ["task.data=miniature", "task.model.width=4", "training.epochs=1", "defense.steps=2", "defense.shots=1"]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Call it with a store and a data folder of its own: (status, stdout, stderr)."""
    monkeypatch.setenv("BDRAY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("BDRAY_DATA", str(tmp_path / "data"))

    def call(*words: str) -> tuple[int, str, str]:
        try:
            status = main(list(words))
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_run_table_again(cli, tmp_path: Path) -> None:
    status, out, err = cli("run", *QUICK)
    assert (status, err) == (0, "")
    assert "accuracy, percent" in out
    assert "120 clean and 90 triggered tests" in out
    row = Store(str(tmp_path / "store")).rows().to_pylist()[0]
    assert row["key"] in out
    status, table, _ = cli("table")
    assert status == 0
    assert "blend" in table
    assert "nft" in table
    status, out, _ = cli("run", "--again", row["key"])
    assert status == 0
    assert "largest difference 0.00 points" in out
    assert len(Store(str(tmp_path / "store")).rows()) == 1


def test_words_and_options_in_any_order(cli, tmp_path: Path) -> None:
    assert cli("run", QUICK[0], "--store", str(tmp_path / "other"), *QUICK[1:])[0] == 0
    assert cli("run", *QUICK[1:], "seed=1", QUICK[0], "attack.rate=0.2", "attack=badnets")[0] == 0
    row = Store(str(tmp_path / "store")).rows().to_pylist()[0]
    assert spec_of(row)["attack"]["rate"] == 0.2
    assert row["attack"] == "badnets"


def test_table_formats(cli) -> None:
    cli("run", *QUICK)
    assert cli("table", "--markdown")[1].count("|") > 10
    assert "utility_after" in cli("table", "--csv")[1].splitlines()[0]
    assert cli("table", "--sql", "SELECT count(*) AS rows FROM rows", "--csv")[1].split() == ["rows", "1"]
    assert cli("table", "attack=blend")[0] == 0
    assert cli("table", "--sort", "asr_after")[0] == 0


def test_a_column_to_sort_by_may_start_with_a_dash(cli, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    for seed, asr in enumerate((0.1, 0.3)):
        store.put_row(make_row({"training": {"epochs": 1 + seed}}, asr_after=asr))
    for words in (["--sort", "-asr_after"], ["--sort=-asr_after"]):
        status, out, _ = cli("table", *words, "--csv", "--columns", "asr_after")
        assert (status, out.split()) == (0, ["asr_after", "0.3", "0.1"])
    assert "no column named 'asr_aftr'" in cli("table", "--sort", "-asr_aftr")[2]
    assert "argument --sort: expected one argument" in cli("table", "--sort", "--csv")[2]


def test_list_names_every_member(cli) -> None:
    from bdray.attacks import Attack
    from bdray.data import Data
    from bdray.defenses import Defense
    from bdray.models import Model
    from bdray.task import Task

    out = cli("list")[1]
    for contract in (Attack, Data, Defense, Model, Task):
        assert all(name in out for name in contract.names())
    assert "sweeps/demo.py" in out
    assert "resnet18" not in cli("list", "attacks")[1]


@pytest.mark.parametrize("command", ["run", "sweep", "table", "best", "figure", "cluster", "cluster check", "store", "list"])
def test_every_command_explains_itself(cli, command: str) -> None:
    status, out, err = cli(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: bdray {command}")


def test_alone_it_helps(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = cli()
    assert (status, err) == (0, "")
    assert "bdray run" in out
    assert len(out.splitlines()) < 20
    assert max(map(len, out.splitlines())) <= 80
    status, out, _ = cli("--version")
    assert (status, out) == (0, f"bdray {bdray.__version__}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tabel"], "no command named 'tabel'; did you mean 'table'?"),
        (["table", "--swep", "demo"], "unrecognized arguments: --swep; did you mean '--sweep'?"),
    ],
)
def test_a_mistyped_command_or_option(words: list[str], told: str, cli) -> None:
    status, out, err = cli(*words)
    assert (status, out) == (2, "")
    assert told in err


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["run", "defense=nfft"], ["no defense named 'nfft'", "did you mean 'nft'"]),
    (["run", "attack=blendd"], ["no attack named 'blendd'", "did you mean 'blend'"]),
    (["run", "task=imag"], ["no task named 'imag'", "did you mean 'image'"]),
    (["run", "task.data=cifra10"], ["no data set named 'cifra10'", "'cifar10'"]),
    (["run", "task.model=resnet81"], ["no model named 'resnet81'", "'resnet18'"]),
    (["run", "attack.rat=0.1"], ["no field of blend named 'rat'", "did you mean 'rate'"]),
    (["run", "training.epoch=1"], ["no field of training named 'epoch'", "'epochs'"]),
    (["run", "atack=blend"], ["no field of experiment named 'atack'", "'attack'"]),
    (["run", "attack.rate=much"], ["blend.rate", '"much"', "a number"]),
    (["run", "seed=1.5"], ["seed", "1.5", "a whole number"]),
    (["run", "attack.rate=1.5"], ["blend.rate", "1.5", "at most 1"]),
    (["run", "defense.steps=-5"], ["nft.steps", "-5", "at least 1"]),
    (["run", "training.epochs=0"], ["training.epochs", "0", "at least 1"]),
    (["run", "task.model.width=0"], ["resnet18.width", "0", "at least 1"]),
    (["run", "defense.bn=off"], ["nft.bn", "off", "'train'"]),
    (["run", "attack.target=12"], ["blend.target", "12", "0 to 9"]),
    (["run", "attack.target=99", "attack.rate=0"], ["blend.target", "99", "0 to 9"]),
    (
        ["run", "attack=badnets", "attack.rate=0.0003"],
        ["badnets.rate: got 0.0003, that is 0 of 1294", "at least 0.00039 poisons one"],
    ),
    (
        ["run", "attack=wanet", "attack.cover=1e-4"],
        ["wanet.cover: got 0.0001, that is 0 of 1294", "at least 0.00039 covers one"],
    ),
    (["run", "attack.rate=0.0003", "defense=abl"], ["that is 0 of 1294"]),
    (["run", "task.data.held=1e-5", "defense=none"], ["digits.held: got 1e-05, that is 0 of 1438", "holds out one"]),
    (["run", "seed=99999999999999999999"], ["seed: got 99999999999999999999", "at most 9223372036854775807"]),
    (["run", "defense.seed=9223372036854775808"], ["nft.seed", "at most 9223372036854775807"]),
    (["sweep", "sweeps/demo.py", "seed=[0,99999999999999999999]"], ["seed: got 99999999999999999999", "at most"]),
    (["run", "attack.rate"], ["'attack.rate'", "path=value"]),
    (["run", "training=5"], ["training", "5", "group of fields"]),
    (["run", "attack=sig", "attack.rate=0.3"], ["sig.rate", "can be poisoned", "largest possible rate"]),
    (["run", "attack=wanet", "attack.cover=0.95"], ["wanet.cover", "0.95"]),
    (["run", "defense.clean=0.9"], ["nft.clean", "held out"]),
    (["run", "attack.image=nosuch.png"], ["blend.image", "nosuch.png"]),
    (["run", "task.data=cifar10"], ["cifar10", "is not there", "cifar-10-batches-py", "cs.toronto.edu"]),
    (["run", "task.data=gtsrb"], ["gtsrb"]),
    (["run", "--again", "nosuchkey"], ["no row 'nosuchkey'"]),
    (["run", "--again", "k", "seed=1"], ["--again"]),
    (["run", "--store", "/dev/null/store"], ["cannot write to the store '/dev/null/store'", "--store"]),
    (["run", "--store", "nosuch://bucket"], ["nosuch://bucket", "--store"]),
    (["table"], ["no rows", "bdray run"]),
    (["table", "--sweep", "nosuch"], ["'nosuch'"]),
    (["sweep", "sweeps/nosuch.py"], ["sweeps/nosuch.py", "sweeps/demo.py"]),
    (["sweep", "sweeps/demo.py", "samples=0"], ["samples", "at least 1"]),
    (["sweep", "sweeps/demo.py", "seed=[]"], ["'demo' has no cells", "empty"]),
    (["sweep", "sweeps/demo.py", "--store", "/dev/null/store"], ["the store '/dev/null/store'", "--store"]),
    (["run", "defense.site=layernorm"], ["'nft' with site=layernorm", "choose another"]),
    (["run", "attack=label_consistent", "task.data.size=4"], ["4 pixels", "at least 6"]),
    (["run", "training.batch=1"], ["training.batch", "at least 2"]),
    (["sweep", "sweeps/demo.py", "attack=blnd"], ["no attack named 'blnd'"]),
    (["list", "atacks"], ["no kind named 'atacks'", "attacks"]),
    (["list", "defense", "nftt"], ["no defense named 'nftt'", "did you mean 'nft'"]),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_status_2(
    words: list[str],
    told: list[str],
    cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bdray.victim.fit", lambda *_, **__: pytest.fail("it trained"))
    status, out, err = cli(*words)
    assert (status, out) == (2, "")
    assert err.startswith("bdray: ")
    assert err.count("\n") == 1
    assert all(text in err for text in told), err


def test_an_incompatible_pair_is_told(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdray.attacks import Attack

    monkeypatch.setattr(Attack.member("blend"), "modalities", frozenset({"text"}))
    status, _, err = cli("run")
    assert status == 2
    assert "the attack 'blend' is for text, the task 'image' is for image; choose another" in err


def test_the_embedded_default(cli, tmp_path: Path) -> None:
    """Nothing is named: digits, blend, NFT, shown with their counts. Fewer steps than of themselves, of which `make demo` shows
    the numbers."""
    status, out, err = cli("run", "training.epochs=2", "defense.steps=5")
    assert (status, err) == (0, "")
    assert out.startswith("image digits resnet18, blend, nft, seed 0: done")
    assert "359 clean and 326 triggered tests; trained on 1294, 129 poisoned" in out


def test_a_training_that_diverges_is_one_sentence(cli, tmp_path: Path) -> None:
    status, out, err = cli("run", *QUICK[:2], "training.lr=1e38", "training.epochs=3", "defense=none")
    assert (status, out) == (1, "")
    assert "the training loss is nan" in err
    assert err.count("\n") == 1
    assert Store(str(tmp_path / "store")).rows().to_pylist()[0]["status"] == "failed"


def test_a_defense_that_gives_up_is_one_sentence(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As AdvrBD where it takes no sample for clean: no fault of the program, so no traceback."""

    def nothing(self: object, *_: object) -> NoReturn:
        raise GaveUp("advrbd found 0 of 4 samples clean, too few to train on")

    monkeypatch.setattr(AdvrBD, "defend", nothing)
    status, out, err = cli("run", *QUICK[:2], "training.epochs=1", "defense=advrbd")
    assert (status, out) == (1, "")
    assert err == "bdray: advrbd found 0 of 4 samples clean, too few to train on\n"
    assert Store(str(tmp_path / "store")).rows().to_pylist()[0]["status"] == "failed"


def test_a_damaged_image_is_named(cli, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (16, 16), (i * 20, 0, 0)).save(folder / f"{i}.png")
    bad = tmp_path / "data" / "pets" / "train" / "dog" / "2.png"
    bad.write_bytes(bad.read_bytes()[:40])
    status, _, err = cli("run", "task.data=image_folder", "task.data.path=pets")
    assert status == 2
    assert "2.png" in err
    assert err.count("\n") == 1


class Started:
    """A command in a process of its own, its output in files; killed at the end whatever happens."""

    def __init__(self, folder: Path, *words: str) -> None:
        environment = {**os.environ, "BDRAY_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen([sys.executable, "-m", "bdray", *words], env=environment, stdout=out, stderr=err)

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, found: Callable[[], object], seconds: float = 300) -> None:
        """Until something is there; fails where the process ends or time is up before it."""
        end = time.monotonic() + seconds
        while not found():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < end, "it never came so far"
            time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_half_written_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "store"
    words = ["run", "task.data=miniature", "training.epochs=400", "defense=none"]
    with Started(tmp_path, *words) as one:
        one.wait_for(lambda: list((store / "checkpoints").glob("*.safetensors")))
        one.process.send_signal(number)
        assert one.process.wait(60) == 128 + number
    assert "the same command goes on" in one.err.read_text()
    assert "Traceback" not in one.err.read_text()
    assert one.out.read_text() == ""
    assert not [p for p in store.rglob("*") if p.is_file() and p.name.startswith(".")]
    assert not list(store.rglob("victim.json"))
    assert not list(store.rglob("*.parquet"))


class TestOnRay:
    def test_ctrl_c_in_a_sweep_and_the_same_command_again(self, tmp_path: Path) -> None:
        """Stopped while cells run, on a victim that is there; the second command runs only what is missing. Beside the sweep
        stand what it imports, and names that it has nothing to do with."""
        file = tmp_path / "slow.py"
        file.write_text(
            "from bdray.launch import Sweep\nfrom beside import DEFENSES\nfrom tests.tiny import tiny_config\n"
            "sweep = Sweep(space=tiny_config(defense=DEFENSES))\n"
        )
        (tmp_path / "beside.py").write_text(
            "DEFENSES = [{'name': 'nft', 'shots': 1, 'steps': s, 'batch': 8} for s in range(100, 110)]\n"
        )
        (tmp_path / "tasks.py").write_text("raise ImportError('of somebody else')\n")
        (tmp_path / "torch.py").write_text("raise ImportError('of somebody else')\n")
        store = tmp_path / "store"
        backdoor(tiny(), Store(str(store)), Path())
        with Started(tmp_path, "sweep", str(file)) as one:
            one.wait_for(lambda: len(list((store / "rows" / "slow").glob("*.parquet"))) >= 2)
            one.process.send_signal(signal.SIGINT)
            assert one.process.wait(90) == 130, one.err.read_text()
        assert "the same command goes on" in one.err.read_text()
        assert "Traceback" not in one.err.read_text()
        before = {row["key"]: row["time"] for row in Store(str(store)).rows().to_pylist()}
        assert 2 <= len(before) < 10
        with Started(tmp_path, "sweep", str(file)) as two:
            assert two.process.wait(400) == 0, two.err.read_text()
        assert f"{len(before)} done" in two.out.read_text()
        after = {row["key"]: row["time"] for row in Store(str(store)).rows().to_pylist()}
        assert len(after) == 10
        assert all(after[key] == stamp for key, stamp in before.items())
