"""Missing victims, on Ray Train: one worker group takes those of a single worker from a queue, so that its start is paid
once; one of several workers has a group of its own. A lost worker or trainer restarts the group, and each victim goes on at the
last epoch that the store holds; a lost queue is begun anew, and what it forgot is in the store."""

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray._raylet import PlacementGroupID
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup

from bdray.experiment import Experiment
from bdray.launch.connect import Resources, bundle, told
from bdray.launch.ends import LIVES, dead_nodes, forget, judged
from bdray.launch.queue import Queue, wait
from bdray.launch.watch.watch import Watch
from bdray.launch.work import Work
from bdray.needs import Needs
from bdray.report.board import Board
from bdray.spec import BadInput
from bdray.store.refusal import Refused
from bdray.store.store import Store
from bdray.task import Task
from bdray.training import Team
from bdray.victim import backdoor

PATIENCE = 6 * 3600
"""Seconds that the workers of a team wait for each other: one of them may be training a surrogate."""


GIVE_UP = 6
"""How often in a row the training of a group may end with nothing to show for it, and no victim to blame."""


class _Ends(ray.train.UserCallback):
    """In Ray Train's controller: tells the queue how workers ended."""

    def __init__(self, queue: Any) -> None:
        self.queue, self.gone = queue, dead_nodes()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        forget(self.gone)
        self.gone = []
        ends = {rank: tuple(judged(error)) for rank, error in worker_exceptions.items()}
        with contextlib.suppress(ray.exceptions.RayError):  # a lost queue has forgotten whose they were
            ray.get(self.queue.ended.remote(ends))


class Progress:
    """Over all groups of one launch, for the watch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.epochs = self.finished = 0
        self.errors: dict[str, tuple[str, str]] = {}

    def show(self, epochs: int, running: int, finished: int, errors: dict[str, tuple[str, str]]) -> None:
        """What the group in work says now."""
        every = {**self.errors, **errors}
        reasons = {key: reason for key, (_, reason) in every.items()}
        lost = {key for key, (status, _) in every.items() if status == "lost"}
        self.watch.victims(self.epochs + epochs, running, self.finished + finished, len(every), reasons, lost)

    def add(self, epochs: int, finished: int, errors: dict[str, tuple[str, str]]) -> None:
        """A group ended so."""
        self.epochs, self.finished = self.epochs + epochs, self.finished + finished
        self.errors |= errors


def train_victims(
    victims: dict[str, Experiment],
    work: Work,
    store: Store,
    needs: Callable[[Task], Needs],
    resources: Resources,
    watch: Watch,
) -> dict[str, tuple[str, str]]:
    """Train and store every one of them; what their cells get that cannot be trained, as status (failed or lost) and reason, by
    key. Ray is asked for what one of a task `needs`. Those that another launch is training just now are left to it.

    Raises BadInput where the store takes no more.
    """
    progress = Progress(watch)
    single: dict[Needs, dict[str, Experiment]] = {}
    for key, e in victims.items():
        if e.training.workers == 1:
            single.setdefault(needs(e.task), {})[key] = e
    groups = [*single.values(), *({key: e} for key, e in victims.items() if e.training.workers > 1)]
    for group in groups:
        workers = max(e.training.workers for e in group.values())
        each = needs(next(iter(group.values())).task)
        most = resources.slots(each)
        if workers > most:
            key = next(iter(group))
            reason = f"training.workers: got {workers}, but this Ray has only {most} times {told(each)}; lower it"
            progress.add(0, 1, {key: ("failed", reason)})
            continue
        _train_group(group, workers, dataclasses.replace(work, cpus=each.cpus), store, each, resources, progress)
    progress.show(0, 0, 0, {})
    return progress.errors


def _train_group(
    group: dict[str, Experiment],
    workers: int,
    work: Work,
    store: Store,
    needs: Needs,
    resources: Resources,
    progress: Progress,
) -> None:
    """Train one group's victims, again with a new trainer where Ray Train gives up or its actors are lost, after a wait that
    grows, as long as it gets anywhere. The loss of a machine counts for nothing."""
    jobs = {key: e.victim_config() for key, e in group.items()}
    queue = ray.remote(Queue).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote(jobs, workers > 1)
    left, failures, best, before = list(group), 0, (0, 0, 0), _placement_groups()
    try:
        while left:
            end = None
            try:
                _watched(_trainer(queue, len(left), workers, work, needs, resources), queue, progress)
            except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
                end = judged(error)
                _remove(_placement_groups() - before)
            if refused := ray.get(queue.refusal.remote()):
                raise BadInput(refused)
            shown = ray.get(queue.shown.remote())
            failures = 0 if shown > best else failures + (end is not None and end.kind != "machine")
            best = max(best, shown)
            epochs, _, finished, errors = ray.get(queue.state.remote())
            left = [key for key in left if end and key not in errors and store.victim_about(key) is None]
            # An exception has been raised again in every new group of one trainer.
            if end and (failures >= GIVE_UP or (failures and end.kind == "raised")):
                what = "raised in Ray Train's workers" if end.kind == "raised" else f"Ray Train was ended {failures} times"
                gone = (end.status, f"{what}, before another epoch was done: {end.reason}")
                errors, finished, left = {**errors, **dict.fromkeys(left, gone)}, len(group), []
            if left:
                progress.show(epochs, 0, finished, errors)
                time.sleep(wait(failures))
        progress.add(epochs, finished, errors)
    finally:
        ray.kill(queue)


def _trainer(queue: Any, victims: int, workers: int, work: Work, needs: Needs, resources: Resources) -> TorchTrainer:
    number: int | tuple[int, int] = workers
    if workers == 1:
        number = max(1, min(victims, resources.slots(needs)))
        if number > 1 and (resources.grows or len(ray.nodes()) > 1):
            number = (1, number)  # begin with the first machine that comes up, and go on with those that are left
    return TorchTrainer(
        _learn_together if workers > 1 else _learn_apart,
        train_loop_config={"queue": queue, "work": work},
        # Victims that are trained apart exchange nothing, and gloo does that without a GPU.
        torch_config=TorchConfig(backend="gloo" if workers == 1 else None, timeout_s=PATIENCE),
        scaling_config=ray.train.ScalingConfig(
            num_workers=number, use_gpu=bool(needs.gpus), resources_per_worker=bundle(needs)
        ),
        run_config=ray.train.RunConfig(
            # Of its own: Ray Train would take a run of the same name for the one to go on with.
            name=f"victims-{uuid.uuid4().hex[:12]}",
            **work.storage(),
            callbacks=[_Ends(queue)],
            failure_config=ray.train.FailureConfig(max_failures=LIVES, controller_failure_limit=10),
        ),
    )


def _placement_groups() -> set[str]:
    """The ids of those of this job, which end with the job's, that hold resources."""
    job = ray.get_runtime_context().get_job_id()
    table = ray.util.placement_group_table()
    return {group for group, about in table.items() if group.endswith(job) and about["state"] != "REMOVED"}


def _remove(groups: set[str]) -> None:
    """What a lost trainer leaves behind, so that the next one has room. Ray Train has an actor for it, which finds its Ray only
    where the machine runs no other."""
    for group in groups:
        ray.util.remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def _watched(trainer: TorchTrainer, queue: Any, progress: Progress) -> None:
    """Fit, and show what the queue says meanwhile. Fit runs in a thread: in the main one Train would take over Ctrl-C, and
    keep it after it is done."""
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # raised again in the main thread
            errors.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        with contextlib.suppress(ray.exceptions.RayActorError):  # a lost queue is back in a moment
            progress.show(*ray.get(queue.state.remote()))
    if errors:
        raise errors[0]


def _learn_apart(config: dict[str, Any]) -> None:
    """What each worker of the shared group does. They train different victims, so they share nothing but the queue."""
    queue, work = config["queue"], config["work"]
    rank, token = _who()
    time.sleep(ray.get(queue.patience.remote()))
    while (job := ray.get(queue.take.remote(rank, token))) is not None:
        key, victim = job
        error = ""
        try:
            with _claimed(key, work) as claimed:
                if claimed:
                    _learn(Experiment.of(victim), key, work, queue, Team())
        except Refused as reason:
            ray.get(queue.refuse.remote(str(reason)))
        except Exception as reason:  # the cells that need this victim get failed rows with this text; the others go on
            error = _told(reason)
        ray.get(queue.finish.remote(key, error))


def _learn_together(config: dict[str, Any]) -> None:
    """What each worker of a team does: the one victim, its own share of every batch."""
    queue, work = config["queue"], config["work"]
    rank, token = _who()
    time.sleep(ray.get(queue.patience.remote()))
    jobs: list[Any] = [ray.get(queue.take.remote(rank, token)) if rank == 0 else None]
    try:
        with _claimed(jobs[0][0], work) if jobs[0] else contextlib.nullcontext(rank > 0) as claimed:
            if jobs[0] and not claimed:
                ray.get(queue.finish.remote(jobs.pop()[0]))
                jobs.append(None)
            dist.broadcast_object_list(jobs)
            if jobs[0]:
                _learn(Experiment.of(jobs[0][1]), jobs[0][0], work, queue, Team(rank, dist.get_world_size()))
    except Exception as reason:
        # Raised on: the others may be waiting for this one, and Ray Train ends them.
        if isinstance(reason, Refused):
            ray.get(queue.refuse.remote(str(reason)))
        elif isinstance(reason, BadInput | FloatingPointError) and jobs[0]:
            ray.get(queue.finish.remote(jobs[0][0], _told(reason)))
        elif jobs[0]:  # perhaps only because another one of the team was lost
            ray.get(queue.complain.remote(jobs[0][0], _told(reason)))
        raise
    if rank == 0 and jobs[0]:
        ray.get(queue.finish.remote(jobs[0][0]))


@contextlib.contextmanager
def _claimed(key: str, work: Work) -> Iterator[bool]:
    """Whether a victim is this process' own, until the end; if not it is another's."""
    claims = work.settle()[2]
    taken = claims.take("victim", key)
    try:
        yield taken
    finally:
        if taken:
            with contextlib.suppress(BadInput):
                claims.release("victim", key)


def _learn(experiment: Experiment, key: str, work: Work, queue: Any, team: Team) -> None:
    """One victim into the store, unless it is there."""
    store, root, _ = work.settle()
    if team.rank > 0:
        backdoor(experiment, store, root, team=team)
        return
    with Board(store, "victims", key) as board:

        def progress(stage: str, step: int, **metrics: float) -> None:
            board(stage, step, **metrics)
            if stage == "victim":
                queue.progress.remote(key, step)

        board.close(scores=backdoor(experiment, store, root, progress, team).scores)


def _who() -> tuple[int, str]:
    return ray.train.get_context().get_world_rank(), ray.get_runtime_context().get_worker_id()


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
