"""Masks: what multiplies a layer's weight while a defense looks for a value, and stands in the weight itself at the end."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def put(layer: nn.Module, mask: nn.Module) -> None:
    """From now on the layer's weight is what the mask makes of it."""
    parametrize.register_parametrization(layer, "weight", mask)


def fold(layer: nn.Module) -> None:
    """Take the mask off and leave its work in the weight: the same function, the same state-dict keys in the same order."""
    masked = layer.weight
    assert isinstance(masked, Tensor)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    layer._parameters = {"weight": layer._parameters.pop("weight"), **layer._parameters}  # its place before
    assert isinstance(layer.weight, Tensor)
    with torch.no_grad():
        layer.weight.copy_(masked)
