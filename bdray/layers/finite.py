"""What is still a number: a model that diverged answers NaN, which argmax takes for class 0, and no score says so."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def is_finite(model: nn.Module) -> Tensor:
    """Whether every weight and every buffer is, a bool scalar on their device; of any type, half precision too."""
    found = [values.isfinite().all() for part in (model.parameters(), model.buffers()) for values in part]
    return torch.stack(found).all() if found else torch.tensor(True)


def check_finite(model: nn.Module, after: str, cure: str) -> None:
    """Raise FloatingPointError, with these words, for a model that has a weight or a buffer that is NaN or infinite: after the
    last step of a training no loss says so."""
    if not is_finite(model):
        raise FloatingPointError(f"the model's weights or statistics are no longer finite after {after}; {cure}")


def check_answers(finite: Tensor, what: str) -> None:
    """Raise FloatingPointError unless all of these (bool [N]: whether each is finite) are; `what` is a plural of what they
    are."""
    if bad := int((~finite).sum()):
        raise FloatingPointError(
            f"{bad} of {len(finite)} {what} are not finite, so that nothing can be told from them; lower the "
            "learning rate before"
        )


@contextlib.contextmanager
def named(whose: str) -> Iterator[None]:
    """A FloatingPointError from within says who diverged."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"{whose} diverged: {error}") from None
