"""The training loop: its recipe, its batches, that it learns, and that a training cut off ends as one that was not."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdray.samples import Samples, Splits
from bdray.seeds import rng
from bdray.task import Batch, Task
from bdray.training import Training, batches, fit
from tests.tiny import Line

TASK = Task.of({"name": "image", "data": {"name": "miniature", "held": 0.0}})
SHORT = Training(epochs=3, batch=32)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return TASK.data.splits(tmp_path_factory.mktemp("nothing"))


def some(splits: Splits, count: int) -> Samples:
    return splits.train.take(torch.arange(count))


def trained(splits: Splits, training: Training, seed: int = 0, count: int = 96, **more: Any) -> dict[str, Tensor]:
    """Weights and buffers after a training from the same initial weights."""
    model = TASK.build(TASK.outline(splits), rng(0, "weights"))
    return fit(model, some(splits, count), TASK, training, seed, **more).state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# The recipe


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", {0: 0.2, 0.25: 0.1 * (1 + math.sqrt(0.5)), 0.5: 0.1, 1: 0}),
        ("onecycle", {0: 0, 0.125: 0.1, 0.25: 0.2, 0.625: 0.1, 1: 0}),
        ("constant", {0: 0.2, 0.5: 0.2, 1: 0.2}),
    ],
)
def test_learning_rates(schedule: Any, rates: dict[float, float]) -> None:
    training = Training(lr=0.2, schedule=schedule)
    for progress, rate in rates.items():
        assert training.lr_at(progress) == pytest.approx(rate, abs=1e-12)
    assert all(0 <= training.lr_at(step / 100) <= 0.2 for step in range(101))


def test_the_rate_of_each_step_is_the_schedules(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, *rest: Any) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    training = Training(epochs=2, batch=32, lr=0.2)
    trained(splits, training)
    assert used == [pytest.approx(training.lr_at(at / 6)) for at in range(6)]


def test_the_optimizer_is_what_was_asked_for() -> None:
    training = Training(lr=0.3, momentum=0.8, weight_decay=0.01, nesterov=True)
    (group,) = training.stepper([nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.3, 0.8, 0.01, True)


def test_two_steps_by_hand() -> None:
    """SGD with momentum and weight decay on the mean cross-entropy of one weight and two equal samples."""
    samples = Samples(torch.full((2, 3, 8, 8), 255, dtype=torch.uint8), torch.tensor([1, 1]))
    training = Training(epochs=2, batch=2, lr=0.5, momentum=0.9, weight_decay=0.1, schedule="constant", augment=False)
    line = Line()
    fit(line, samples, TASK, training, 0)
    weight, speed = 0.5, 0.0
    for _ in range(2):
        gradient = 1 / (1 + math.exp(-weight)) - 1 + 0.1 * weight
        speed = 0.9 * speed + gradient
        weight -= 0.5 * speed
    assert line.weight.item() == pytest.approx(weight, rel=1e-5)


def test_a_loss_in_the_place_of_the_tasks(splits: Splits) -> None:
    """The task's own changes nothing; its negative climbs what the task's descends, and is what is reported."""
    assert same(trained(splits, SHORT), trained(splits, SHORT, loss=TASK.loss))
    told: list[float] = []
    gentle = SHORT.model_copy(update={"lr": 0.01})
    trained(splits, gentle, loss=lambda m, b: -TASK.loss(m, b), report=lambda step, loss, seconds: told.append(loss))
    assert told[2] < told[1] < told[0] < 0


# Batches


def numbered(count: int) -> Samples:
    return Samples(torch.arange(count) * 10, torch.arange(count))


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1]), (4, [4]), (5, [5]), (6, [4, 2]), (8, [4, 4]), (9, [4, 5]), (11, [4, 4, 3]), (13, [4, 4, 5])],
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_show_each_sample_once(count: int, sizes: list[int], shuffled: bool) -> None:
    """A lone last sample joins the batch before it."""
    found = list(batches(numbered(count), 4, rng(0) if shuffled else None))
    assert [len(part) for part in found] == sizes
    order = torch.cat([part.targets for part in found]).tolist()
    assert sorted(order) == list(range(count))
    assert torch.equal(torch.cat([part.inputs for part in found]), 10 * torch.tensor(order))
    assert (order != list(range(count))) == (shuffled and count > 1)


def test_batches_of_one_and_of_none() -> None:
    assert [len(part) for part in batches(numbered(3), 1)] == [1, 2]
    assert sum(len(part) for part in batches(numbered(0), 4)) == 0


def test_the_generator_alone_orders_the_batches() -> None:
    first, again, other = ([p.targets.tolist() for p in batches(numbered(20), 4, rng(seed))] for seed in (0, 0, 1))
    assert first == again
    assert first != other


# Learning


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(splits: Splits, precision: Any) -> None:
    losses: list[float] = []
    training = Training(epochs=10, batch=32, lr=0.03, precision=precision)  # at least 0.95 with ten seeds
    model = TASK.build(TASK.outline(splits), rng(0, "weights"))
    fitted = fit(model, splits.train, TASK, training, 0, lambda step, **metrics: losses.append(metrics["loss"]))
    assert fitted is model
    assert not fitted.training
    assert TASK.score(TASK.predict(fitted, splits.test), splits.test.targets) > 0.9
    assert len(losses) == 10
    assert losses[-1] < 0.5 * losses[0]
    assert all(value.dtype != torch.bfloat16 for value in fitted.state_dict().values())


def test_it_reports_the_mean_loss_of_each_epoch(splits: Splits) -> None:
    """With a rate of almost nothing: the mean over all samples, not over batches of 32 and 8."""
    seen: list[tuple[int, float]] = []
    samples = some(splits, 40)
    training = Training(epochs=2, batch=32, lr=1e-12, augment=False, weight_decay=0.0)
    fit(Line(), Samples(samples.inputs, samples.targets % 2), TASK, training, 0, lambda s, **m: seen.append((s, m["loss"])))
    x = samples.inputs[:, 0, 0, 0].double() / 255
    logits = torch.stack([torch.zeros(40, dtype=torch.float64), 0.5 * x], dim=1)
    expected = float(nn.functional.cross_entropy(logits, samples.targets % 2))
    assert [step for step, _ in seen] == [1, 2]
    assert [loss for _, loss in seen] == [pytest.approx(expected, rel=1e-5)] * 2


def test_the_seed_alone_decides(splits: Splits) -> None:
    torch.manual_seed(1)
    first = trained(splits, SHORT, 5)
    torch.manual_seed(2)
    assert same(trained(splits, SHORT, 5), first)
    assert not same(trained(splits, SHORT, 6), first)


def test_augmentation_and_adversary_change_what_is_learnt(splits: Splits) -> None:
    plain = trained(splits, SHORT)
    assert not same(trained(splits, Training(epochs=3, batch=32, augment=False)), plain)
    shown: list[Batch] = []

    def adversary(model: nn.Module, batch: Batch) -> Batch:
        assert model.training
        shown.append(batch)
        return batch._replace(inputs=1 - batch.inputs)

    assert not same(trained(splits, SHORT, adversary=adversary), plain)
    assert len(shown) == 9
    assert same(trained(splits, SHORT, adversary=lambda model, batch: batch), plain)


def test_samples_and_targets_stay_as_they_are(splits: Splits) -> None:
    samples = some(splits, 64)
    inputs, targets = samples.inputs.clone(), samples.targets.clone()
    fit(TASK.build(TASK.outline(splits), rng(0)), samples, TASK, SHORT, 0)
    assert torch.equal(samples.inputs, inputs)
    assert torch.equal(samples.targets, targets)


@pytest.mark.parametrize("count", [33, 65])
def test_one_sample_left_over(splits: Splits, count: int) -> None:
    """BatchNorm at 1x1 pixels cannot learn from one sample: it joins the batch before."""
    assert all(value.isfinite().all() for value in trained(splits, Training(epochs=1, batch=32), count=count).values())


def test_a_loss_that_is_not_finite_stops_it(splits: Splits) -> None:
    kept = Kept()
    with pytest.raises(FloatingPointError, match=r"the training loss is nan in epoch 1; lower the lr \(1e\+30\)"):
        trained(splits, Training(epochs=3, batch=32, lr=1e30), checkpoint=kept)
    assert kept.epochs == []


# Interrupted and resumed


class Interrupted(Exception):
    pass


class Kept:
    """A checkpoint in memory that is cut off after some epoch, as by a kill."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.tensors: dict[str, Tensor] = {}
        self.epochs: list[int] = []

    def load(self) -> tuple[dict[str, Tensor], int] | None:
        return (self.tensors, self.epochs[-1]) if self.epochs else None

    def save(self, tensors: dict[str, Tensor], epochs: int) -> None:
        self.tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        self.epochs.append(epochs)
        if epochs == self.stop_after:
            raise Interrupted


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.0},
        {"nesterov": True, "schedule": "onecycle"},
        {"precision": "bfloat16"},
        {"optimizer": "adamw", "lr": 1e-3},
    ],
)
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_training_cut_off_ends_as_one_that_was_not(splits: Splits, stop_after: int, changes: dict[str, Any]) -> None:
    training = Training(**{"epochs": 4, "batch": 32, **changes})
    kept = Kept(stop_after)
    with pytest.raises(Interrupted):
        trained(splits, training, checkpoint=kept)
    assert any(name.startswith(("momentum.", "exp_avg_sq.")) for name in kept.tensors) == bool(training.momentum)
    kept.stop_after = None
    torch.manual_seed(99)
    whole = Kept()
    resumed, never = trained(splits, training, checkpoint=kept), trained(splits, training, checkpoint=whole)
    assert same(resumed, never)
    assert kept.tensors.pop("history")[:, 0].tolist() == whole.tensors.pop("history")[:, 0].tolist()  # losses, not seconds
    assert same(kept.tensors, whole.tensors)  # momentum included
    assert kept.epochs == whole.epochs == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "other", "said"),
    [
        ("model.WEIGHT", torch.zeros(7), r"is torch\.float32 \[7\], expected"),
        ("model.WEIGHT", None, "no tensor"),
        ("model.evil", torch.zeros(1), "an unknown tensor 'evil'"),
        ("momentum.0", torch.zeros(1), r"momentum\.0 is torch\.float32 \[1\]"),
        ("momentum.0", torch.zeros(4, 3, 3, 3, dtype=torch.float64), "momentum.0 is torch.float64"),
        ("history", None, "it does not say how far it was"),
        ("history", torch.zeros(1, 2), "it does not say how far it was"),
        ("history", torch.full((3, 2), math.nan), "it does not say how far it was"),
        ("epochs", 9, "it is after epoch 9 of 3"),
    ],
)
def test_the_checkpoint_of_another_training_is_not_gone_on_from(splits: Splits, name: str, other: Any, said: str) -> None:
    """It is whole, and of another experiment: this one begins anew, and ends as though there had been none."""
    kept = Kept()
    never = trained(splits, SHORT, checkpoint=kept)
    name = name.replace("WEIGHT", min(never))
    if name == "epochs":
        kept.epochs.append(other)
        kept.tensors["history"] = torch.zeros(other, 2, dtype=torch.float64)
    elif other is None:
        del kept.tensors[name]
    else:
        kept.tensors[name] = other
    with pytest.warns(UserWarning, match=f"a half-done training does not go on: .*{said}"):
        assert same(trained(splits, SHORT, checkpoint=kept), never)


def test_a_finished_training_is_not_trained_on(splits: Splits) -> None:
    kept = Kept()
    first = trained(splits, SHORT, checkpoint=kept)
    steps: list[int] = []
    kept.save = lambda *_: pytest.fail("it trained on")  # type: ignore[method-assign]
    again = trained(splits, SHORT, checkpoint=kept, report=lambda step, **_: steps.append(step))
    assert same(first, again)
    assert steps == list(range(1, SHORT.epochs + 1))  # as they were


def test_a_checkpoint_does_not_change_the_training(splits: Splits) -> None:
    assert same(trained(splits, SHORT, checkpoint=Kept()), trained(splits, SHORT))


def test_what_torch_draws_after_it_is_the_same_after_a_finished_one(splits: Splits) -> None:
    """Of what comes next, a defense's own steps, a layer's dropout draws from there."""
    kept, drawn = Kept(), []
    for number in range(2):
        torch.manual_seed(number)
        trained(splits, SHORT, checkpoint=kept)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
