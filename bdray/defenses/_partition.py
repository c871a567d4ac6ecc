"""AdvrBD's first stage (Algorithm 1): how far a model's answer to each sample moves under an adversarial perturbation inside
a random patch. Poisoned samples move little, since the trigger alone holds them."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdray.finite import check_answers
from bdray.samples import Samples
from bdray.still import still
from bdray.task import Task
from bdray.training import batches, device

AT_ONCE = 512
"""Samples perturbed together."""


class Perturbation(NamedTuple):
    """What Algorithm 1 is given beside the data and the model."""

    radius: int
    """Pixels: the patch is a square of 2 radius + 1."""
    eps: float
    """Bound, of 1."""
    steps: int
    step: float
    """Of 1."""
    climb: Literal["kl", "ce"]
    """What is climbed: the divergence itself, or the cross-entropy to the model's own prediction."""


def patches(count: int, height: int, width: int, radius: int, draw: torch.Generator) -> Tensor:
    """Square patches of 2 radius + 1 pixels, bool [count, 1, height, width] on the generator's device: centres uniform over
    the image, cut off at its borders."""
    rows = torch.randint(height, (count, 1, 1), generator=draw, device=draw.device)
    columns = torch.randint(width, (count, 1, 1), generator=draw, device=draw.device)
    near_row = (torch.arange(height, device=draw.device)[None, :, None] - rows).abs() <= radius
    near_column = (torch.arange(width, device=draw.device)[None, None, :] - columns).abs() <= radius
    return (near_row & near_column)[:, None]


def perturb(model: nn.Module, x: Tensor, known: Tensor, patch: Tensor, how: Perturbation, draw: torch.Generator) -> Tensor:
    """Pixels in 0..1 [N, C, H, W], moved inside their patches by at most `how.eps`, up the sign of the gradient from a random
    start: at zero the divergence has none. `known` is the model's own answer to `x` as logarithms of probabilities [N, C]; the
    model is asked as it stands, and gets no gradients."""
    delta = (torch.rand(x.shape, generator=draw, device=x.device) * 2 - 1) * how.eps * patch
    for _ in range(how.steps):
        moved = (x + delta).clamp(0, 1).requires_grad_()
        answer = model(moved).float()
        if how.climb == "kl":
            height = F.kl_div(F.log_softmax(answer, 1), known, reduction="sum", log_target=True)
        else:
            height = F.cross_entropy(answer, known.argmax(1), reduction="sum")
        (grad,) = torch.autograd.grad(height, moved)
        delta = (delta + how.step * grad.sign()).clamp(-how.eps, how.eps) * patch
    return (x + delta).clamp(0, 1)


def divergences(
    model: nn.Module, samples: Samples, task: Task, how: Perturbation, draw: torch.Generator, masks: int = 1
) -> Tensor:
    """KL(f(x) || f(x')) of each sample in order, in nats, float32 [N] on the CPU, averaged over `masks` patches; in eval
    mode, without augmentation. `draw` is on the device. Raises FloatingPointError where one is not finite."""
    model, found = still(model), []
    for part in batches(samples, AT_ONCE):
        x = task.collate(part).inputs.to(device())
        with torch.no_grad():
            known = F.log_softmax(model(x).float(), 1)
        total = torch.zeros(len(part), device=x.device)
        for _ in range(masks):
            moved = perturb(model, x, known, patches(len(x), x.shape[-2], x.shape[-1], how.radius, draw), how, draw)
            with torch.no_grad():
                total += F.kl_div(F.log_softmax(model(moved).float(), 1), known, reduction="none", log_target=True).sum(1)
        found.append((total / masks).cpu())
    values = torch.cat(found)
    check_answers(values.isfinite(), "divergences of the samples")
    return values
