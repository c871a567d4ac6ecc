"""A team of processes trains one model: the same steps as one process, with gloo and without Ray."""

import multiprocessing
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bdray.samples import Samples
from bdray.spec import BadInput
from bdray.store.store import Store
from bdray.task import Task
from bdray.training import ALONE, Team, Training, fit
from bdray.victim import backdoor
from tests.tiny import tiny, tiny_config

TASK = Task.of({"name": "image", "data": {"name": "miniature", "held": 0.0}})


def plain() -> nn.Module:
    """No BatchNorm, whose statistics depend on how a batch is shared."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))


def learnt(team: Team, count: int, losses: list[float], batch: int = 32, checkpoint: Any = None) -> dict[str, Tensor]:
    train = TASK.data.splits(Path()).train
    samples = Samples(train.inputs[:count], train.targets[:count])
    model = plain()
    model(TASK.collate(samples).inputs[:1])
    training = Training(epochs=3, batch=batch, augment=False, workers=team.size)

    def report(step: int, **metrics: float) -> None:
        losses.append(metrics["loss"])

    return fit(model, samples, TASK, training, 0, report, checkpoint, team=team).state_dict()


def in_team(size: int, function: Any, *arguments: Any) -> list[Any]:
    """What each of the processes returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            context.Process(target=_member, args=(rank, size, port, f"{folder}/{rank}", function, arguments))
            for rank in range(size)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join(120)
        assert [job.exitcode for job in jobs] == [0] * size
        return [torch.load(f"{folder}/{rank}", weights_only=True) for rank in range(size)]


def _member(rank: int, size: int, port: int, path: str, function: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=size)
    torch.save(function(Team(rank, size), *arguments), path)
    dist.barrier()
    dist.destroy_process_group()
    # DistributedDataParallel keeps the group's threads alive all the same, and one of them that frees a tensor while the
    # interpreter goes down aborts the process. A worker of Ray Train ends its interpreter after its results are told.
    os._exit(0)


def _learn(team: Team, count: int) -> tuple[list[float], dict[str, Tensor]]:
    losses: list[float] = []
    return losses, learnt(team, count, losses)


@pytest.mark.parametrize("count", [96, 101, 97])  # whole batches, unequal shares, one left over
def test_a_team_takes_the_steps_of_one_process(count: int) -> None:
    alone: list[float] = []
    wanted = learnt(ALONE, count, alone)
    for losses, found in in_team(2, _learn, count):
        assert losses == pytest.approx(alone, rel=1e-5)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def _victim(team: Team, folder: str) -> bool:
    experiment = tiny(training={"epochs": 2, "batch": 32, "workers": 2})
    return backdoor(experiment, Store(folder), Path(), team=team).model.training


def test_the_poison_is_the_same_whatever_the_team(tmp_path: Path) -> None:
    together, alone = Store(str(tmp_path / "together")), Store(str(tmp_path / "alone"))
    assert in_team(2, _victim, together.location()) == [False, False]
    backdoor(tiny(), alone, Path())
    states = []
    for store, workers in ((together, 2), (alone, 1)):
        key = tiny(training={"epochs": 2, "batch": 32, "workers": workers}).victim_key()
        state = store.victim_part(key, "attack")
        assert state is not None
        assert store.victim_about(key) is not None
        state.pop("seconds")
        states.append(state)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_one_process_does_not_pose_as_a_team(store: Store) -> None:
    with pytest.raises(BadInput, match="would be trained by 1 process; train it with `bdray sweep`"):
        backdoor(tiny(training={"workers": 2}), store, Path())


def test_a_batch_must_be_large_enough_for_the_team() -> None:
    with pytest.raises(BadInput, match="each needs at least 2 samples"):
        tiny(**tiny_config(training={"batch": 6, "workers": 4}))
