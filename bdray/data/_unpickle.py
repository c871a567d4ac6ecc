"""Read the pickles of the CIFAR distributions without running what a pickle may run.

A pickle names functions to call and states to set. Here the only names it may use lead to the few lines below, never
into NumPy: a forged state set on a real dtype or array can make NumPy read memory that is not its own. It also keeps
files written by NumPy 1 (`numpy.core`) and 2 (`numpy._core`), by Python 2 and 3, readable under any version.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from bdray.spec import BadInput


class _Dtype:
    """Stands in for numpy.dtype: numbers of a fixed size, in either byte order."""

    def __init__(self, code: str | bytes, *flags: object) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not re.fullmatch("[biuf][1248]", text):
            raise pickle.UnpicklingError(f"it holds an array of type {text!r}")
        self.value = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in (">", b">"):
            self.value = self.value.newbyteorder(">")


class _Array:
    """Stands in for numpy.ndarray; `value` is the array once its state is set."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if fortran else "C")


def _reconstruct(kind: type, *shape_and_code: object) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError(f"it builds an array from {kind!r}")
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _empty() -> bytes:
    return b""


_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in protocol 2,
    ("__builtin__", "bytes"): _empty,  # and b""
}


class _ArraysOnly(pickle.Unpickler):
    """Allows arrays and what pickle builds itself (dicts, lists, tuples, numbers, texts), nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def arrays(path: Path) -> dict[str, Any]:
    """The dict in a pickle of NumPy arrays and plain containers, its keys as texts; texts of Python 2 are bytes.

    Raises BadInput, naming the file.
    """
    try:
        with path.open("rb") as file:
            found = _ArraysOnly(file, encoding="bytes").load()
        if isinstance(found, dict):
            found = {_text(key): value.value if isinstance(value, _Array) else value for key, value in found.items()}
    except Exception as error:  # a cut or forged pickle can raise nearly anything
        raise BadInput(
            f"the file {path} is damaged or is not a batch of arrays ({str(error) or type(error).__name__}); "
            "fetch the data set again"
        ) from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise BadInput(f"the file {path} holds a {kind}, expected a dict of arrays; fetch the data set again")
    return found


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)
