"""The video task: what a batch is, how clips are augmented, mixed and judged; badnets in every frame; the networks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdray.attacks import Attack
from bdray.experiment import Experiment
from bdray.models import Model
from bdray.samples import Outline, Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput, Incompatible
from bdray.task import Batch, Task
from bdray.training import place

SHAPE = (3, 6, 12, 16)
"""Channels, frames, height, width."""


def video(**fields: Any) -> Task:
    return Task.of({"name": "video", **fields})


def samples(count: int = 4) -> Samples:
    inputs = torch.randint(0, 256, (count, *SHAPE), generator=rng(0)).to(torch.uint8)
    return Samples(inputs, torch.arange(count) % 3)


def batch(count: int = 4) -> Batch:
    return Batch(torch.rand(count, *SHAPE, generator=rng(0)), torch.arange(count))


def test_alone_it_is_an_experiment() -> None:
    experiment = Experiment.of({"task": "video"})
    experiment.check()
    assert (experiment.task.data.name, experiment.task.model.name) == ("moving_shapes", "conv3d")
    assert (experiment.attack.name, experiment.defense.name) == ("badnets", "nft")


def test_what_suits_the_task_stands_where_nothing_is_said() -> None:
    suited = Experiment.of({"task": "video"})
    mine = Experiment.of({"task": "video", "attack": {"rate": 0.05}, "defense": {"steps": 7}, "training": {"epochs": 3}})
    assert mine.attack == Attack.of({"name": "badnets", "rate": 0.05})
    assert mine.defense.config() == {**suited.defense.config(), "steps": 7}
    assert mine.training.config() == {**suited.training.config(), "epochs": 3}
    other = Experiment.of({"task": "video", "defense": "fine_tuning", "attack": {"name": "badnets", "preset": "nft"}})
    assert other.defense == type(other.defense)()
    assert other.attack == Attack.of({"name": "badnets", "preset": "nft"})


def test_pixels_in_0_to_1() -> None:
    found = video().collate(samples())
    assert torch.equal(found.inputs, samples().inputs.float() / 255)
    assert torch.equal(found.targets, samples().targets)


@pytest.mark.parametrize("data", ["moving_shapes", "ucf101"])
def test_augmentation_is_the_same_in_all_frames(data: str) -> None:
    """Each pixel of the first frame gets a number of its own, and the other frames the same ones."""
    frame = torch.arange(12 * 16).reshape(12, 16).to(torch.uint8)
    x = frame.expand(64, *SHAPE[:2], 12, 16).contiguous()
    before, mirrored = x.clone(), 0
    found = video(data=data).augment(Samples(x, torch.arange(64)), rng(0))
    assert torch.equal(x, before)
    assert found.inputs.shape == x.shape
    assert torch.equal(found.targets, torch.arange(64))
    for clip in found.inputs:
        assert (clip == clip[:1, :1]).all()
        middle = clip[0, 0, 4:8, 4:12].int()
        steps = middle[:, 1:] - middle[:, :-1]
        assert steps.abs().max() == 1
        mirrored += int(steps[0, 0] < 0)
    assert 16 < mirrored < 48 if data == "ucf101" else mirrored == 0  # which way things move is their class
    assert len(found.inputs.flatten(1).unique(dim=0)) > 8
    again = video(data=data).augment(Samples(x, torch.arange(64)), rng(0))
    assert torch.equal(again.inputs, found.inputs)


@pytest.mark.parametrize(
    ("mixup", "whole"), [("spatial", ("frames",)), ("temporal", ("rows", "columns")), ("spatiotemporal", ())]
)
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.71, 1.0])
def test_a_cuboid_of_the_other_clip_weighs_as_many_pixels_as_it_has(mixup: str, whole: tuple[str, ...], weight: float) -> None:
    mine, order = batch(), torch.tensor([1, 2, 3, 0])
    mixed = video(mixup=mixup).mix(mine, order, weight)
    other = mine.inputs[order]
    pasted = (mixed.inputs == other) & (other != mine.inputs)
    assert ((mixed.inputs == mine.inputs) | pasted).all()
    assert mixed.weight == pytest.approx(1 - float(pasted.float().mean()))
    assert abs(mixed.weight - weight) < 0.25
    assert torch.equal(mixed.partner, mine.targets[order])
    assert torch.equal(mixed.targets, mine.targets)
    assert (pasted == pasted[:1, :1]).all()  # the same place in all clips
    spans = {"frames": pasted[0, 0].any((1, 2)), "rows": pasted[0, 0].any((0, 2)), "columns": pasted[0, 0].any((0, 1))}
    sizes = [int(span.sum()) for span in spans.values()]
    assert int(pasted[0, 0].sum()) == sizes[0] * sizes[1] * sizes[2]  # a cuboid
    for axis in whole:
        assert spans[axis].all() or not pasted.any()


def test_where_the_cuboid_lies_is_drawn_with_the_order() -> None:
    task, mine, orders = video(), batch(), [torch.randperm(4, generator=rng(seed)) for seed in range(9)]
    places = {tuple((task.mix(mine, o, 0.7).inputs == mine.inputs)[0, 0, 0].flatten().tolist()) for o in orders}
    assert len(places) > 3
    assert torch.equal(task.mix(mine, orders[0], 0.7).inputs, task.mix(mine, orders[0], 0.7).inputs)


def test_linear_mixup() -> None:
    mine, order = batch(), torch.tensor([1, 2, 3, 0])
    mixed = video(mixup="linear").mix(mine, order, 0.3)
    assert torch.allclose(mixed.inputs, 0.3 * mine.inputs + 0.7 * mine.inputs[order], atol=1e-6)
    assert mixed.weight == 0.3


class First(nn.Module):
    """Says the class that the first pixel is the number of."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot((255 * x[:, 0, 0, 0, 0]).round().long(), 256).float()


def test_predictions_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdray.tasks._classes.NUMBERS", 3 * samples().inputs[0].numel())  # three at a time
    found = video().predict(First(), samples(11))
    assert found.tolist() == samples(11).inputs[:, 0, 0, 0, 0].tolist()
    assert video().predict(First(), samples(11).take(torch.arange(0))).tolist() == []
    assert video().score(torch.tensor([1, 2, 3, 3]), torch.tensor([1, 2, 0, 3])) == 0.75


def test_badnets_stands_in_every_frame() -> None:
    part = samples()
    attack = Attack.of({"name": "badnets", "size": 2, "rate": 0.5})
    attack.check(Splits(part, part, part, "abc"))
    stamped = attack.stamp(part, {}, 0)
    assert (stamped.samples.inputs[..., -2:, -2:] == 255).all()
    rest = torch.ones(12, 16, dtype=torch.bool)
    rest[-2:, -2:] = False
    assert torch.equal(stamped.samples.inputs[..., rest], part.inputs[..., rest])
    assert torch.equal(stamped.samples.targets, part.targets)
    with pytest.raises(BadInput, match=r"badnets\.size: got 13, expected at most 12"):
        Attack.of({"name": "badnets", "size": 13, "rate": 0.5}).check(Splits(part, part, part, "abc"))


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"attack": "physical"}, "the attack 'physical' is for image, the task 'video' is for video"),
        ({"task": {"name": "video", "data": "digits"}}, "the data set 'digits' is for image"),
        ({"task": {"name": "video", "model": "resnet18"}}, "the model 'resnet18' is for image"),
    ],
)
def test_parts_of_another_modality(part: dict[str, Any], told: str) -> None:
    with pytest.raises(Incompatible, match=told):
        Experiment.of({"task": "video", **part}).check()


@pytest.mark.parametrize("name", [n for n in Model.names() if Model.member(n).modality == "video"])
@pytest.mark.parametrize("shape", [(3, 16, 32, 32), (3, 4, 16, 24), (1, 5, 48, 48)], ids=str)
def test_any_clips_in_and_logits_out(name: str, shape: tuple[int, ...]) -> None:
    width = 8 if name == "mvit_v2_s" else 2  # LayerNorm of two channels is little more than a sign, whose last bits decide
    model = place(Model.of({"name": name, "width": width}).build(Outline(("a", "b", "c"), shape)))
    x = torch.rand(2, *shape, generator=rng(0))
    before = x.clone()
    logits = model.train()(x)
    assert logits.shape == (2, 3)
    assert torch.equal(x, before)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    built = dict(model.named_modules())
    for stem in Model.member(name).stem:
        assert stem in built
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(x)[1:], model(x[1:]), atol=1e-5)


def test_x3d_has_the_published_size() -> None:
    """3.79 million parameters on Kinetics-400 (table 2 of the paper, X3D-S)."""
    with torch.random.fork_rng(devices=[]):
        model = Model.of({"name": "x3d", "width": 12, "depth": 2.2}).build(Outline(("a",) * 400, (3, 13, 160, 160)))
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_794_274


def test_one_epoch_on_the_miniature_is_learnt_the_same_again(tmp_path: Path) -> None:
    from bdray.training import Training, fit

    task = video(data={"name": "moving_shapes", "limit": 40, "held": 0.0}, model={"name": "conv3d", "width": 2})
    splits = task.data.splits(tmp_path)
    weights = []
    for _ in range(2):
        model = fit(task.build(task.outline(splits), rng(0)), splits.train, task, Training(epochs=1, batch=20), 0)
        weights.append(torch.cat([value.flatten().float() for value in model.state_dict().values()]))
    assert torch.equal(*weights)
