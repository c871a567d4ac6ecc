"""A model held still, for what climbs its inputs again and again: adversarial perturbations, inverted triggers."""

import contextlib
import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm


class _Affine(nn.Module):
    """BatchNorm with known statistics: a scale and a shift of each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean * scale
        if norm.affine:
            scale, shift = scale * norm.weight.detach(), shift * norm.weight.detach() + norm.bias.detach()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        along = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(self.shift.to(x.dtype).view(along), x, self.scale.to(x.dtype).view(along))


def still(model: nn.Module, whole: bool = False) -> nn.Module:
    """A copy in eval mode whose weights get no gradients, BatchNorm folded into the convolution before it, or left as a scale
    and a shift where torch.fx cannot follow the model. Its answers are the model's but for rounding; the gradient of its inputs
    costs half on a CPU, where BatchNorm's backward pass finds the gradients of its weights, wanted or not. With `whole` the
    copy is of the model's own class, for who calls more of it than its forward pass; then nothing is folded."""
    quiet: nn.Module = nn.Sequential(copy.deepcopy(model)).eval()
    if not whole:
        quiet = _folded(quiet)
    for name, layer in list(quiet.named_modules()):
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            quiet.set_submodule(name, _Affine(layer))
    found = quiet.get_submodule("0") if whole else quiet
    return found.eval().requires_grad_(False)


def _folded(quiet: nn.Module) -> nn.Module:
    """With BatchNorm folded where torch.fx can follow the model, else as it is."""
    with contextlib.suppress(Exception):  # torch.fx runs the model's own code on what is no tensor, which may raise anything
        traced = fx.symbolic_trace(quiet)
        called = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
        again = [traced.get_submodule(str(target)) for target, times in called.items() if times > 1]
        if not any(True for layer in again for _ in layer.parameters()):  # else two norms would be folded into one layer
            return fuse(traced, no_trace=True)
    return quiet
