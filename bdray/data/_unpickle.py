"""Read the pickles of the CIFAR distributions without running what a pickle may run."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from bdray.spec import BadInput

_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Allows NumPy arrays and what pickle builds itself (dicts, lists, tuples, numbers, texts), nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            from numpy._core import multiarray

            return multiarray._reconstruct  # type: ignore[attr-defined]
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return _latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def arrays(path: Path) -> dict[str, Any]:
    """The dict in a pickle of NumPy arrays and plain containers, keys as texts. Raises BadInput, naming the file."""
    try:
        with path.open("rb") as file:
            found = _ArraysOnly(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, UnicodeError) as error:
        raise BadInput(
            f"the file {path} is damaged or is not a batch of arrays ({error}); fetch the data set again"
        ) from None
    if not isinstance(found, dict):
        raise BadInput(f"the file {path} holds a {type(found).__name__}, expected a dict of arrays; fetch the data set again")
    return {k.decode("latin1") if isinstance(k, bytes) else str(k): v for k, v in found.items()}
