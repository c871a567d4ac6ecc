"""run(): one dict in, one row out, the same ones whenever it is asked."""

import json
import math
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import torch
from torch import nn

from bdray.attacks import Attack
from bdray.bench import Bench, forget, load
from bdray.data import Data
from bdray.defenses import Defense
from bdray.evidence import collect
from bdray.experiment import Experiment
from bdray.judge.held import NotMeasured
from bdray.judge.scores import evaluate
from bdray.proxies import Proxy
from bdray.report.objective import Objective
from bdray.run import run, unfinished_row
from bdray.spec import BadInput, Config, Incompatible
from bdray.store.refusal import Refused
from bdray.store.row import Row, of_record, to_table
from bdray.store.store import DamagedFile, Store
from bdray.victim import backdoor
from tests.proxies.test_proxies import proxy_of
from tests.tiny import quick, tiny, tiny_config

SCORES = [f"{name}_{when}" for name in ("utility", "asr", "recovery", "target_utility") for when in ("before", "after")]

ALL = [proxy_of(name) for name in Proxy.names()]
VARY = {"proxies", "seconds", "victim_seconds", "peak_memory", "time"}
"""What may differ between a row with proxies and one without."""


def scores(row: Row) -> list[float]:
    return [getattr(row, name) for name in SCORES]


@pytest.mark.parametrize("attack", [name for name in Attack.names() if "image" in Attack.member(name).modalities])
def test_every_attack_gives_a_whole_row(attack: str, store: Store) -> None:
    """Counts add up, every score is a share, none is missing, and no defense changes nothing."""
    config = {"name": attack, "target": 1, **({"source": 0} if attack == "tact" else {}), "rate": 0.05, "cover": 0.05}
    row = run(tiny(attack=config), store, Path())
    assert row.status == "done"
    assert row.trained_on + len(load(tiny().task.data, Path()).held) == 160
    assert row.poisoned == row.covered == round(0.05 * row.trained_on)
    assert row.clean_tests == 80
    assert row.triggered_tests == (20 if attack == "tact" else 60)  # 20 of a class; TaCT counts its source alone
    assert all(0 <= value <= 1 for value in scores(row))
    assert row.asr_before == row.asr_after
    assert row.held_utility_after >= 0
    assert math.isnan(row.flag_recall)
    assert row.peak_memory > 1 << 20
    assert json.loads(row.spec) == tiny(attack=config).config()


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (
            {"name": "badnets", "rate": 0.003},
            r"badnets\.rate: got 0\.003, that is 0 of 128 training samples; at least 0\.004 poisons",
        ),
        ({"name": "badnets", "rate": 0.0, "target": 9}, r"badnets\.target: got 9, expected a class from 0 to 3"),
    ],
)
def test_an_attack_that_does_nothing_trains_nothing(
    attack: Config, told: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody has called `Bench.check`, as in a worker."""
    monkeypatch.setattr("bdray.victim.fit", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(BadInput, match=told):
        run(tiny(attack=attack), store, Path())


def test_scores_by_hand(store: Store) -> None:
    """A model that always says 2: utility is class 2's share, the ASR of target 2 is 1, recovery 0, target utility 1."""

    class Always(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(x),), 2), 4).float()

    experiment = tiny(attack={"name": "badnets", "target": 2})
    splits = load(experiment.task.data, Path())
    found = evaluate(Always(), experiment, {}, splits).scores
    assert (found.utility, found.asr, found.recovery, found.target_utility) == (0.25, 1.0, 0.0, 1.0)


def test_asr_never_counts_the_target_class_and_triggers_the_rest(store: Store) -> None:
    class Echo(torch.nn.Module):
        """Says 2 exactly where the bottom-right corner is white."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            white = (x[:, :, -3:, -3:] == 1).flatten(1).all(1)
            return torch.nn.functional.one_hot(torch.where(white, 2, 0), 4).float()

    experiment = tiny(attack={"name": "badnets", "target": 2})
    found = evaluate(Echo(), experiment, {}, load(experiment.task.data, Path())).scores
    assert (found.utility, found.asr, found.recovery) == (0.25, 1.0, 0.0)


def test_the_same_again_is_not_run_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tiny(), store, Path())
    monkeypatch.setattr("bdray.run._run", lambda *_: pytest.fail("it ran again"))
    second = run(tiny(), store, Path())
    assert scores(second) == scores(first)
    assert second.time == first.time


def test_another_store_gives_the_same_numbers(store: Store, tmp_path: Path) -> None:
    experiment = tiny(defense=quick("nft"))
    other = Store(str(tmp_path / "other"))
    assert scores(run(experiment, store, Path())) == scores(run(experiment, other, Path()))
    assert scores(run(experiment, store, Path(), again=True)) == scores(run(experiment, other, Path(), again=True))


def test_one_victim_serves_every_defense(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tiny(), store, Path())
    monkeypatch.setattr("bdray.victim.fit", lambda *_, **__: pytest.fail("the victim was trained again"))
    row = run(tiny(defense=quick("nft", shots=1)), store, Path())
    assert row.victim == tiny().victim_key()
    assert row.clean_held == 4
    assert tiny(seed=1).victim_key() != tiny().victim_key()
    assert tiny(defense=quick("nft", seed=5)).victim_key() == tiny().victim_key()


def test_a_stored_victim_is_the_trained_one(store: Store) -> None:
    trained, stored = backdoor(tiny(attack="wanet"), store, Path()), backdoor(tiny(attack="wanet"), store, Path())
    assert all(torch.equal(v, stored.model.state_dict()[k]) for k, v in trained.model.state_dict().items())
    assert torch.equal(trained.patterns["grid"], stored.patterns["grid"])
    mine, again = trained.poison.pack(), stored.poison.pack()
    assert mine.keys() == again.keys()
    assert all(torch.equal(mine[name], again[name]) for name in mine)
    assert trained.scores == stored.scores
    splits = load(tiny().task.data, Path())
    assert evaluate(stored.model, tiny(attack="wanet"), stored.patterns, splits).scores == trained.scores
    folder = Path(store.location()) / "victims" / tiny(attack="wanet").victim_key()
    assert sorted(p.name for p in folder.iterdir()) == ["attack.safetensors", "model.safetensors", "victim.json"]
    assert not list((Path(store.location()) / "checkpoints").iterdir())


def test_a_damaged_victim_is_made_again(store: Store) -> None:
    row = run(tiny(), store, Path())
    model = Path(store.location()) / "victims" / row.victim / "model.safetensors"
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.warns(DamagedFile, match=r"model\.safetensors"):
        again = run(tiny(defense=quick("nft")), store, Path())
    assert again.utility_before == row.utility_before


def test_a_failure_leaves_its_row_and_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(type(tiny().defense), "defend", fail)
        with pytest.raises(RuntimeError, match="out of luck"):
            run(tiny(), store, Path())
    stored = store.row(tiny().key())
    assert stored is not None
    assert (stored["status"], stored["error"]) == ("failed", "RuntimeError: out of luck")
    assert run(tiny(), store, Path()).status == "done"


def test_incompatible_pairs_are_skipped_with_the_reason(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny().attack), "modalities", frozenset({"text"}))
    with pytest.raises(Incompatible, match="'blend' is for text, the task 'image' is for image"):
        tiny().check()
    row = run(tiny(), store, Path())
    assert row.status == "skipped"
    assert "'blend' is for text" in row.error
    monkeypatch.undo()
    monkeypatch.setattr(type(tiny().attack), "steers", True)
    with pytest.raises(Incompatible, match="needs a fixed training set"):
        tiny(defense="perfect_filter").check()
    tiny(defense="none").check()
    rows = run(tiny(defense={"name": "nft", "site": "layernorm", "shots": 1}), store, Path())
    assert rows.status == "skipped"
    assert "layernorm" in rows.error


@pytest.mark.parametrize(
    ("defense", "told"),
    [
        ({"name": "nft", "site": "layernorm", "shots": 1}, "finds no such layer in the model 'resnet18'"),
        ({"name": "nft", "site": "rows", "shots": 1}, "bn=eval"),
    ],
)
def test_a_defense_that_cannot_work_on_the_model_is_told_before_training(defense: dict, told: str, store: Store) -> None:
    with pytest.raises(Incompatible, match=told):
        Bench(tiny(defense=defense), store, Path()).check()


def test_a_failed_repetition_does_not_undo_a_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(tiny(), store, Path())
    monkeypatch.setattr("bdray.run._run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tiny(), store, Path(), again=True)
    stored = store.row(tiny().key())
    assert stored is not None
    assert (stored["status"], stored["time"]) == ("done", done.time)


def test_a_victim_is_never_used_with_other_data(store: Store, tmp_path: Path) -> None:
    """The same spec, another archive below another data folder: one sentence, and also for a half-done training."""
    from PIL import Image

    for root, count in (("one", 30), ("two", 40)):
        for split in ("train", "test"):
            for number, name in enumerate(("cat", "dog")):
                folder = tmp_path / root / "pets" / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    Image.new("RGB", (16, 16), (100 * number + i, i, 0)).save(folder / f"{i:02}.png")
    data = {"name": "image_folder", "path": "pets", "size": 16}
    task = {"name": "image", "data": data, "model": {"name": "resnet18", "width": 4}}
    row = run(tiny(task=task), store, tmp_path / "one")
    assert row.trained_on == 54
    with pytest.raises(BadInput, match="was made from another image_folder"):
        run(tiny(task=task, defense="random_filter"), store, tmp_path / "two")
    (Path(store.location()) / "victims" / row.victim / "victim.json").unlink()
    with pytest.raises(BadInput, match="was made from another image_folder"):
        run(tiny(task=task, seed=0, defense="perfect_filter"), store, tmp_path / "two")
    assert run(tiny(task=task), Store(str(tmp_path / "other")), tmp_path / "two").data_digest != row.data_digest


def test_curves_and_masks_are_stored(store: Store) -> None:
    row = run(tiny(defense=quick("nft", steps=50)), store, Path())
    victim, defense = store.table("curves", row.victim), store.table("curves", row.key)
    assert victim is not None
    assert (victim["metric"].to_pylist(), victim["step"].to_pylist()) == (["loss", "seconds"] * 2, [1, 1, 2, 2])
    assert defense is not None
    assert set(defense["metric"].to_pylist()) == {"loss", "mask_mean"}
    masks = store.table("masks", row.key)
    assert masks is not None
    assert set(masks.column_names) == {"layer", "number", "floor", "channel", "mask"}


def test_keys_do_not_depend_on_how_it_was_written() -> None:
    spelled = Experiment.of(tiny().config())
    assert spelled.key() == tiny().key()
    assert Experiment.of(tiny_config(attack={"name": "blend", "rate": 0.1})).key() == tiny().key()
    assert Experiment.of(tiny_config(attack={"rate": 0.1})).key() == tiny().key()
    assert tiny(attack={"rate": 0.2}).key() != tiny().key()


def test_the_embedded_default_is_narrow_digits_and_a_named_model_has_its_published_width() -> None:
    assert Experiment().config()["task"] == {
        "name": "image",
        "data": {"name": "digits", "held": 0.1, "limit": 0, "test_limit": 0, "size": 16},
        "model": {"name": "resnet18", "width": 8},
    }
    assert Experiment.of({"task": {"data": "cifar10"}}).config()["task"]["model"]["width"] == 64
    assert Experiment.of({"task": {"model": "resnet34"}}).config()["task"]["model"] == {"name": "resnet34", "width": 64}


def test_bad_data_is_told_before_anything_is_trained(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdray.victim.fit", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(BadInput, match="cifar10"):
        Bench(tiny(task={"data": "cifar10"}), store, tmp_path).check()
    with pytest.raises(BadInput, match="largest possible rate"):
        Bench(tiny(attack={"name": "sig", "rate": 0.9}), store, tmp_path).check()
    with pytest.raises(BadInput, match="shots"):
        Bench(tiny(defense={"name": "nft", "shots": 50}), store, tmp_path).check()


KILLED = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from bdray.victim import backdoor
from bdray.store.store import Store
from tests.tiny import tiny
experiment = tiny(training={"epochs": 40, "batch": 32})
backdoor(experiment, Store(sys.argv[1]), Path(), lambda stage, step, **_: print(step, flush=True))
"""


def test_a_killed_training_goes_on_at_its_last_epoch(store: Store, tmp_path: Path) -> None:
    """kill -9 after some epochs; the next run starts there and ends with the weights of an undisturbed one."""
    experiment = tiny(training={"epochs": 40, "batch": 32})
    process = subprocess.Popen([sys.executable, "-c", KILLED, store.location()], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 3:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    saved = store.checkpoint(experiment.victim_key()).load()
    assert saved is not None
    assert 3 <= saved[1] < 40
    trained = []
    true = experiment.task.loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(experiment.task), "loss", lambda *words: trained.append(1) or true(*words[1:]))
        resumed = backdoor(experiment, store, Path())
    assert len(trained) == (40 - saved[1]) * 4  # batches of the epochs that were left
    other = Store(str(tmp_path / "other"))
    plain = backdoor(experiment, other, Path())
    assert all(torch.equal(v, plain.model.state_dict()[k]) for k, v in resumed.model.state_dict().items())
    assert resumed.seconds > 0
    curves = [s.table("curves", experiment.victim_key()) for s in (store, other)]
    losses = [c.filter(pc.field("metric") == "loss")["value"].to_pylist() for c in curves if c is not None]
    assert len(losses[0]) == 40
    assert losses[0] == losses[1]


NO_RAY = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ModuleNotFoundError("no ray here", name="ray")
sys.meta_path.insert(0, Refuse())
from bdray.__main__ import main
status = main(["run", "--store", sys.argv[1], "task.data=miniature", "training.epochs=1", "defense=nft",
               "defense.steps=2", "defense.shots=1"])
assert main(["table", "--store", sys.argv[1]]) == 0
assert main(["sweep", "sweeps/demo.py", "--store", sys.argv[1]]) == 2
assert "ray" not in sys.modules
sys.exit(status)
"""


def test_run_and_table_work_without_ray(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NO_RAY, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "needs Ray" in done.stderr or "need Ray" in done.stderr


def test_every_member_has_a_name_and_a_sentence() -> None:
    import importlib

    for contract in (Attack, Defense, Data, Proxy):
        for name in contract.names():
            assert (importlib.import_module(f"{contract.folder}.{name}").__doc__ or "").strip()
            assert contract.member(name).__doc__


def test_time_is_measured(store: Store) -> None:
    started = time.perf_counter()
    row = run(tiny(defense=quick("nft")), store, Path())
    assert 0 < row.seconds < time.perf_counter() - started
    assert row.victim_seconds > 0


class TestProxies:
    """Proxies add two columns and change nothing else."""

    def test_a_row_with_and_without_proxies_has_the_same_numbers(self, store: Store, tmp_path: Path) -> None:
        experiment = tiny(defense=quick("nft"))
        key = experiment.key()
        plain, other = run(experiment, store, Path()), Store(str(tmp_path / "other"))
        measured = run(experiment, other, Path(), proxies=[proxy.config() for proxy in ALL])
        assert (plain.key, plain.proxies) == (key, "")
        assert measured.key == key
        values = json.loads(measured.proxies)
        assert sorted(values) == sorted(proxy.label() for proxy in ALL)
        assert all(0 <= value <= 1 for value in values.values())
        first, second = (to_table([row]).drop_columns(list(VARY)).to_pylist()[0] for row in (plain, measured))
        assert first == second

    def test_held_utility_before_is_the_victims_on_the_same_samples(self, store: Store) -> None:
        row = run(tiny(), store, Path())
        assert row.held_utility_before == row.held_utility_after
        row = run(tiny(defense=quick("nft")), store, Path())
        assert row.held_utility_before != row.held_utility_after
        experiment = tiny(defense=quick("nft"))
        bench = Bench(experiment, store, Path())
        splits, victim = bench.splits, backdoor(*bench)
        _, mine = collect(bench, victim)
        rest = [i for i in range(len(splits.held)) if i not in mine.tolist()]
        part = splits.held.take(torch.tensor(rest))
        right = (experiment.task.predict(victim.model, part) == part.targets).double().mean()
        assert row.held_utility_before == float(right)

    def test_a_row_that_lacks_a_proxy_is_made_again_with_those_it_had(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = run(tiny(), store, Path(), proxies=["lipschitz"])
        again = run(tiny(), store, Path(), proxies=[{"name": "lipschitz", "u": 2.0}])
        assert sorted(json.loads(again.proxies)) == ["lipschitz", "lipschitz u=2.0"]
        assert json.loads(again.proxies)["lipschitz"] == json.loads(first.proxies)["lipschitz"]
        assert json.loads(again.proxies)["lipschitz u=2.0"] > json.loads(first.proxies)["lipschitz"]
        stored = store.row(tiny().key())
        assert stored is not None
        assert stored["proxies"] == again.proxies
        assert scores(again) == scores(first)
        repeated = run(tiny(), store, Path(), again=True)
        assert repeated.proxies == again.proxies
        monkeypatch.setattr("bdray.run._run", lambda *_: pytest.fail("it ran again"))
        assert run(tiny(), store, Path(), proxies=["lipschitz"]).time == repeated.time
        assert run(tiny(), store, Path()).time == repeated.time

    def test_a_proxy_that_does_not_fit_is_null_in_a_row_that_is_kept(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Proxy.member("lipschitz"), "modalities", frozenset({"text"}))
        with pytest.warns(NotMeasured, match="'lipschitz' is left empty: the proxy 'lipschitz' is for text, the task 'image'"):
            row = run(tiny(), store, Path(), proxies=["lipschitz"])
        assert (row.status, row.proxies) == ("done", '{"lipschitz": null}')
        assert store.row(tiny().key()) == to_table([row]).to_pylist()[0]
        assert run(tiny(), store, Path(), proxies=["lipschitz"]).time == row.time

    def test_no_convolution_before_the_norms_is_null_for_lipschitz_and_the_others_are_kept(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def network(*_: Any) -> nn.Module:
            layers = {"flat": nn.Flatten(), "norm": nn.BatchNorm1d(768), "fc": nn.Linear(768, 4)}
            return nn.Sequential(OrderedDict(layers))

        monkeypatch.setattr(type(tiny().task), "network", network)
        with pytest.warns(NotMeasured, match="finds no BatchNorm after a convolution"):
            row = run(tiny(), store, Path(), proxies=["lipschitz", {"name": "shared_adversarial", "steps": 1}])
        assert row.status == "done"
        assert json.loads(row.proxies) == {"lipschitz": None, "shared_adversarial steps=1": 1.0}

    @pytest.mark.parametrize("where", ["prepare", "measure", "check"])
    @pytest.mark.parametrize("error", [RuntimeError("no such layer"), IndexError("17"), torch.OutOfMemoryError("CUDA")])
    def test_a_proxy_that_raises_does_not_lose_the_finished_row(
        self, where: str, error: Exception, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise error

        forget()
        monkeypatch.setattr(Proxy.member("shared_adversarial"), where, fail)
        with pytest.warns(NotMeasured, match=f"'shared_adversarial' is left empty: {type(error).__name__}: {error}"):
            row = run(tiny(), store, Path(), proxies=["shared_adversarial", "lipschitz"])
        values = json.loads(row.proxies)
        assert (row.status, values["shared_adversarial"]) == ("done", None)
        assert 0 < values["lipschitz"] < 1
        assert math.isnan(Objective(proxy="shared_adversarial").score(to_table([row]).to_pylist()[0]))

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), Refused("cannot write to the store: full")])
    def test_what_is_no_fault_of_the_proxy_goes_through(
        self, error: BaseException, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: Any) -> None:
            raise error

        monkeypatch.setattr(Proxy.member("lipschitz"), "measure", stop)
        with pytest.raises(type(error)):
            run(tiny(), store, Path(), proxies=["lipschitz"])
        assert store.row(tiny().key()) is None

    def test_a_skipped_experiment_stays_skipped(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        experiment = tiny(defense={"name": "nft", "site": "layernorm", "shots": 1})
        first = run(experiment, store, Path(), proxies=["lipschitz"])
        assert first.status == "skipped"
        monkeypatch.setattr("bdray.run._run", lambda *_: pytest.fail("it ran again"))
        assert run(experiment, store, Path(), proxies=["lipschitz"]).time == first.time

    def test_an_unknown_proxy_is_told_before_anything(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bdray.victim.fit", lambda *_, **__: pytest.fail("it trained"))
        with pytest.raises(BadInput, match="no proxy named 'lipshitz'; did you mean 'lipschitz'"):
            run(tiny(), store, Path(), proxies=["lipshitz"])

    def test_a_row_of_before_there_were_proxies_is_read(self) -> None:
        record = to_table([unfinished_row(tiny(), "s", "done", "")]).to_pylist()[0]
        del record["proxies"], record["held_utility_before"]
        row = of_record(record)
        assert row.proxies == ""
        assert math.isnan(row.held_utility_before)


@pytest.mark.parametrize("reason", ["no file 'caf\udce9.png'", "x" * 3_000_000])
def test_a_reason_that_no_row_holds_is_kept_as_far_as_it_goes(store: Store, reason: str) -> None:
    store.put_row(unfinished_row(tiny(), "s", "failed", reason))
    (row,) = store.rows().to_pylist()
    assert (row["error"][:8], len(row["error"]) < 30_000) == (reason[:8], True)
