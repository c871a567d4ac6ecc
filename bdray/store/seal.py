"""Seals: the SHA-256 of a Parquet file in the file itself, so that no flipped bit is read for a value.

The seal stands between the last page and the footer. Nothing points there, so every reader of Parquet passes over it, and who
writes the table anew leaves it out.
"""

import hashlib

MARK = b"\x89bdray-sha256\r\n"
"""Where a seal begins."""
PLAIN, ROWS = b"tabl", b"rows"
"""What its writer vouches for: the bytes, or also that every row is what its spec says (`bdray.store.rows.faults`)."""
_TAIL = 8
"""Bytes after a Parquet footer: its length and PAR1."""


def sealed(data: bytes, note: bytes = PLAIN) -> bytes:
    """A Parquet file with a seal, in place of none."""
    at = len(data) - _TAIL - int.from_bytes(data[-_TAIL:-4], "little")
    return data[:at] + MARK + note + _digest(data[:at], data[at:], note) + data[at:]


def note_of(data: bytes) -> bytes | None:
    """What the seal of a file vouches for; None for a file that has none. Raises ValueError where the file is not what was
    sealed."""
    at = data.rfind(MARK)
    if at < 0:
        return None
    end = at + len(MARK) + len(PLAIN) + hashlib.sha256().digest_size
    note = data[at + len(MARK) : at + len(MARK) + len(PLAIN)]
    if data[at + len(MARK) + len(note) : end] != _digest(data[:at], data[end:], note):
        raise ValueError("is not what was written: its SHA-256 is another one")
    return note


def _digest(before: bytes, after: bytes, note: bytes) -> bytes:
    found = hashlib.sha256(before)
    for part in (after, note):
        found.update(part)
    return found.digest()
