"""AdvrBD's partition of what is no image: which values lie in the like of a patch, and how far they are moved. Of images:
test_partition.py."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdray.defenses import _partition as module
from bdray.defenses._partition import Perturbation, balls, cuboids, divergences, perturb, ranges, spans
from bdray.samples import Outline, Rows, Samples, Splits
from bdray.seeds import rng
from bdray.task import Task

EPS = 0.1
TEXTS = ["a good film", "no", "so good that it is bad", "", "a film"]


def how(**changes: Any) -> Perturbation:
    return Perturbation(**{"radius": 1, "eps": EPS, "steps": 3, "step": EPS / 2, "climb": "ce", "share": 0.25, **changes})


def clouds(count: int, points: int = 30) -> Tensor:
    """Of any place and size, none of a sphere."""
    draw = rng(0, "clouds")
    size = 0.5 + 3 * torch.rand(count, 1, 1, generator=draw)
    return (torch.rand(count, points, 3, generator=draw) * torch.tensor([1.0, 2.0, 0.3]) - 0.7) * size


def speaker() -> tuple[Task, nn.Module, Samples]:
    """A task of texts, a model of it, and some texts, one of which has no word."""
    task = Task.of({"name": "text", "model": {"name": "bert", "width": 16, "layers": 1, "vocabulary": 60}})
    texts = Samples(Rows.of(TEXTS), torch.tensor([1, 0, 0, 1, 1]))
    outline = task.outline(Splits(texts, texts, texts, ("negative", "positive")))
    return task, loud(task.build(outline, rng(0, "weights")).eval()), texts


def loud(model: nn.Module) -> nn.Module:
    """With a last layer of large weights: a fresh one says much the same of all it is shown."""
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    last.weight.data *= 100
    return model


# Regions


def test_cuboids_are_squares_in_the_frames_around_one() -> None:
    """Of 8 frames a quarter either way, cut off at the ends; each frame is as often the middle one."""
    found = cuboids(torch.zeros(4000, 3, 8, 5, 6), how(), rng(0))
    assert found.shape == (4000, 1, 8, 5, 6)
    frames = found.flatten(3).any(3)[:, 0]
    square = found.any(2, keepdim=True)
    assert torch.equal(found, square & frames[:, None, :, None, None])
    counts = {}
    for mask in frames.tolist():
        counts[tuple(mask)] = counts.get(tuple(mask), 0) + 1
    wanted = {tuple(abs(frame - centre) <= 2 for frame in range(8)) for centre in range(8)}
    assert counts.keys() == wanted
    assert all(abs(count - 500) < 4 * math.sqrt(500) for count in counts.values())
    assert square.flatten(1).sum(1).float().mean() < 9
    assert set(square.flatten(1).sum(1).tolist()) == {4, 6, 9}


def test_balls_are_the_points_near_one() -> None:
    x = clouds(200)
    found = balls(x, 0.25, rng(0))[..., 0]
    assert found.shape == (200, 30)
    for cloud, inside in zip(x, found, strict=True):
        radius = 0.25 * max((cloud.max(0).values - cloud.min(0).values).tolist())
        near = torch.cdist(cloud[None], cloud[None])[0] <= radius
        assert any(torch.equal(inside, row) for row in near)
    assert torch.equal(balls(7 * x + 2, 0.25, rng(0))[..., 0], found)  # whatever the unit
    assert len({int(row.sum()) for row in found}) > 3


def test_spans_are_words_around_one() -> None:
    """Of 3, 1, 8 and no words: 1 either way of 3 and 4 of 8, nothing beside a word that stands alone, never padding."""
    words = torch.tensor(
        [
            [0, 1, 1, 1, 0, 0, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 1, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
    ).bool()
    seen: list[set[tuple[int, ...]]] = [set(), set(), set(), set()]
    draw = rng(0)
    for _ in range(200):
        found = spans(words, 0.25, draw)
        assert found.shape == (4, 10, 1)
        for places, mask in zip(seen, found[..., 0], strict=True):
            places.add(tuple(mask.nonzero().flatten().tolist()))
    assert seen[0] == {(1, 2), (1, 2, 3), (2, 3)}
    assert seen[1] == {(1,)}
    assert seen[2] == {tuple(p for p in range(1, 9) if abs(p - centre) <= 2) for centre in range(1, 9)}
    assert seen[3] == {()}


def test_words_are_no_special_tokens() -> None:
    task, model, texts = speaker()
    batch = task.collate(texts)
    soft, words = task.soften(model, batch), task.words(model, batch)
    assert words.shape == soft.shape[:2]
    pieces = [len(model.tokens.tokenizer.encode(text, add_special_tokens=False).ids) for text in TEXTS]  # type: ignore
    assert words.sum(1).tolist() == pieces
    assert not words[:, 0].any()
    assert pieces[3] == 0


# How far


def test_what_a_bound_is_a_share_of() -> None:
    """Each sample's own range, whatever the padding and the special tokens hold; of pixels none."""
    images, points = (Task.of({"name": name}) for name in ("image", "points"))
    assert ranges(images, torch.rand(2, 3, 4, 4), None) is None
    x = clouds(20)
    span = ranges(points, x, None)
    assert span is not None
    assert span.flatten().tolist() == pytest.approx([float(c.max() - c.min()) for c in x])
    task, model, texts = speaker()
    batch = task.collate(texts)
    soft, words = task.soften(model, batch).detach(), task.words(model, batch)
    soft[~words] = 100.0
    span = ranges(task, soft, words)
    assert span is not None
    for one, text, mine in zip(span.flatten().tolist(), soft, words, strict=True):
        assert one == pytest.approx(float(text[mine].max() - text[mine].min()) if mine.any() else 0.0)


class Slope(nn.Module):
    """Says 0 of the first class and a linear function of the points of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(30, 3, generator=rng(0, "weights")))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), 0.1 * (x * self.weight).flatten(1).sum(1)], 1)


def test_points_end_in_the_corner_of_their_own_box() -> None:
    """Beyond 0..1, inside the ball alone, and as far as the cloud is large."""
    model, x = Slope(), clouds(60)
    inside, span = balls(x, 0.25, rng(1)), x.amax((1, 2), keepdim=True) - x.amin((1, 2), keepdim=True)
    known = model(x).detach().log_softmax(1)
    found = perturb(model, x, known, inside, how(steps=5), rng(2), span)
    down = model.weight.detach().sign() * torch.where(known.argmax(1) == 1, -1, 1)[:, None, None]
    assert torch.allclose(found, torch.where(inside, x + EPS * span * down, x), atol=1e-5)
    assert found.min() < -0.5


@pytest.mark.parametrize("steps", [0, 2])
def test_the_divergence_of_clouds_by_hand(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each in order, in parts, by its own ball; with all steps it is that of the corner."""
    monkeypatch.setattr(module, "OTHERS", 7)
    drawn: list[Tensor] = []
    monkeypatch.setattr(module, "balls", lambda *given: drawn.append(balls(*given)) or drawn[-1])
    task, model, x = Task.of({"name": "points"}), Slope(), clouds(20)
    samples = Samples(x, torch.zeros(20, dtype=torch.int64))
    found = divergences(model, samples, task, how(steps=steps, step=10.0), rng(3))
    assert [len(mask) for mask in drawn] == [7, 7, 6]
    if not steps:
        assert (found > 0).sum() > 15
        return
    known = model(x).detach().log_softmax(1)
    down = model.weight.detach().sign() * torch.where(known.argmax(1) == 1, -1, 1)[:, None, None]
    span = x.amax((1, 2), keepdim=True) - x.amin((1, 2), keepdim=True)
    after = model(torch.where(torch.cat(drawn), x + EPS * span * down, x)).detach().log_softmax(1)
    wanted = (known.exp() * (known - after)).sum(1)
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-3, abs=1e-7)


def test_only_words_of_a_span_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by no more than the bound; what has no word does not move, and the model stays as it was."""
    task, model, texts = speaker()
    moves: list[tuple[Tensor, Tensor]] = []

    def spy(ask: Any, x: Tensor, *given: Any) -> Tensor:
        moves.append((x, perturb(ask, x, *given)))
        return moves[-1][1]

    monkeypatch.setattr(module, "perturb", spy)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = divergences(model, texts, task, how(climb="kl"), rng(4), masks=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    batch = task.collate(texts)
    soft, words = task.soften(model, batch).detach(), task.words(model, batch)
    assert len(moves) == 2
    for x, moved in moves:
        assert torch.equal(x, soft)
        far = (moved - x).abs().amax(2)
        assert ((far > 0) <= words).all()
        assert ((far > 0).any(1) == words.any(1)).all()
        span = ranges(task, soft, words)
        assert span is not None
        assert (far <= EPS * span[..., 0] + 1e-6).all()
    assert found[3] == pytest.approx(0, abs=1e-6)
    assert (found[torch.tensor([0, 1, 2, 4])] > 1e-6).all()


@pytest.mark.parametrize(("name", "least"), [("video", 9), ("points", 3), ("text", 4)])
def test_what_does_not_move_does_not_diverge(name: str, least: int) -> None:
    """Of most clouds no point of the ball is one of those that PointNet looks at, its maxima."""
    task, model, samples = speaker()
    if name != "text":
        task = Task.of({"name": name})
        shape = (3, 4, 16, 16) if name == "video" else (30, 3)
        model = loud(task.build(Outline(("a", "b"), shape), rng(0)).train())
        noise = torch.rand(9, *shape, generator=rng(1))
        samples = Samples((255 * noise).to(torch.uint8) if name == "video" else noise, torch.zeros(9, dtype=torch.int64))
    moved, still = (divergences(model, samples, task, how(eps=eps, step=eps / 2), rng(0)) for eps in (0.2, 0.0))
    assert still.abs().max() < 1e-6
    assert (moved > 2e-6).sum() >= least
