"""Channels: how much each output channel of a convolution and the BatchNorm after it can stretch its input, as Zheng et al.
2022 (CLP, ECCV) bound it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def pairs(model: nn.Module, inputs: Any) -> list[tuple[str, nn.Module, nn.Module]]:
    """`met`, of a model that takes inputs (any values) and nothing else."""
    return met(model, lambda: model(inputs))


def met(model: nn.Module, once: Callable[[], Any]) -> list[tuple[str, nn.Module, nn.Module]]:
    """Name of the BatchNorm, convolution and BatchNorm, for every BatchNorm that gets a convolution's output itself, found by
    running the model in eval mode, which `once` does: what stands next to what in the code proves nothing.

    The authors take the module registered before a BatchNorm, which is wrong where the norm comes first (PreAct nets).
    """
    outputs: list[tuple[Tensor, nn.Module]] = []
    found: dict[str, tuple[nn.Module, nn.Module]] = {}

    def produced(module: nn.Module, _: Any, output: Tensor) -> None:
        outputs.append((output, module))  # held until the end, so that no other tensor can be taken for it

    def norm(name: str) -> Any:
        def got(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            source = next((conv for output, conv in outputs if output is arguments[0]), None)
            if source is not None:
                found[name] = (source, module)

        return got

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
            hooks.append(module.register_forward_hook(produced))
        elif isinstance(module, _BatchNorm) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(norm(name)))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            once()
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return [(name, *found[name]) for name, _ in model.named_modules() if name in found]


def lipschitz(conv: nn.Module, norm: nn.Module) -> Tensor:
    """The upper bound of each output channel's Lipschitz constant, float [channels]: the largest singular value of the
    channel's kernel as a matrix (channels in x positions), times the factor that BatchNorm puts on the channel."""
    weight, variance = conv.weight.detach(), norm.running_var  # type: ignore[operator]
    factor = (variance + norm.eps).rsqrt()  # type: ignore[operator]
    if norm.weight is not None:
        factor = factor * norm.weight.detach().abs()  # type: ignore[operator]
    return torch.linalg.matrix_norm(weight.flatten(2), ord=2) * factor
