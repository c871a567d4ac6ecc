"""Training: the recipe of a victim, and the one loop that follows it. Resumes at the last epoch, bit for bit."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

import torch
import torch.distributed as dist
from pydantic import model_validator
from torch import Tensor, nn

from bdray.layers.finite import check_finite, is_finite
from bdray.samples import Samples
from bdray.seeds import rng, seed_of
from bdray.spec import BadInput, BatchSize, Count, Later, NonNegative, Positive, Share, Spec
from bdray.task import Batch, Task

Report = Callable[..., None]
"""`report(step, **metrics)`: how far a long training or defense is, and what it sees on its own data."""


def silent(step: int, **metrics: float) -> None:
    """A report that nobody reads."""


class Training(Spec):
    """How a victim is trained: the field's usual recipe for CIFAR-sized images unless a field says otherwise."""

    epochs: Count = 20
    batch: BatchSize = 128
    lr: Positive = 0.1
    optimizer: Annotated[Literal["sgd", "adamw"], Later("sgd")] = "sgd"
    """adamw: Adam with decoupled weight decay (Loshchilov and Hutter 2019), for transformers."""
    momentum: Share = 0.9
    """Of sgd; of adamw the first moment's decay (beta 1), beta 2 is 0.999."""
    weight_decay: NonNegative = 5e-4
    nesterov: bool = False
    """Of sgd."""
    schedule: Literal["cosine", "onecycle", "constant"] = "cosine"
    """cosine to 0 over all steps; onecycle: linear up over the first quarter of the steps, then linear down to 0."""
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass; weights stay float32."""
    workers: Count = 1
    """Data-parallel processes, each of which learns its share of every batch (BatchNorm sees that share)."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise BadInput("training.momentum: got 0 with nesterov, expected more than 0; set one of the two")
        return self

    @model_validator(mode="after")
    def _adamw_has_no_nesterov(self) -> Self:
        if self.optimizer == "adamw" and (self.nesterov or self.momentum >= 1):
            got = "nesterov" if self.nesterov else f"a momentum of {self.momentum:g}"
            raise BadInput(f"training.optimizer: got adamw with {got}, expected neither nesterov nor momentum 1; change one")
        return self

    @model_validator(mode="after")
    def _workers_have_samples(self) -> Self:
        if self.batch < 2 * self.workers:
            raise BadInput(
                f"training.workers: got {self.workers}, but of a batch of {self.batch} each needs at least 2 samples; "
                "lower it, or raise training.batch"
            )
        return self

    def lr_at(self, progress: float) -> float:
        """The learning rate when a share `progress` of all steps is done."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * progress)) / 2
        if self.schedule == "onecycle":
            return self.lr * min(progress / 0.25, (1 - progress) / 0.75)
        return self.lr

    def stepper(self, parameters: Any) -> torch.optim.Optimizer:
        """The optimizer of parameters on the device; on a GPU in one kernel, since a small net waits for kernels to start."""
        fused = device().type == "cuda" or None
        if self.optimizer == "adamw":
            betas = (self.momentum, 0.999)
            return torch.optim.AdamW(parameters, self.lr, betas=betas, weight_decay=self.weight_decay, fused=fused)
        return torch.optim.SGD(
            parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov, fused=fused
        )

    def forward(self) -> torch.autocast:
        """The context of a forward pass in this precision."""
        return torch.autocast(device().type, torch.bfloat16, enabled=self.precision == "bfloat16")


class Team(NamedTuple):
    """Which of the processes that train one model together this is; their torch process group has been started."""

    rank: int = 0
    size: int = 1

    def share(self, part: Samples) -> Samples:
        """This process' samples of a batch: every `size`-th."""
        return part if self.size == 1 else part.take(torch.arange(self.rank, len(part), self.size))


ALONE = Team()


class Checkpoint(Protocol):
    """Where a training keeps its last finished epoch: tensors by name, and the number of epochs done."""

    def load(self) -> tuple[dict[str, Tensor], int] | None: ...

    def save(self, tensors: dict[str, Tensor], epochs: int) -> None: ...


def device() -> torch.device:
    """The accelerator if this process was given one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place(model: nn.Module) -> nn.Module:
    """The model on the device, the weights of convolutions channels last: part of what makes training faster
    (benchmarks/training.py)."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    model = model.to(device())
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() in formats:
            tensor.data = tensor.data.contiguous(memory_format=formats[tensor.dim()])
    return model


def parts(order: Tensor, size: int, least: int = 2) -> list[Tensor]:
    """Positions in parts of `size`; the last may be smaller, but fewer than `least` join the part before it."""
    found = list(order.split(size))
    if len(found) > 1 and len(found[-1]) < least:
        found[-2:] = [torch.cat(found[-2:])]
    return found


def batches(samples: Samples, size: int, generator: torch.Generator | None = None, least: int = 2) -> Iterator[Samples]:
    """The samples in batches, shuffled where a generator is given. The last batch may be smaller, but fewer than `least` left
    over join the batch before it: a single sample has no batch statistics."""
    order = torch.arange(len(samples)) if generator is None else torch.randperm(len(samples), generator=generator)
    for part in parts(order, size, least):
        yield samples.take(part).dense()


def fit(
    model: nn.Module,
    samples: Samples,
    task: Task,
    training: Training,
    seed: int,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
    adversary: Callable[[nn.Module, Batch], Batch] | None = None,
    team: Team = ALONE,
    loss: Callable[[nn.Module, Batch], Tensor] | None = None,
) -> nn.Module:
    """Train `model` in place on `samples` and return it in eval mode. Each epoch is reported with its mean loss and the
    seconds so far; epochs done before an interruption are reported again, as they were.

    Epoch e draws from `rng(seed, "epoch", e)` alone, so a run that resumes at a checkpoint ends with the same weights as
    one that was never interrupted. An `adversary` changes each batch before it is learnt; a `loss` (a scalar, the mean over
    the batch) stands in for the task's. The processes of a `team` share every batch and step by the gradient of all of it;
    BatchNorm sees a process' own share, and the first one's statistics and checkpoints count.
    Raises FloatingPointError when the loss or, after the last step of an epoch, a weight or a statistic is no longer finite:
    no checkpoint keeps what diverged.
    """
    model, loss = place(model), loss or task.loss
    samples = samples.to(device())
    optimizer = training.stepper(model.parameters())
    history = _restore(checkpoint, model, optimizer, training.epochs)
    decay = f" or the weight decay ({training.weight_decay:g})" if training.weight_decay else ""
    cure = f"lower the lr ({training.lr:g}){decay}"
    for epoch, (mean, seconds) in enumerate(history, start=1):
        report(epoch, loss=mean, seconds=seconds)
    if history:
        check_finite(model, f"epoch {len(history)}", cure)
    before, started = history[-1][1] if history else 0.0, time.perf_counter()
    steps = math.ceil(len(samples) / training.batch)  # at most; see batches()
    learner = model if team.size == 1 else nn.parallel.DistributedDataParallel(model)
    for epoch in range(len(history), training.epochs):
        total = torch.zeros((), device=device())
        draw = rng(seed, "epoch", epoch)
        own = draw if team.size == 1 else rng(seed, "epoch", epoch, "worker", team.rank)
        learner.train()
        torch.manual_seed(seed_of(seed, "dropout", epoch, team.rank))  # what layers draw themselves, they draw from torch's own
        for index, part in enumerate(batches(samples, training.batch, draw, 2 * team.size)):
            for group in optimizer.param_groups:
                group["lr"] = training.lr_at((epoch * steps + index) / (training.epochs * steps))
            mine = team.share(part)
            batch = task.collate(task.augment(mine, own) if training.augment else mine).to(device())
            if adversary is not None:
                batch = adversary(model, batch)
            with training.forward():
                value = loss(learner, batch)
            optimizer.zero_grad()
            # The team's gradients are averaged: unequal shares count by their size.
            (value if team.size == 1 else value * (len(mine) * team.size / len(part))).backward()
            optimizer.step()
            total += value.detach() * len(mine)
        told = torch.stack([total, (~is_finite(model)).float()])
        if team.size > 1:
            dist.all_reduce(told)  # a team ends together: each has statistics of its own
        loss_sum, broken = told.tolist()
        mean = loss_sum / len(samples)
        if not math.isfinite(mean):
            raise FloatingPointError(f"the training loss is {mean} in epoch {epoch + 1}; {cure}")
        if broken:
            raise FloatingPointError(f"the model's weights or statistics are no longer finite after epoch {epoch + 1}; {cure}")
        history.append((mean, before + time.perf_counter() - started))
        if checkpoint is not None and team.rank == 0:
            checkpoint.save(_state(model, optimizer, history), epoch + 1)
        report(epoch + 1, loss=mean, seconds=history[-1][1])
    torch.manual_seed(seed_of(seed, "dropout", training.epochs, team.rank))  # what follows is the same after a resumed training
    return model.eval()


SLOTS = {"momentum_buffer": "momentum", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "step"}
"""What an optimizer keeps of a parameter, and what it is called in a checkpoint."""


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, history: list[tuple[float, float]]) -> dict[str, Tensor]:
    """Weights, buffers, all that the optimizer keeps, and loss and seconds of each epoch as bare tensors."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state["history"] = torch.tensor(history, dtype=torch.float64)
    for index, slot in optimizer.state_dict()["state"].items():
        for kind, value in slot.items():
            if value is not None:
                state[f"{SLOTS[kind]}.{index}"] = value
    return state


def _restore(
    checkpoint: Checkpoint | None, model: nn.Module, optimizer: torch.optim.Optimizer, most: int
) -> list[tuple[float, float]]:
    """Load the last finished epoch, if any, of at most so many; the loss and the seconds so far of each epoch done."""
    found = checkpoint.load() if checkpoint is not None else None
    if found is None:
        return []
    tensors, epochs = found
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    history = tensors.get("history", torch.empty(0))
    fused, parameters = optimizer.defaults["fused"], [p for group in optimizer.param_groups for p in group["params"]]
    slots = {
        f"{short}.{index}": (kind, parameter if kind != "step" else torch.zeros((), device=device() if fused else "cpu"))
        for index, parameter in enumerate(parameters)
        for kind, short in SLOTS.items()
    }
    why = unlike(weights, model.state_dict())
    kept = {name: like for name, (_, like) in slots.items() if name in tensors}
    why = why or unlike({name: tensors[name] for name in kept}, kept)
    why = why or (f"it is after epoch {epochs} of {most}" if epochs > most else "")
    if why or history.shape != (epochs, 2) or not history.isfinite().all():
        warnings.warn(f"a half-done training does not go on: {why or 'it does not say how far it was'}", stacklevel=2)
        return []
    model.load_state_dict(weights)
    for name, (kind, like) in slots.items():
        if name in tensors:
            # A copy in the parameter's own memory layout, as the optimizer itself would have made it.
            parameter = parameters[int(name.rpartition(".")[2])]
            optimizer.state[parameter][kind] = torch.empty_like(like).copy_(tensors[name])
    return [(loss, seconds) for loss, seconds in history.tolist()]


def unlike(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """What keeps the tensors of a model from being loaded into another one; empty if nothing does."""
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found or name not in wanted:
            return f"{'no' if name not in found else 'an unknown'} tensor {name[:80]!r}"
        mine, theirs = found[name], wanted[name]
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            return f"{name} is {mine.dtype} {list(mine.shape)}, expected {theirs.dtype} {list(theirs.shape)}"
    return ""
