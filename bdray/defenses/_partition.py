"""AdvrBD's first stage (Algorithm 1): how far a model's answer to each sample moves under an adversarial perturbation inside
a random patch. Poisoned samples move little, since the trigger alone holds them.

The paper's patch is a square of pixels. Of other inputs it is, by our choice, the like: a square in some frames of a clip,
the points of a cloud in a ball, a span of words.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.layers.finite import check_answers
from bdray.layers.still import still
from bdray.samples import Samples
from bdray.task import Batch, Task
from bdray.training import batches, device

AT_ONCE, OTHERS = 512, 128
"""Images perturbed together; clips, clouds or texts."""


class Perturbation(NamedTuple):
    """What Algorithm 1 is given beside the data and the model."""

    radius: int
    """Pixels: the patch is a square of 2 radius + 1."""
    eps: float
    """Bound, of 1: the range of pixels, or of each sample's own values."""
    steps: int
    step: float
    """Of 1, likewise."""
    climb: Literal["kl", "ce"]
    """What is climbed: the divergence itself, or the cross-entropy to the model's own prediction."""
    share: float = 0.0
    """The radius of what has no pixels, a share: of a clip's frames, of a cloud's longest side, of a text's words."""


def patches(count: int, height: int, width: int, radius: int, draw: torch.Generator) -> Tensor:
    """Square patches of 2 radius + 1 pixels, bool [count, 1, height, width] on the generator's device: centres uniform over
    the image, cut off at its borders."""
    rows = torch.randint(height, (count, 1, 1), generator=draw, device=draw.device)
    columns = torch.randint(width, (count, 1, 1), generator=draw, device=draw.device)
    near_row = (torch.arange(height, device=draw.device)[None, :, None] - rows).abs() <= radius
    near_column = (torch.arange(width, device=draw.device)[None, None, :] - columns).abs() <= radius
    return (near_row & near_column)[:, None]


def cuboids(clips: Tensor, how: Perturbation, draw: torch.Generator) -> Tensor:
    """Of clips [N, C, T, H, W] patches in the frames around a random one, cut off at the ends, bool [N, 1, T, H, W]."""
    count, _, length, height, width = clips.shape
    square = patches(count, height, width, how.radius, draw)
    centre = torch.randint(length, (count, 1), generator=draw, device=draw.device)
    frames = (torch.arange(length, device=draw.device) - centre).abs() <= round(how.share * length)
    return square[:, :, None] & frames[:, None, :, None, None]


def balls(clouds: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Which points of each cloud [N, P, axes] lie in a ball around one of them, bool [N, P, 1]; its radius is a share of the
    longest side of the box that holds the cloud."""
    chosen = torch.randint(clouds.shape[1], (len(clouds),), generator=draw, device=draw.device)
    centres = clouds[torch.arange(len(clouds), device=draw.device), chosen]
    sides = (clouds.amax(1) - clouds.amin(1)).amax(1)
    return ((clouds - centres[:, None]).norm(dim=2) <= share * sides[:, None])[..., None]


def spans(words: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Of places that hold a word (bool [N, L]) those around a random one, cut off at the ends of the text, bool [N, L, 1]: of
    n words 2 radius + 1, where the radius is that share of n, rounded. Of no words none."""
    counts, number = words.sum(1, keepdim=True), words.cumsum(1) - 1
    centre = (torch.rand(len(words), 1, generator=draw, device=draw.device) * counts).long()
    return (words & ((number - centre).abs() <= (share * counts).round()))[..., None]


def region(task: Task, soft: Tensor, words: Tensor | None, how: Perturbation, draw: torch.Generator) -> Tensor:
    """Where each softened input may be moved, bool, of a shape that broadcasts to theirs; another one in each."""
    if words is not None:
        return spans(words, how.share, draw)
    if task.space == "points":
        return balls(soft, how.share, draw)
    if soft.dim() == 5:
        return cuboids(soft, how, draw)
    return patches(len(soft), soft.shape[-2], soft.shape[-1], how.radius, draw)


def ranges(task: Task, soft: Tensor, words: Tensor | None) -> Tensor | None:
    """What the bound is a share of: of pixels None, their range is known; else the largest less the smallest value of each
    sample, of its words where it is of words, [N, 1, 1]."""
    if task.space == "pixels":
        return None
    inside = torch.ones_like(soft[..., 0], dtype=torch.bool) if words is None else words
    high, low = (soft.masked_fill(~inside[..., None], end) for end in (-torch.inf, torch.inf))
    return (high.amax((1, 2), keepdim=True) - low.amin((1, 2), keepdim=True)).clamp(min=0)


def perturb(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    known: Tensor,
    patch: Tensor,
    how: Perturbation,
    draw: torch.Generator,
    span: Tensor | None = None,
) -> Tensor:
    """Pixels in 0..1 [N, C, H, W], moved inside their patches by at most `how.eps`, up the sign of the gradient from a random
    start: at zero the divergence has none. `known` is the model's own answer to `x` as logarithms of probabilities [N, C]; the
    model is asked as it stands, and gets no gradients. With `span`, [N, 1, 1], other values than pixels, whose bound is that
    share of it, and which have no other limits."""
    bound: Any = how.eps if span is None else how.eps * span
    step: Any = how.step if span is None else how.step * span
    delta = (torch.rand(x.shape, generator=draw, device=x.device) * 2 - 1) * bound * patch
    for _ in range(how.steps):
        moved = _within(x + delta, span).requires_grad_()
        answer = model(moved).float()
        if how.climb == "kl":
            height = F.kl_div(F.log_softmax(answer, 1), known, reduction="sum", log_target=True)
        else:
            height = F.cross_entropy(answer, known.argmax(1), reduction="sum")
        (grad,) = torch.autograd.grad(height, moved)
        delta = (delta + step * grad.sign()).clamp(-bound, bound) * patch
    return _within(x + delta, span)


def _within(x: Tensor, span: Tensor | None) -> Tensor:
    return x.clamp(0, 1) if span is None else x


def divergences(
    model: nn.Module, samples: Samples, task: Task, how: Perturbation, draw: torch.Generator, masks: int = 1
) -> Tensor:
    """KL(f(x) || f(x')) of each sample in order, in nats, float32 [N] on the CPU, averaged over `masks` patches; in eval
    mode, without augmentation. x is what the task softens a sample to. `draw` is on the device. Raises FloatingPointError
    where one is not finite."""
    model, found = still(model, whole=type(task).harden is not Task.harden), []
    image = isinstance(samples.inputs, Tensor) and samples.inputs.dim() == 4
    for part in batches(samples, AT_ONCE if image else OTHERS):
        batch: Batch = task.collate(part).to(device())
        ask = functools.partial(task.harden, model, batch=batch)
        with torch.no_grad():
            x = task.soften(model, batch)
            known = F.log_softmax(ask(x).float(), 1)
        words = task.words(model, batch) if task.space == "words" else None
        span = ranges(task, x, words)
        total = torch.zeros(len(part), device=x.device)
        for _ in range(masks):
            moved = perturb(ask, x, known, region(task, x, words, how, draw), how, draw, span)
            with torch.no_grad():
                total += F.kl_div(F.log_softmax(ask(moved).float(), 1), known, reduction="none", log_target=True).sum(1)
        found.append((total / masks).cpu())
    values = torch.cat(found)
    check_answers(values.isfinite(), "divergences of the samples")
    return values
