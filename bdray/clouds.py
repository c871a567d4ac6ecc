"""Clouds: the geometry that attacks, models and defenses share. A cloud is [P, 3], a batch of them [N, P, 3]."""

import torch
from torch import Tensor


def rotation(angles: Tensor) -> Tensor:
    """Matrices [..., 3, 3] that turn a column about x, then about y, then about z, counter-clockwise by angles [..., 3] in
    radians; gradients flow through them."""
    one, zero = torch.ones_like(angles[..., 0]), torch.zeros_like(angles[..., 0])
    (sx, sy, sz), (cx, cy, cz) = angles.sin().unbind(-1), angles.cos().unbind(-1)

    def matrix(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    about_x = matrix((one, zero, zero), (zero, cx, -sx), (zero, sx, cx))
    about_y = matrix((cy, zero, sy), (zero, one, zero), (-sy, zero, cy))
    about_z = matrix((cz, -sz, zero), (sz, cz, zero), (zero, zero, one))
    return about_z @ about_y @ about_x


def turned(x: Tensor, matrix: Tensor) -> Tensor:
    """Points [..., P, 3] turned by matrices [..., 3, 3]. Written out, since a matrix product of many clouds rounds as their
    number has it."""
    rows = [(x * matrix[..., None, row, :]).unbind(-1) for row in range(3)]
    return torch.stack([a + b + c for a, b, c in rows], -1)


def in_unit_sphere(x: Tensor) -> Tensor:
    """Clouds with their centroids at the origin and their farthest points at distance 1."""
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=2).amax(1)[:, None, None].clamp(min=torch.finfo(x.dtype).tiny)


def farthest(x: Tensor, count: int, start: Tensor) -> Tensor:
    """Farthest-point sampling: positions [N, count] of points, each the one that is farthest from all before it; the first is
    `start`, int64 [N]. Of equals it takes the first."""
    found = torch.empty(len(x), count, dtype=torch.int64, device=x.device)
    gap = x.new_full(x.shape[:2], torch.inf)
    at = start.to(x.device)
    for number in range(count):
        found[:, number] = at
        centre = x.gather(1, at[:, None, None].expand(-1, -1, x.shape[2]))
        gap = torch.minimum(gap, (x - centre).square().sum(2))
        at = gap.argmax(1)
    return found


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """Of each cloud's values [N, P, C] those at positions [N, ...]: [N, ..., C]."""
    flat = index.flatten(1)[..., None].expand(-1, -1, x.shape[2])
    return x.gather(1, flat).view(*index.shape, x.shape[2])
