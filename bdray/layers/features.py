"""What a model has made of its inputs before it classifies them."""

from typing import Any

from torch import Tensor, nn


def head(model: nn.Module) -> nn.Linear | None:
    """The last linear layer, None where there is none."""
    return next((m for m in reversed(list(model.modules())) if isinstance(m, nn.Linear)), None)


def features(model: nn.Module, inputs: Any) -> Tensor:
    """What enters the last linear layer, [N, features], of model-ready inputs; gradients flow through it."""
    seen: list[Tensor] = []
    layer = head(model)
    assert layer is not None
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        model(inputs)
    finally:
        hook.remove()
    return seen[-1].flatten(1)
