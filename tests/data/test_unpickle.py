"""The reader of CIFAR's pickles: every version's files read, a pickle that would run something refused, unrun."""

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdray.data import _unpickle
from bdray.data._unpickle import arrays
from bdray.spec import BadInput

# As written by the real thing. The first by cPickle of Python 2.7.18 with NumPy 1.16.6.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x14testing batch 1 of 1q\x03U\x06labelsq\x04]q\x05(K\x01K\teU\x04dataq\x06"
    b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t(K\x01K\x02K\x03\x86cnumpy"
    b"\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01"
    b"\x02\x03\x04\x05tbU\tfilenamesq\x0c]q\r(U\x05a.pngq\x0eU\x00eu."
)
# A column-major, big-endian array, the same way.
PYTHON_2_FORTRAN = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq"
    b"\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02i4K\x00K\x01\x87Rq\x07(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
    b"\xffK\x00tb\x88U\x18\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x02\x00\x00\x00\x05"
    b"tbu."
)
# Python 3.11 with NumPy 1.26.4, protocol 2: bytes go through _codecs.encode, empty ones through __builtin__.bytes.
NUMPY_1 = (
    b"\x80\x02}q\x00(c_codecs\nencode\nq\x01X\x04\x00\x00\x00dataq\x02X\x06\x00\x00\x00latin1q\x03\x86q\x04Rq\x05cnumpy"
    b".core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85q\x08h\x01X\x01\x00\x00\x00bq\th\x03\x86q\nRq"
    b"\x0b\x87q\x0cRq\r(K\x01K\x02K\x03\x86q\x0ecnumpy\ndtype\nq\x0fX\x02\x00\x00\x00u1q\x10\x89\x88\x87q\x11Rq\x12(K\x03"
    b"X\x01\x00\x00\x00|q\x13NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x14b\x89h\x01X\x06\x00\x00\x00\x00\x01\x02\x03"
    b"\x04\x05q\x15h\x03\x86q\x16Rq\x17tq\x18bh\x01X\x06\x00\x00\x00labelsq\x19h\x03\x86q\x1aRq\x1b]q\x1c(K\x01K\teh\x01X"
    b'\t\x00\x00\x00filenamesq\x1dh\x03\x86q\x1eRq\x1f]q (h\x01X\x05\x00\x00\x00a.pngq!h\x03\x86q"Rq#c__builtin__\nbyte'
    b"s\nq$)Rq%eu."
)
VALUE = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 9], b"filenames": [b"a.png", b""]}
NOW = pickle.dumps(VALUE, protocol=2)


def read(tmp_path: Path, content: bytes) -> dict[str, Any]:
    path = tmp_path / "suspect"
    path.write_bytes(content)
    return arrays(path)


@pytest.mark.parametrize("content", [PYTHON_2, NUMPY_1, NOW], ids=["python2", "numpy1", "now"])
def test_reads_every_version(tmp_path: Path, content: bytes) -> None:
    found = read(tmp_path, content)
    assert found["data"].dtype == np.uint8
    np.testing.assert_array_equal(found["data"], VALUE[b"data"])
    assert found["labels"] == [1, 9]
    assert found["filenames"] == [b"a.png", b""]


def test_the_current_numpy_names_its_own_module() -> None:
    module = b"numpy._core.multiarray" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else b"numpy.core.multiarray"
    assert module in NOW


def test_keeps_byte_order_and_axis_order(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, PYTHON_2_FORTRAN)["data"], [[0, 1, 2], [3, 4, 5]])
    for array in (np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))):
        np.testing.assert_array_equal(read(tmp_path, pickle.dumps({"data": array}, 2))["data"], array)


class Call:
    """Pickles as a call of any function by name, whether it can be imported here or not."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.name, self.arguments = name, arguments

    def pickled(self) -> bytes:
        module, _, name = self.name.rpartition(".")
        arguments = pickle.dumps(self.arguments, 2)[2:-1]  # without PROTO and STOP
        return b"\x80\x02}U\x04datac" + f"{module}\n{name}\n".encode() + arguments + b"Rs."


def test_the_attack_of_these_tests_works(tmp_path: Path) -> None:
    """What the next test sees refused does run in pickle itself."""
    pickle.loads(Call("os.system", f"touch {tmp_path / 'ran'}").pickled())
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("os.system", "touch {ran}"),
        ("posix.system", "touch {ran}"),
        ("subprocess.getoutput", "touch {ran}"),
        ("builtins.eval", "open({ran!r}, 'w')"),
        ("__builtin__.eval", "open({ran!r}, 'w')"),
        ("builtins.exec", "open({ran!r}, 'w')"),
        ("builtins.getattr", "{ran}"),
        ("numpy.load", "{ran}"),
        ("numpy.savetxt", "{ran}"),
        ("numpy.memmap", "{ran}"),
        ("numpy.core.multiarray.fromfile", "{ran}"),
        ("numpy._core.multiarray.fromfile", "{ran}"),
        ("numpy.core.multiarray.scalar", "{ran}"),
        ("numpy.testing._private.utils.runstring", "open({ran!r}, 'w')"),
        ("numpy.ndarray.tofile", "{ran}"),
        ("bdray.data._unpickle.Path", "{ran}"),
        ("_codecs.lookup", "{ran}"),
    ],
)
def test_refuses_every_other_name(tmp_path: Path, name: str, argument: str) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(BadInput, match="suspect") as caught:
        read(tmp_path, Call(name, argument.format(ran=str(ran))).pickled())
    assert f"asks for {name}" in str(caught.value)
    assert not ran.exists()


def test_refuses_reduce_of_an_object(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            import os

            return os.system, (f"touch {tmp_path / 'ran'}",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for value in (Evil(), {"data": Evil()}, [Evil()]):
            with pytest.raises(BadInput, match="system"):
                read(tmp_path, pickle.dumps(value, protocol))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("code", ["O", "O8", "V8", "U4", "S9999", "u1,O", "M8[s]", "c16", ""])
def test_refuses_arrays_of_anything_but_numbers(tmp_path: Path, code: str) -> None:
    forged = PYTHON_2.replace(b"U\x02u1", b"U" + bytes([len(code)]) + code.encode())
    with pytest.raises(BadInput, match=r"suspect .* array of type"):
        read(tmp_path, forged)


def test_refuses_a_forged_state_of_a_real_dtype(tmp_path: Path) -> None:
    """Raw bytes taken for object pointers crash NumPy or worse; here the flags of the state change nothing."""
    forged = PYTHON_2.replace(b"J\xff\xff\xff\xffK\x00tb", b"J\xff\xff\xff\xffK\x3ftb")
    assert forged != PYTHON_2
    assert read(tmp_path, forged)["data"].dtype == np.uint8


def test_does_not_build_arrays_from_other_classes(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="builds an array"):
        read(tmp_path, PYTHON_2.replace(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"))


def test_refuses_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="rot13"):
        read(tmp_path, NUMPY_1.replace(b"\x06\x00\x00\x00latin1", b"\x05\x00\x00\x00rot13"))


@pytest.mark.parametrize("content", [PYTHON_2, NUMPY_1, NOW], ids=["python2", "numpy1", "now"])
def test_truncated_anywhere_is_bad_input(tmp_path: Path, content: bytes) -> None:
    for end in range(len(content)):
        with pytest.raises(BadInput, match="suspect"):
            read(tmp_path, content[:end])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x04\x8f.", ""),  # a set, whose members are hashed
        (b"\x80\x04(\x91.", ""),  # a frozen one
        (b"\x80\x05\x96\x04\x00\x00\x00\x00\x00\x00\x00abcd.", ""),  # a buffer
        (b"\x80\x02c_codecs\nencode\n)\x81.", ""),  # an object by its class
        (b"\x80\x02c_codecs\nencode\n}b.", "sets the state of a method"),
        (b"\x80\x02cnumpy\nndarray\n}b.", "sets the state of a type"),
        (b"\x80\x02}(K\x01K\x02\x86K\x03u.", "neither a text nor a number"),
        (b"\x80\x02}K\x01K\x02\x86K\x03s.", "neither a text nor a number"),
        (b"(K\x01K\x02\x86K\x03d.", "neither a text nor a number"),
        (b"\x80\x04B\xff\xff\xff\x7fab.", ""),  # two gigabytes of bytes, it says
    ],
)
def test_refuses_what_no_such_file_is_made_of(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=f"suspect.*{said}"):
        read(tmp_path, content)


def test_a_claimed_index_takes_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        assert read(tmp_path, b"\x80\x02}r\xff\xff\xff\x1f.") == {}
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_holds_something_else(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"suspect holds a list, expected a dict"):
        read(tmp_path, pickle.dumps([1, 2]))


def test_array_without_its_bytes(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="suspect"):
        read(tmp_path, PYTHON_2.replace(b"U\x06\x00\x01\x02\x03\x04\x05", b"U\x05\x00\x01\x02\x03\x04"))


def test_a_small_file_cannot_take_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists in lists, two bytes each."""
    monkeypatch.setattr(_unpickle, "_STEPS", 1_000)
    with pytest.raises(BadInput, match=r"suspect .* more than 1,000 steps"):
        read(tmp_path, b"]" * 1_000 + b"a" * 999 + b".")


def test_a_small_file_cannot_take_all_memory(tmp_path: Path) -> None:
    """One text, made bytes ten thousand times."""
    text = b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000
    again = b"h\x00h\x01h\x02\x86R"
    forged = b"\x80\x02]c_codecs\nencode\nq\x00" + text + b"q\x01X\x06\x00\x00\x00latin1q\x02000(" + again * 10_000 + b"e."
    with pytest.raises(BadInput, match=r"suspect .* more bytes than it has"):
        read(tmp_path, forged)


def test_as_many_names_as_the_largest_batch_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of CIFAR-100's training set, written anew by Python 3, which calls a function for each name."""
    monkeypatch.setattr(_unpickle, "_STEPS", _unpickle._STEPS // 10)
    names = [b"%d" % number for number in range(5_000)]
    batch = {b"filenames": names, b"fine_labels": [1] * 5_000, b"coarse_labels": [1] * 5_000}
    assert read(tmp_path, pickle.dumps(batch, protocol=2))["filenames"] == names
