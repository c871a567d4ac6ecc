"""Missing victims, on Ray Train: one worker group takes them from a queue, so that its start is paid once. A worker that
dies restarts the group, and each victim goes on at the last epoch that the store holds."""

import threading
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from tqdm import tqdm

from bdray.experiment import Experiment, backdoor
from bdray.launch.work import Work
from bdray.spec import Config

LIVES = 3


class Queue:
    """Who trains which victim. A worker's unfinished claim goes back when the worker of its rank is replaced, until it was
    lost `LIVES` times without an epoch done: then the victim has an error, and the others go on."""

    def __init__(self, jobs: dict[str, Config]) -> None:
        self.jobs = jobs
        self.pending = list(jobs)
        self.claims: dict[int, tuple[str, str]] = {}
        self.epochs = dict.fromkeys(jobs, 0)
        self.lost = dict.fromkeys(jobs, 0)
        self.finished: set[str] = set()
        self.errors: dict[str, str] = {}

    def take(self, rank: int, token: str) -> tuple[str, Config] | None:
        """The next victim for the worker of this rank; the token tells a restarted worker from the one before it."""
        claim = self.claims.pop(rank, None)
        if claim is not None and claim[0] != token and claim[1] not in self.finished:
            self._give_back(claim[1])
        if not self.pending:
            return None
        key = self.pending.pop(0)
        self.claims[rank] = (token, key)
        return key, self.jobs[key]

    def _give_back(self, key: str) -> None:
        self.lost[key] += 1
        if self.lost[key] < LIVES:
            self.pending.insert(0, key)
        else:
            self.finish(key, f"its worker died {LIVES} times before another epoch was done, perhaps out of memory")

    def progress(self, key: str, epoch: int) -> None:
        """An epoch is done."""
        if epoch > self.epochs[key]:
            self.epochs[key], self.lost[key] = epoch, 0

    def finish(self, key: str, error: str = "") -> None:
        """A victim is in the store, or cannot be trained."""
        self.finished.add(key)
        if error:
            self.errors[key] = error

    def give_up(self, error: str) -> None:
        """Nobody will train what is not finished."""
        for key in self.jobs:
            if key not in self.finished:
                self.finish(key, error)

    def state(self) -> tuple[int, int, dict[str, str]]:
        """Epochs done, victims finished, errors by key."""
        return sum(self.epochs.values()), len(self.finished), self.errors


def train_victims(victims: dict[str, Experiment], work: Work, resources: dict[str, float]) -> dict[str, str]:
    """Train and store every one of them; the errors of those that cannot be trained, by key."""
    gpus = int(resources.get("GPU", 0))
    slots = int(resources.get("CPU", 1) // work.cpus)
    slots = min(gpus, slots) if gpus else slots
    queue = ray.remote(Queue).options(num_cpus=0).remote({key: e.victim_config() for key, e in victims.items()})
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"queue": queue, "work": work},
        scaling_config=ray.train.ScalingConfig(
            num_workers=max(1, min(len(victims), slots)),
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": work.cpus, **({"GPU": 1} if gpus else {})},
        ),
        run_config=ray.train.RunConfig(
            name="victims",
            storage_path=work.records,
            failure_config=ray.train.FailureConfig(max_failures=LIVES * len(victims) + LIVES, controller_failure_limit=10),
        ),
    )
    try:
        _watched(trainer, queue, len(victims), sum(e.training.epochs for e in victims.values()))
    except ray.train.TrainingFailedError as error:
        ray.get(queue.give_up.remote(f"Ray Train gave up: {' '.join(str(error).split())[:300]}"))
    return dict(ray.get(queue.state.remote())[2])


def _watched(trainer: TorchTrainer, queue: Any, victims: int, epochs: int) -> None:
    """Fit, with a progress bar fed from the queue. Fit runs in a thread: in the main one Train would take over Ctrl-C, and
    keep it after it is done."""
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # raised again in the main thread
            errors.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    with tqdm(total=epochs, desc=f"victims 0/{victims}", unit="epoch", disable=None) as bar:
        while thread.is_alive():
            thread.join(0.5)
            done, finished, _ = ray.get(queue.state.remote())
            bar.update(done - bar.n)
            bar.set_description(f"victims {finished}/{victims}")
    if errors:
        raise errors[0]


def _train_loop(config: dict[str, Any]) -> None:
    """What each Train worker does. The workers train different victims, so they share nothing but the queue."""
    queue, work = config["queue"], config["work"]
    store, root = work.settle()
    rank = ray.train.get_context().get_world_rank()
    token = ray.get_runtime_context().get_worker_id()
    while (job := ray.get(queue.take.remote(rank, token))) is not None:
        key, victim = job

        def progress(stage: str, step: int, key: str = key, **metrics: float) -> None:
            if stage == "victim":
                queue.progress.remote(key, step)

        try:
            backdoor(Experiment.of(victim), store, root, progress)
            error = ""
        except Exception as reason:  # the cells that need this victim get failed rows with this text; the others go on
            error = f"{type(reason).__name__}: {reason}"
        ray.get(queue.finish.remote(key, error))
