"""Sweeps: the list of experiments, and what a launch on a local Ray leaves in the store."""

import functools
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from ray import tune
from ray.exceptions import NodeDiedError, WorkerCrashedError

from bdray.defenses.nft import Nft
from bdray.experiment import Experiment
from bdray.launch import Sweep, launch, plan, read_sweep
from bdray.launch.cells import WAIT, Listener, run_cells
from bdray.launch.connect import Resources
from bdray.launch.ends import End
from bdray.launch.expand import expand
from bdray.launch.ledger import Plan, _granted
from bdray.launch.queue import Queue
from bdray.launch.settings import cells_of, check_search, drawn
from bdray.launch.victims import train_victims
from bdray.launch.watch.watch import Watch
from bdray.launch.work import Work
from bdray.needs import Needs
from bdray.run import run
from bdray.signals import handlers, orderly
from bdray.spec import BadInput, Incompatible
from bdray.store.store import DamagedFile, Store
from bdray.task import Task
from bdray.victim import backdoor
from tests.tiny import quick, tiny_config


def keys(sweep: Sweep) -> list[str]:
    return [cell.key for cell in expand(sweep)]


def experiments(sweep: Sweep) -> list[Experiment]:
    return [cell.experiment for cell in expand(sweep)]


NFT = quick("nft", lr=tune.loguniform(0.01, 0.5), alpha=tune.uniform(0, 1), bn=tune.choice(["train", "eval"]))


def sweep_of(seeds: int = 2, samples: int = 3, attacks: tuple[str, ...] = ("badnets", "blend"), seed: int = 0) -> Sweep:
    space = tiny_config(
        attack=tune.grid_search(list(attacks)),
        defense=tune.grid_search(["none", dict(NFT)]),
        seed=tune.grid_search(list(range(seeds))),
    )
    return Sweep(space=space, samples=samples, seed=seed, name="test")


class TestExpand:
    """The list of a sweep's experiments."""

    def test_counts(self) -> None:
        assert len(keys(sweep_of())) == 2 * 2 * (1 + 3)
        assert len(set(keys(sweep_of()))) == 16

    def test_it_is_always_the_same_list(self) -> None:
        assert keys(sweep_of()) == keys(sweep_of())
        assert set(keys(sweep_of())) != set(keys(sweep_of(seed=1)))

    @pytest.mark.parametrize("larger", [{"seeds": 3}, {"samples": 5}, {"attacks": ("sig", "badnets", "blend", "wanet")}])
    def test_a_larger_sweep_is_a_superset(self, larger: dict) -> None:
        assert set(keys(sweep_of())) < set(keys(sweep_of(**larger)))

    def test_a_grown_list_of_defenses_moves_no_draw(self) -> None:
        grown = tiny_config(
            attack=tune.grid_search(["badnets", "blend"]),
            defense=tune.grid_search([quick("fine_tuning", lr=tune.uniform(0.1, 0.2)), dict(NFT), "none"]),
            seed=tune.grid_search([0, 1]),
        )
        assert set(keys(sweep_of())) < set(keys(Sweep(space=grown, samples=3)))

    def test_one_draw_is_tried_on_every_attack_and_seed(self) -> None:
        rates = [e.defense.lr for e in experiments(sweep_of()) if e.defense.name == "nft"]  # type: ignore[attr-defined]
        assert len(rates) == 12
        assert len(set(rates)) == 3

    def test_draws_follow_their_domain(self) -> None:
        space = tiny_config(defense=quick("nft", lr=tune.loguniform(0.001, 1.0), steps=tune.randint(5, 50)))
        drawn = [e.defense for e in experiments(Sweep(space=space, samples=300))]
        logs = np.log10([d.lr for d in drawn])  # type: ignore[attr-defined]
        assert -3 <= logs.min() < -2.9
        assert -0.1 < logs.max() <= 0
        assert abs(logs.mean() + 1.5) < 0.2
        assert {5 <= d.steps < 50 for d in drawn} == {True}  # type: ignore[attr-defined]

    def test_lists_are_grids_and_overrides_reach_into_them(self) -> None:
        sweep = sweep_of().with_override("seed", [0, 1, 2]).with_override("attack.rate", 0.2)
        assert len(keys(sweep)) == 24
        assert {e.attack.rate for e in experiments(sweep)} == {0.2}
        assert len(keys(sweep_of().with_override("samples", 7))) == 2 * 2 * 8
        assert {e.defense.name for e in experiments(sweep_of().with_override("defense", "none"))} == {"none"}

    def test_a_bad_member_is_told(self) -> None:
        with pytest.raises(BadInput, match="did you mean 'nft'"):
            expand(Sweep(space=tiny_config(defense=tune.grid_search(["none", "nfft"]))))
        with pytest.raises(BadInput, match="samples"):
            sweep_of().with_override("samples", 0)

    def test_the_shipped_sweeps_expand(self) -> None:
        for file in sorted(Path("sweeps").glob("[!_]*.py")):
            sweep = read_sweep(str(file))
            if sweep.searches:
                check_search(sweep)
            found = cells_of(sweep, drawn(sweep, 0)) if sweep.searches else expand(sweep)
            assert found
            skipped = set()
            for cell in found:
                try:
                    cell.experiment.check()
                except Incompatible:
                    skipped.add(cell.experiment.defense.name)
            assert skipped <= ({"advrbd"} if file.stem == "all_modalities" else set())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sweep = Sweep(space={", "line 1 does not parse"),
        ("x = 1\n1 / 0\n", "line 2 raised ZeroDivisionError"),
        ("raise SystemExit(3)\n", "line 1 raised SystemExit"),
        ("import nosuchmodule\n", "line 1 raised ModuleNotFoundError"),
        ("x = 1\n", "defines no sweeps"),
        ("from bdray.launch import Sweep\na = Sweep(space={})\nb = Sweep(space={'seed': 1})\n", "defines 2 sweeps"),
    ],
)
def test_bad_sweep_files(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(BadInput, match=told) as caught:
        read_sweep(str(file))
    assert "bad.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def beside(folder: Path, seeds: str) -> Sweep:
    """A sweep whose file imports a module and a package that stand beside it."""
    (folder / "beside").mkdir(parents=True)
    (folder / "beside" / "__init__.py").write_text("from beside.deep import draw\n")
    (folder / "beside" / "deep.py").write_text(
        f"def draw(spec):\n    import later\n    return later.SEEDS\n\nSEEDS = {seeds}\n"
    )
    (folder / "later.py").write_text("SEEDS = 'late'\n")
    (folder / "mine.py").write_text(
        "import beside\nfrom beside.deep import SEEDS\nfrom bdray.launch import Sweep\n"
        "sweep = Sweep(space={'seed': SEEDS, 'attack': beside.draw})\n"
    )
    return read_sweep(str(folder / "mine.py"))


class TestListener:
    """What Tune is told to do with a trial whose worker ended."""

    def test_a_lost_machine_costs_no_life_and_waits_grow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tune has counted each end when it asks; the trial may go on as long as fewer than three of them count."""
        monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "here", "Alive": True}])
        listener = Listener(watch=None)  # type: ignore[arg-type]
        file = tmp_path / "error.pkl"
        trial = SimpleNamespace(trial_id="t", pickled_error_file=str(file), num_failures=0, max_failures=2, config={})
        seen = []
        for error in (NodeDiedError("gone"), WorkerCrashedError(), NodeDiedError("gone"), WorkerCrashedError()):
            file.write_bytes(ray.cloudpickle.dumps(error))
            trial.num_failures += 1
            listener.on_trial_recover(0, [], trial)
            seen.append((trial.max_failures - trial.num_failures, trial.config[WAIT]))
        assert seen == [(2, 0), (1, 1), (1, 1), (0, 2)]


class TestBeside:
    """What a sweep file imports from its own folder."""

    def test_as_python_itself_would(self, tmp_path: Path) -> None:
        sweep = beside(tmp_path / "one", "[1, 2]")
        assert (sweep.name, sweep.space["seed"], sweep.folder) == ("mine", [1, 2], str(tmp_path / "one"))
        assert sys.path[0] != sweep.folder
        assert beside(tmp_path / "other", "[3]").space["seed"] == [3]  # not the first one's module of that name

    def test_workers_get_it_by_value(self, tmp_path: Path) -> None:
        """They may stand elsewhere, and look into the folder last of all."""
        sweep = beside(tmp_path / "one", "[1, 2]")
        (tmp_path / "pickle").write_bytes(ray.cloudpickle.dumps(sweep.space["attack"]))
        read = f"import pickle; draw = pickle.load(open({str(tmp_path / 'pickle')!r}, 'rb'))"
        late = f"import sys; sys.path.append({sweep.folder!r}); print(draw(None))"
        found = subprocess.run(
            [sys.executable, "-c", f"{read}; {late}"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert found.stdout == "late\n"

    def test_what_was_there_before_stays(self, tmp_path: Path) -> None:
        """A folder that holds bdray itself, or what another module has imported."""
        (tmp_path / "json.py").write_text("raise ImportError('of somebody else')")
        (tmp_path / "mine.py").write_text(
            "import json, ray, bdray.report.best\nfrom bdray.launch import Sweep\n"
            "sweep = Sweep(space={'seed': json.loads('[1]')})\n"
        )
        before = sys.modules["json"], sys.modules["bdray"]
        assert read_sweep(str(tmp_path / "mine.py")).space == {"seed": [1]}
        assert before == (sys.modules["json"], sys.modules["bdray"])
        assert "bdray.report.best" in sys.modules


def test_a_missing_sweep_file_names_those_there_are() -> None:
    with pytest.raises(BadInput, match=r"sweeps/demo\.py"):
        read_sweep("sweeps/nosuch.py")


class TestQueue:
    """Victims handed to Train workers."""

    def test_each_victim_once(self) -> None:
        queue = Queue({key: {} for key in "abc"})
        taken = [queue.take(rank, f"t{rank}") for rank in (0, 1)]
        queue.finish("a")
        taken.append(queue.take(0, "t0"))
        queue.finish("b")
        taken.append(queue.take(1, "t1"))
        assert [job[0] if job else None for job in taken] == ["a", "b", "c", None]

    def test_a_worker_whose_answer_was_lost_gets_it_again(self) -> None:
        queue = Queue({key: {} for key in "ab"})
        assert [queue.take(0, "t0"), queue.take(0, "t0"), queue.take(1, "t1")] == [("a", {}), ("a", {}), ("b", {})]
        assert not any(queue.ends.values())

    def test_what_was_finished_before_the_queue_was_lost_is_not_handed_out(self) -> None:
        """A worker finishes a victim that it was given by the queue before this one."""
        queue = Queue({key: {} for key in "ab"})
        queue.finish("a")
        assert queue.take(0, "t0") == ("b", {})

    def test_a_restarted_group_gets_back_what_was_not_finished(self) -> None:
        queue = Queue({key: {} for key in "abc"})
        queue.take(0, "old0")
        queue.take(1, "old1")
        queue.finish("b")
        assert queue.take(1, "new1") == ("c", {})
        assert queue.take(0, "new0") == ("a", {})
        queue.finish("a")
        assert queue.take(0, "new0") is None

    def test_a_victim_that_kills_its_workers_is_given_up(self) -> None:
        """Three deaths without an epoch; one that made progress in between lives on."""
        queue = Queue({"deadly": {}, "fine": {}})
        for life in range(3):
            assert queue.take(0, f"t{life}") == ("deadly", {})
            queue.ended({0: End("died", "exit code 9")})
        assert queue.take(0, "t3") == ("fine", {})
        reason = "its worker died 3 times before another epoch was done: exit code 9"
        assert queue.state()[3] == {"deadly": ("lost", reason)}
        for life in range(4, 10):
            queue.progress("fine", life)
            queue.ended({0: End("died", "exit code 9")})
            assert queue.take(0, f"t{life}") == ("fine", {})
        queue.finish("fine")
        epochs, running, finished, errors = queue.state()
        assert (epochs, running, finished, list(errors)) == (9, 0, 2, ["deadly"])

    def test_a_death_counts_only_for_what_the_dead_worker_had(self) -> None:
        """Ray Train replaces the whole group each time: the other worker's victim, and those never begun, lose nothing."""
        queue = Queue({key: {} for key in "abc"})
        for life in range(9):
            assert queue.take(0, f"a{life}") == ("a" if life < 3 else "c", {})
            assert queue.take(1, f"b{life}") == ("b", {})
            queue.ended({0: End("died", "x")} if life < 3 else {5: End("died", "it had nothing to do")})
        assert [key for key, ends in queue.ends.items() if ends] == ["a"]
        assert list(queue.errors) == ["a"]

    def test_a_trainer_that_dies_counts_for_no_victim(self) -> None:
        """New workers come, and nobody has told how the old ones ended."""
        queue = Queue({key: {} for key in "ab"})
        for life in range(9):
            assert queue.take(0, f"t{life}") == ("a", {})
        assert not queue.errors

    def test_the_loss_of_a_machine_does_not_count(self) -> None:
        queue = Queue({"a": {}})
        for life in range(9):
            queue.take(0, f"t{life}")
            queue.ended({0: End("machine", "its node has died")})
        assert (queue.errors, queue.patience()) == ({}, 0)

    def test_a_team_that_raises_has_failed_and_one_that_dies_is_lost(self) -> None:
        """The first to complain knows best why. A machine lost beside an exception counts for nothing."""
        for kind, status in (("raised", "failed"), ("died", "lost")):
            queue = Queue({"a": {}}, team=True)
            for life in range(4):
                assert queue.take(0, f"t{life}") == (None if life == 3 else ("a", {}))
                queue.complain("a", "ImportError: no such module")
                queue.ended({0: End("raised", "ImportError: no such module"), 1: End("machine", "its node has died")})
                queue.ended({0: End("raised", "RuntimeError: of no account"), 1: End(kind, "exit code 9")})  # type: ignore[arg-type]
            found, reason = queue.errors["a"]
            assert found == status
            assert ("no such module" if status == "failed" else "exit code 9") in reason

    def test_waits_grow_until_something_is_done(self) -> None:
        queue = Queue({"a": {}, "b": {}})
        waits = []
        for _ in range(8):
            queue.ended({3: End("died", "x")})
            waits.append(queue.patience())
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        queue.progress("a", 1)
        assert queue.patience() == 0


@pytest.mark.parametrize(
    "fields",
    [{"samples": "3"}, {"samples": 0}, {"seed": -1}, {"cpus": 0}, {"gpus": -1}, {"name": "a/b"}, {"space": []}, {"proxy": "x"}],
)
def test_a_sweeps_own_fields_are_checked(fields: dict) -> None:
    with pytest.raises(BadInput, match=next(iter(fields))):
        Sweep(**{"space": {}, **fields})


@pytest.mark.filterwarnings("ignore")  # of Ray's own making
class TestOnRay:
    """The tests of this class follow one another on one store."""

    folder: Path

    @pytest.fixture(scope="class")
    def shared(self, tmp_path_factory: pytest.TempPathFactory) -> Store:
        return Store(str(tmp_path_factory.mktemp("launch")))

    def test_victims_and_cells(self, local_ray: None, shared: Store) -> None:
        found = plan(sweep_of(seeds=1, samples=2), shared, Path())
        assert (len(found.missing), len(found.victims), found.done) == (6, 2, [])
        assert launch(found, shared, Path()) == 0
        rows = shared.rows("test").to_pylist()
        assert {row["key"] for row in rows} == set(keys(sweep_of(seeds=1, samples=2)))
        assert {row["status"] for row in rows} == {"done"}
        assert {row["victim"] for row in rows} == set(found.victims)
        (one,) = (Path(shared.location()) / "rows").rglob("*.parquet")
        assert one.name.startswith("test.")
        assert not [p for p in Path(shared.location()).rglob("*") if p.suffix in (".pkl", ".pickle", ".pt")]
        assert not list((Path(shared.location()) / "checkpoints").rglob("*"))

    def test_the_workers_numbers_are_those_of_run(self, shared: Store, tmp_path: Path) -> None:
        from bdray.store.row import spec_of

        for row in shared.rows("test").to_pylist()[:2]:
            alone = run(Experiment.of(spec_of(row)), Store(str(tmp_path)), Path())
            assert (alone.utility_after, alone.asr_after) == (row["utility_after"], row["asr_after"])

    def test_the_same_command_again_does_nothing(self, shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        found = plan(sweep_of(seeds=1, samples=2), shared, Path())
        assert (len(found.done), found.missing, found.victims) == (6, [], {})
        monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("it started Ray"))
        monkeypatch.setattr("bdray.launch.ledger.run_cells", lambda *_: pytest.fail("it ran cells"))
        assert launch(found, shared, Path()) == 0

    def test_a_grown_sweep_runs_only_its_new_cells(self, local_ray: None, shared: Store) -> None:
        """A seed more, whose victims somebody has trained, on what is there."""
        before = {row["key"]: row["time"] for row in shared.rows("test").to_pylist()}
        grown = sweep_of(seeds=2, samples=2)
        assert len(plan(grown, shared, Path()).victims) == 2
        for experiment in plan(grown, shared, Path()).victims.values():
            backdoor(experiment, shared, Path())
        found = plan(grown, shared, Path())
        assert {cell.experiment.seed for cell in found.missing} == {1}
        assert (len(found.missing), len(found.victims)) == (6, 0)
        assert launch(found, shared, Path()) == 0
        after = {row["key"]: row["time"] for row in shared.rows("test").to_pylist()}
        assert len(after) == 12
        assert all(after[key] == stamp for key, stamp in before.items())

    def test_another_sweep_takes_over_rows(self, shared: Store) -> None:
        other = Sweep(space=sweep_of(seeds=1).space, samples=2, name="other")
        found = plan(other, shared, Path())
        assert (len(found.elsewhere), found.missing) == (6, [])
        launch(found, shared, Path())
        assert len(shared.rows("other")) == 6
        assert len(shared.rows()) == 12
        for sweep in (other, Sweep(space=other.space, samples=2, name="zother")):
            launch(plan(sweep, shared, Path()), shared, Path())
            assert len(plan(sweep, shared, Path()).done) == 6  # its own rows now, whatever its name

    def test_failures_leave_rows_what_is_damaged_is_made_again_and_the_rest_goes_on(
        self, local_ray: None, store: Store
    ) -> None:
        """One victim's training diverges, two cells make no sense, one is fine; its victim and its row were cut short."""
        space = tiny_config(
            training=tune.grid_search([{"epochs": 3, "batch": 32, "lr": 1e38}, {"epochs": 1}]),
            defense=tune.grid_search(["none", {"name": "nft", "site": "layernorm", "shots": 1}]),
        )
        sweep = Sweep(space=space, name="bad")
        one = next(e for e in experiments(sweep) if e.training.epochs == 1 and e.defense.name == "none")
        backdoor(one, store, Path())
        root = Path(store.location())
        model = root / "victims" / one.victim_key() / "model.safetensors"
        model.write_bytes(model.read_bytes()[:500])
        row = root / "rows" / "bad" / f"{one.key()}.parquet"
        row.parent.mkdir(parents=True)
        row.write_bytes(b"PAR1 and no more")
        with pytest.warns(DamagedFile):
            found = plan(sweep, store, Path())
        assert (len(found.missing), len(found.victims), len(found.skipped)) == (2, 2, 2)
        assert launch(found, store, Path()) == 1
        rows = store.rows("bad").to_pylist()
        assert sorted(row["status"] for row in rows) == ["done", "failed", "skipped", "skipped"]
        assert all("loss is" in row["error"] for row in rows if row["status"] == "failed")
        assert all("finds no such layer" in row["error"] for row in rows if row["status"] == "skipped")
        again = plan(sweep, store, Path())
        assert (again.missing, len(again.done), len(again.failed)) == ([], 3, 1)
        assert "1 failed" in again.sentence()
        assert len(plan(sweep, store, Path(), retry_failed=True).missing) == 1
        # A failed row of one sweep is not a result for another.
        assert len(plan(Sweep(space=space, name="new"), store, Path()).missing) == 1

    @pytest.mark.parametrize("method", ["setup", "on_trial_start"])
    def test_a_warning_of_slurm_ends_the_cells(
        self, local_ray: None, store: Store, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        """SIGUSR1, which Tune takes for itself: before it makes ready, and while a cell runs."""
        plain = getattr(Listener, method)

        def warned(*values: Any, **info: Any) -> None:
            signal.raise_signal(signal.SIGUSR1)
            plain(*values, **info)

        monkeypatch.setattr(Listener, method, warned)
        sweep = Sweep(space=tiny_config(defense="none"), name="warned")
        backdoor(Experiment.of(sweep.space), store, Path())
        with orderly("stopped", last=False) as ending:
            before = handlers()
            with pytest.raises(KeyboardInterrupt):
                launch(plan(sweep, store, Path()), store, Path())
            assert handlers() == before
        assert ending.status == 128 + signal.SIGUSR1
        # The Ray of these tests goes on, and a cell that had begun may still end as it should.
        assert {row["status"] for row in store.rows("warned").to_pylist()} <= {"done"}
        monkeypatch.undo()
        assert launch(plan(sweep, store, Path()), store, Path()) == 0

    def test_what_this_ray_can_never_give_is_told(self, local_ray: None, store: Store) -> None:
        sweep = Sweep(space=tiny_config(), name="wide", cpus=64)
        with pytest.raises(BadInput, match="got 64, but this Ray has no machine with more than 2 CPUs"):
            launch(plan(sweep, store, Path()), store, Path())


def test_plan_looks_at_every_setting_of_a_defense(store: Store) -> None:
    """Settings that share attack and clean data, of which one cannot work on the model."""
    defenses = [quick("nft"), quick("nft", site="layernorm"), quick("nft", site="rows", bn="eval"), quick("nft", site="rows")]
    found = plan(Sweep(space=tiny_config(defense=defenses), name="x"), store, Path())
    assert (len(found.missing), len(found.skipped)) == (2, 2)


def test_plan_looks_at_a_setting_once_for_all_attacks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(Nft, "fits", lambda self, model, task: looked.append(self.lr))
    defense = quick("nft", lr=tune.loguniform(0.01, 0.5))
    plan(Sweep(space=tiny_config(attack=["badnets", "blend"], defense=defense), samples=5, name="x"), store, Path())
    assert len(looked) == 5


def test_plan_refuses_what_can_never_run(store: Store, tmp_path: Path) -> None:
    for space, told in (
        (tiny_config(task={"data": "cifar10"}), "cifar10"),
        (tiny_config(attack=["blend", {"name": "sig", "rate": 0.9}]), "largest possible rate"),
        (tiny_config(defense=[{"name": "abl", "isolation": s} for s in (0.1, 1e-4)]), r"abl\.isolation: got 0\.0001"),
        (tiny_config(defense=[{"name": "nft", "shots": n} for n in (1, 999)]), r"nft\.shots: got 999"),
    ):
        with pytest.raises(BadInput, match=told):
            plan(Sweep(space=space, name="x"), store, tmp_path)


def test_ray_is_asked_for_what_each_cell_needs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its task, or as the sweep says."""
    asked: list[Any] = []

    class Tuner:
        def __init__(self, trainable: Any, param_space: dict[str, Any], **_: Any) -> None:
            for cell in param_space["cell"]["grid_search"]:
                asked.extend(trainable._resources({"cell": json.loads(json.dumps(cell))}).bundles)

        def fit(self) -> list[Any]:
            return []

    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, told: functools.partial(trainable, told=told))
    work = Work("s", "l", store.location(), ".", ".", str(store.location()))
    for fields in ({}, {"cpus": 2, "gpus": 0, "memory": 0.5}):
        sweep = Sweep(space={"task": ["image", "video"], "defense": "none"}, **fields)
        run_cells(expand(sweep), set(), work, store, sweep.cell_needs, 2, Watch("s", 2, stream=io.StringIO()))
    mixed = [{"CPU": 1.0, "GPU": 0.25, "memory": gib * 2.0**30} for gib in (2, 3)]
    assert sorted(asked[:2], key=str) == sorted(mixed, key=str)
    assert asked[2:] == [{"CPU": 2.0, "memory": 2.0**29}] * 2


def test_a_team_that_does_not_fit_is_told_all_that_one_of_it_takes(store: Store) -> None:
    """Here it is the memory of which there is too little."""
    team = Experiment.of(tiny_config(training={"workers": 2}))
    work = Work("s", "l", store.location(), ".", ".", str(store.location()))
    watch = Watch("s", 1, stream=io.StringIO())
    told = train_victims({"key": team}, work, store, lambda _: Needs(1, 0, 2), Resources((Needs(4, 0, 3),)), watch)
    reason = "training.workers: got 2, but this Ray has only 1 times 1 CPUs, 2 GiB of memory; lower it"
    assert told == {"key": ("failed", reason)}


def test_a_trial_of_a_search_gets_what_every_task_of_its_panel_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which no machine has, though one has what each alone needs: Ray would wait for ever."""
    for name, needs in (("image", Needs(2, 0, 1)), ("video", Needs(1, 0, 3))):
        monkeypatch.setattr(Task.member(name), "cell_needs", needs)
    panel = {"task": ["image", "video"]}
    found = Plan(Sweep(name="s", space={"defense": {"name": "nft", "lr": tune.uniform(0, 1)}}, search="random", panel=panel))
    cells, _ = _granted(found, Resources((Needs(2, 0, 3),)))
    assert list(cells.values()) == [Needs(2, 0, 3)] * 2
    with pytest.raises(BadInput, match="the task 'image, video': got 2 CPUs, 3 GiB of memory for a process, but no machine of"):
        _granted(found, Resources((Needs(2, 0, 2), Needs(1, 0, 3))))
