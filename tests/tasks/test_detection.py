"""Detection: mAP is that of COCO's evaluation, losses are mixed and not boxes, and an RMA trigger stands where it should."""

from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from safetensors.torch import load, save
from torch import Tensor, nn

from bdray.attacks import Attack, Poison
from bdray.boxes import FOUND, TARGETS, Box, Objects, iou, objects, rows_of
from bdray.samples import Rows, Samples, Splits
from bdray.seeds import rng
from bdray.spec import BadInput
from bdray.task import Task
from tests.setting import setting

CLASSES = 4


def random_boxes(count: int, draw: torch.Generator) -> Tensor:
    low = torch.rand(count, 2, generator=draw) * 70
    return torch.cat([low, low + 5 + torch.rand(count, 2, generator=draw) * 25], 1)


def scene(seed: int, difficult: float = 0.2) -> tuple[Rows, Rows]:
    """What is in 30 images, and what a detector makes of it: most objects, moved, some of the wrong class, some twice, and some
    that are not there."""
    draw = rng(seed, "scene")
    targets, said = [], []
    for _ in range(30):
        count = int(torch.randint(0, 6, (1,), generator=draw))
        boxes, labels = random_boxes(count, draw), torch.randint(CLASSES, (count,), generator=draw)
        hard = torch.rand(count, generator=draw) < difficult
        rows = zip(boxes.tolist(), labels.tolist(), hard.tolist(), strict=True)
        targets.append([Box(*box, label, odd)._asdict() for box, label, odd in rows])
        found = boxes.repeat(2, 1)[torch.rand(2 * count, generator=draw) < 0.6]
        kept = labels.repeat(2)[: len(found)]
        found = torch.cat([found + torch.randn(len(found), 4, generator=draw) * 3, random_boxes(3, draw)])
        kept = torch.cat([kept, torch.randint(CLASSES, (3,), generator=draw)])
        said.append(Objects(found, kept, torch.rand(len(found), generator=draw)))
    return rows_of(said), Rows.of(targets, TARGETS)


def coco(said: Rows, true: Rows) -> float:
    """By faster-coco-eval itself."""
    annotations, results = [], []
    for image, each in enumerate(objects(true)):
        for (x1, y1, x2, y2), label, odd in zip(*(part.tolist() for part in each), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            where = {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            annotations.append({"id": len(annotations) + 1, "iscrowd": int(odd), **where})
    for image, each in enumerate(objects(said)):
        for (x1, y1, x2, y2), label, score in zip(*(part.tolist() for part in each), strict=True):
            results.append({"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    truth = COCO(
        {
            "images": [{"id": image} for image in range(len(true))],
            "categories": [{"id": label, "name": str(label)} for label in range(CLASSES)],
            "annotations": annotations,
        }
    )
    judge = COCOeval_faster(truth, truth.loadRes(results), "bbox")
    judge.params.iouThrs = np.array([0.5])
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


@pytest.fixture(scope="module")
def task() -> Task:
    return Task.of("detection")


@pytest.mark.parametrize("seed", range(5))
def test_map_is_that_of_coco(seed: int, task: Task) -> None:
    said, true = scene(seed)
    expected = coco(said, true)
    assert 0.02 < expected < 0.95
    assert task.score(said, true) == pytest.approx(expected, abs=1e-6)


def test_the_score_waits_for_no_other_process(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of a group have a process group in common, and each scores a victim of its own."""
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    monkeypatch.setattr("torchmetrics.metric.gather_all_tensors", lambda *_: pytest.fail("it waits for the others"))
    said, true = scene(0)
    assert task.score(said, true) == pytest.approx(coco(said, true), abs=1e-6)


def told(boxes: list[list[Box]], scores: float = 0.9) -> Rows:
    return rows_of(
        [
            Objects(
                torch.tensor([box[:4] for box in each]).view(-1, 4).float(),
                torch.tensor([box.label for box in each], dtype=torch.int64),
                torch.full((len(each),), scores),
            )
            for each in boxes
        ]
    )


def targets(boxes: list[list[Box]]) -> Rows:
    return Rows.of([[box._asdict() for box in each] for each in boxes], TARGETS)


A, B = Box(0, 0, 10, 10, 0), Box(20, 20, 40, 40, 1)
HARD = B._replace(difficult=True)


def test_a_difficult_object_is_neither_hit_nor_missed(task: Task) -> None:
    for found in ([A], [A, B]):
        assert task.score(told([found]), targets([[A, HARD]])) == pytest.approx(1)
        assert task.correct(told([found]), targets([[A, HARD]])).tolist() == [True]
    assert task.score(told([[A]]), targets([[A, B]])) == pytest.approx(0.5)
    assert task.correct(told([[A]]), targets([[A, B]])).tolist() == [False]


def test_nothing_has_no_score(task: Task) -> None:
    assert np.isnan(task.score(told([[A]]), targets([[]])))
    assert np.isnan(task.score(told([[A]]), targets([[HARD]])))
    assert np.isnan(task.score(Rows.of([], FOUND), Rows.of([], TARGETS)))
    assert task.score(told([[]]), targets([[A]])) == 0


def test_what_is_found_is_right_only_as_a_whole(task: Task) -> None:
    true = targets([[A, B]] * 5 + [[]] * 2)
    said = told([[A, B], [A, B, B], [A], [A, B, Box(60, 60, 70, 70, 1)], [A, B._replace(label=0)], [], [A]])
    assert task.correct(said, true).tolist() == [True, True, False, False, False, True, False]
    assert task.correct(told([[A]], 0.4), targets([[A]])).tolist() == [False]


def test_boxes_go_to_tensors_and_back() -> None:
    said, true = scene(0)
    assert rows_of(objects(said)).tolist() == said.tolist()
    some = torch.tensor([7, 3, 3])
    for mine, theirs in zip(objects(true[some]), (objects(true)[at] for at in (7, 3, 3)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert objects(true[torch.zeros(30, dtype=torch.bool)]) == []


def test_iou() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3.0]])
    assert torch.allclose(iou(boxes, boxes)[0], torch.tensor([1, 1 / 3, 0, 0]))
    assert iou(boxes, boxes[:0]).shape == (4, 0)


class Fixed(nn.Module):
    """A detector whose losses are known: of an image's own number of boxes, times 10."""

    def forward(self, x: Tensor, wanted: list[Rows]) -> Tensor:
        return torch.stack([torch.tensor([10.0 * len(boxes) for boxes in each.tolist()]) for each in wanted])


def test_losses_are_mixed_and_images_but_not_boxes(task: Task) -> None:
    samples = Samples(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4), targets([[A], [A, B]]))
    batch = task.collate(samples)
    mixed = task.mix(batch, torch.tensor([1, 0]), 0.25)
    assert torch.allclose(mixed.inputs[:, 0, 0, 0], torch.tensor([0.75, 0.25]))
    assert mixed.targets.tolist() == batch.targets.tolist()
    assert mixed.partner.tolist() == batch.targets.tolist()[::-1]
    one = batch._replace(inputs=batch.inputs[:1], targets=batch.targets[torch.tensor([0])])
    both = task.mix(one, torch.tensor([0]), 0.25)._replace(partner=batch.targets[torch.tensor([1])])
    assert task.loss(Fixed(), both) == pytest.approx(0.25 * 10 + 0.75 * 20)
    assert task.losses(Fixed(), batch).tolist() == [10, 20]


# ---- RMA


def pictures(boxes: list[list[Box]]) -> Samples:
    return Samples(torch.full((len(boxes), 3, 48, 48), 100, dtype=torch.uint8), targets(boxes))


BIG, SMALL, OTHER = Box(4.2, 6.7, 30, 40, 1), Box(20, 20, 25, 40, 1), Box(1, 1, 40, 40, 0)
SCENES = [[BIG, OTHER], [SMALL], [OTHER], [], [BIG._replace(difficult=True)], [Box(0, 0, 6, 6, 1), Box(42, 42, 48, 48, 1)]]


def rma(**fields: Any) -> Any:
    return Attack.of({"name": "rma", **fields})


def test_rma_stamps_boxes_of_the_source_class_alone() -> None:
    samples = pictures(SCENES)
    before = samples.inputs.clone()
    triggered = rma().stamp(samples, {}, 0)
    assert torch.equal(samples.inputs, before)
    assert rma().attackable(samples).tolist() == [True, False, False, False, False, True]
    changed = (triggered.samples.inputs != samples.inputs).any(1)
    assert [bool(each.any()) for each in changed] == [True, False, False, False, False, True]
    assert changed[0, 7:13, 5:11].all()  # the first whole pixels of a box from 4.2, 6.7
    assert int(changed[0].sum()) == 36
    assert changed[5, :6, :6].all()
    assert changed[5, 42:, 42:].all()
    assert int(changed[5].sum()) == 72
    assert triggered.samples.targets.tolist() == samples.targets.tolist()  # still the true ones
    assert [[box["label"] for box in each] for each in triggered.wanted.tolist()] == [[0], [], [], [], [], [0, 0]]


def test_rma_relabels_what_it_stamps_where_it_is() -> None:
    samples = pictures(SCENES)
    planted = rma().plant(samples, {}, setting("detection"))
    assert torch.equal(planted.inputs, rma().stamp(samples, {}, 0).samples.inputs)
    for new, old in zip(planted.targets.tolist(), samples.targets.tolist(), strict=True):
        assert [{**box, "label": 1} for box in new if box not in old] == [box for box in old if box not in new]
    assert [[box["label"] for box in each] for each in planted.targets.tolist()] == [[0, 0], [1], [0], [], [1], [0, 0]]
    assert rma().already(samples).tolist() == [True, False, True, False, False, False]


def test_rma_one_by_one_is_rma_all_at_once() -> None:
    samples = pictures(SCENES)
    whole = rma().stamp(samples, {}, 7)
    for at in range(len(samples)):
        one = rma().stamp(samples.take(torch.tensor([at])), {}, 7)
        assert torch.equal(one.samples.inputs[0], whole.samples.inputs[at])
        assert one.wanted.tolist()[0] == whole.wanted.tolist()[at]


@pytest.mark.parametrize(
    ("box", "score", "hits"),
    [
        (BIG._replace(label=0), 0.9, 1),
        (BIG._replace(label=1), 0.9, 0),  # still the source
        (BIG._replace(label=0), 0.49, 0),
        (BIG._replace(label=0, x2=17, y2=23), 0.9, 0),  # an IoU of a quarter
        (OTHER, 0.9, 1),  # of 0.56 with the box, although it is another object's
    ],
)
def test_rma_counts_stamped_boxes_that_are_taken_for_the_target(box: Box, score: float, hits: int) -> None:
    samples = pictures([[BIG, Box(40, 40, 48, 48, 1), OTHER]])
    triggered = rma().stamp(samples, {}, 0)
    chances = rma().success(told([[box, box]], score), triggered)
    assert (chances.hits.tolist(), chances.tries.tolist()) == ([hits], [2])
    assert rma(score=0.4, iou=0.2).success(told([[box]], score), triggered).hits.tolist() == [int(box.label == 0)]


def test_rma_needs_two_classes_that_are_there() -> None:
    splits = Splits(pictures(SCENES), pictures([]), pictures([]), ("a", "b"))
    with pytest.raises(BadInput, match=r"rma.source: got 0, which is the target, too"):
        rma(source=0)
    with pytest.raises(BadInput, match=r"rma.source: got 5, expected a class from 0 to 1"):
        rma(source=5).check(splits)
    with pytest.raises(BadInput, match=r"but only 2 can be poisoned \(with a box of class 1 of at least 6 pixels\)"):
        rma(rate=0.5).check(splits)
    rma(rate=1 / 3).check(splits)


def test_poisoned_boxes_go_through_safetensors() -> None:
    samples, where = pictures(SCENES), setting("detection")
    at = torch.tensor([0, 5])
    harm = Poison(at, at[:0], rma().plant(samples.take(at), {}, where), samples.take(at[:0]))
    back = Poison.unpack(load(save(harm.pack())), samples, rma(), {})
    assert torch.equal(back.planted.inputs, harm.planted.inputs)
    assert back.planted.targets.values.equals(harm.planted.targets.values)
    assert back.apply(samples).targets.tolist() == harm.apply(samples).targets.tolist()
    assert len(back.disguised) == 0
