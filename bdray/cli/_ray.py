"""What needs Ray."""

import contextlib
from collections.abc import Iterator

from bdray.spec import BadInput


@contextlib.contextmanager
def ray_needed(what: str) -> Iterator[None]:
    """`bdray run` works without Ray; what does not says so."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise BadInput(f"{what} Ray, which is not installed; pip install 'ray[default,train,tune]'") from None
