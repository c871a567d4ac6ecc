"""Read the pickles of the CIFAR distributions without running what a pickle may run, or taking more memory than the file has
bytes.

A pickle names functions to call and states to set. Here the only names it may use lead to the few lines below, never
into NumPy: a forged state set on a real dtype or array can make NumPy read memory that is not its own. It also keeps
files written by NumPy 1 (`numpy.core`) and 2 (`numpy._core`), by Python 2 and 3, readable under any version.
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from bdray.spec import BadInput
from bdray.wording import printable


class _Dtype:
    """Stands in for numpy.dtype: numbers of a fixed size, in either byte order."""

    def __init__(self, code: str | bytes, *flags: object) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not re.fullmatch("[biuf][1248]", text):
            raise pickle.UnpicklingError(f"it holds an array of type {_brief(text)}")
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
        raise pickle.UnpicklingError(f"it builds an array from {_brief(kind)}")
    return _Array()


def _empty() -> bytes:
    return b""


_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("__builtin__", "bytes"): _empty,  # how Python 3 writes b"" in protocol 2; other bytes see `_ArraysOnly._encode`
}

_STEPS = 1_000_000
"""How many opcodes a file may have: a few seconds. CIFAR-100's training set, with its 50,000 names, has a fifth of them, and
half where Python 3 wrote it anew in protocol 2."""


_OPCODES = (
    pickle.PROTO,
    pickle.FRAME,
    pickle.STOP,
    pickle.MARK,
    pickle.POP,
    pickle.POP_MARK,
    pickle.NONE,
    pickle.NEWTRUE,
    pickle.NEWFALSE,
    pickle.INT,
    pickle.BININT,
    pickle.BININT1,
    pickle.BININT2,
    pickle.LONG,
    pickle.LONG1,
    pickle.LONG4,
    pickle.FLOAT,
    pickle.BINFLOAT,
    pickle.STRING,
    pickle.BINSTRING,
    pickle.SHORT_BINSTRING,
    pickle.UNICODE,
    pickle.BINUNICODE,
    pickle.SHORT_BINUNICODE,
    pickle.BINUNICODE8,
    pickle.BINBYTES,
    pickle.SHORT_BINBYTES,
    pickle.BINBYTES8,
    pickle.EMPTY_LIST,
    pickle.LIST,
    pickle.APPEND,
    pickle.APPENDS,
    pickle.EMPTY_TUPLE,
    pickle.TUPLE,
    pickle.TUPLE1,
    pickle.TUPLE2,
    pickle.TUPLE3,
    pickle.EMPTY_DICT,
    pickle.SETITEM,
    pickle.SETITEMS,
    pickle.DICT,
    pickle.GLOBAL,
    pickle.STACK_GLOBAL,
    pickle.REDUCE,
    pickle.BUILD,
    pickle.GET,
    pickle.BINGET,
    pickle.LONG_BINGET,
    pickle.PUT,
    pickle.BINPUT,
    pickle.LONG_BINPUT,
    pickle.MEMOIZE,
)
"""What such a pickle is made of. No sets, whose members are hashed, no objects but by `find_class`, no buffers of a claimed
size."""


class _Steps(dict[int, Any]):
    """The calls of the opcodes, each counted where it is looked up."""

    taken = 0

    def __getitem__(self, code: int) -> Any:
        self.taken += 1
        if self.taken > _STEPS:
            raise pickle.UnpicklingError(f"it takes more than {_STEPS:,} steps to read")
        return super().__getitem__(code)


_InPython: Any = pickle._Unpickler  # of which the type checker knows no methods


class _ArraysOnly(_InPython):
    """Allows arrays and what pickle builds itself (dicts, lists, tuples, numbers, texts), nothing else. This is the one
    in Python: its memo is a dict, and that of the one in C an array as long as the largest index that a file claims."""

    dispatch = {code: call for code, call in _InPython.dispatch.items() if code in {opcode[0] for opcode in _OPCODES}}

    def __init__(self, data: bytes) -> None:
        # Not from the file itself: of a claimed length, no more is read than there is.
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.dispatch = _Steps(self.dispatch)
        self._to_encode = len(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {printable(f'{module}.{name}'[:160])}")
        return _ALLOWED[module, name]

    def _encode(self, text: str, encoding: str) -> bytes:
        """Bytes as Python 3 writes them in protocol 2. All of a file's together are no longer than the file, unless it has one
        text encoded again and again, until no memory is left."""
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks for the encoding {_brief(encoding)}")
        self._to_encode -= len(text)
        if self._to_encode < 0:
            raise pickle.UnpicklingError("it makes more bytes than it has")
        return text.encode("latin1")

    def load_build(self) -> None:
        """Only the stand-ins above have a state; a forged one would be set on them, too, where it was a class's."""
        if not isinstance(self.stack[-2], _Dtype | _Array):
            raise pickle.UnpicklingError(f"it sets the state of a {type(self.stack[-2]).__name__}")
        super().load_build()

    def load_setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_dict()

    def _check_keys(self, keys: list[Any]) -> None:
        """A nested tuple of a hundred bytes takes years to hash."""
        if not all(isinstance(key, str | bytes | int) for key in keys):
            raise pickle.UnpicklingError("it has a key that is neither a text nor a number")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict


def _brief(what: object) -> str:
    """A text as it may be shown, and of anything else, which may take years to show, its type."""
    return repr(what[:80]) if isinstance(what, str | bytes) else type(what).__name__


def arrays(path: Path) -> dict[str, Any]:
    """The dict in a pickle of NumPy arrays and plain containers, its keys as texts; texts of Python 2 are bytes.

    Raises BadInput, naming the file.
    """
    try:
        found = _ArraysOnly(path.read_bytes()).load()
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
