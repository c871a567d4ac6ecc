"""Board: what an experiment or a victim reports, as TensorBoard reads it: `tensorboard --logdir store/tensorboard`.

tensorboard/<sweep>/<key>/events.out.tfevents.<time>     an experiment: `defense/loss` and so on, its scores, its setting
tensorboard/victims/<key>/events.out.tfevents.<time>     a victim: `victim/loss` and so on, its scores
"""

import contextlib
import json
import math
import os
import struct
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from pyarrow import fs

from bdray.spec import BadInput, Config
from bdray.store.row import Row, Scores
from bdray.store.store import Store

now: Callable[[], float] = time.monotonic

EVERY = 5.0
"""Seconds between two writes to a folder, at the least."""
EVERY_PUT = 30.0
"""And to a bucket, where a write is of the whole file."""


class BoardNotWritten(UserWarning):
    """TensorBoard's files cannot be written; the experiment goes on without."""


class Board:
    """A `Progress`. Nothing is written before the first value, so what is found in the store keeps its curves; a repetition
    replaces them. Without tensorboardX nothing is written at all, and no failure to write ever reaches the experiment."""

    def __init__(self, store: Store, sweep: str, key: str) -> None:
        self._files = store.files
        self._folder = f"tensorboard/{sweep}/{key}"
        self._local = isinstance(store.files.system, fs.LocalFileSystem)
        self._made = time.time()
        self._path = ""
        self._bytes = bytearray()
        self._written = -math.inf
        self._over = False

    def __call__(self, stage: str, step: int, **metrics: float) -> None:
        """One report: a value a metric, at this moment."""
        self._add(step, {f"{stage}/{name}": float(value) for name, value in metrics.items()})

    def close(self, row: Row | None = None, scores: Scores | None = None) -> None:
        """The experiment ended with this row, or the victim with these scores; without either it failed. A row that was
        found in the store, not made now, changes nothing."""
        if row is not None and row.status == "done" and row.time.timestamp() >= self._made:
            self._add(0, _measured(vars(row)), _flat(json.loads(row.spec)))
        elif scores is not None and self._path:
            self._add(0, _measured(vars(scores)))
        if self._path and not self._over:
            self._write()
            self._forget()
            self._over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _add(self, step: int, values: Mapping[str, float], setting: Config | None = None) -> None:
        if self._over or not (values or setting):
            return
        try:
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.summary import Summary, hparams
        except ImportError:
            self._over = True
            return
        at = time.time()
        events = []
        if not self._path:
            self._path = f"{self._folder}/events.out.tfevents.{at:.6f}"
            # It tells TensorBoard to forget what an earlier try of this key, in an older file, has said.
            start = SessionLog(status=SessionLog.START)
            events = [Event(wall_time=at, file_version="brain.Event:2"), Event(wall_time=at, step=0, session_log=start)]
        if setting is not None:
            # The third part, a declaration of all settings there are, is left out: it would be that of one run for all runs.
            _, *session = hparams(setting, {})
            events += [Event(wall_time=at, summary=part) for part in session]
        if values:
            points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            events.append(Event(wall_time=at, step=step, summary=Summary(value=points)))
        for event in events:
            self._bytes += _record(event.SerializeToString())
        if now() - self._written >= (EVERY if self._local else EVERY_PUT):
            self._write()

    def _write(self) -> None:
        self._written = now()
        with self._harmless():
            if self._local:
                path = f"{self._files.root}/{self._path}"
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "ab") as file:
                    file.write(self._bytes)
                self._bytes.clear()
            else:
                self._files.put(self._path, bytes(self._bytes))

    def _forget(self) -> None:
        """Delete what earlier tries have written. Not before the end: a TensorBoard that has read a file looks for a newer one
        only as long as the old one is there."""
        with self._harmless():
            for path in self._files.list(self._folder):
                if path != self._path:
                    self._files.delete(path)

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except (OSError, BadInput) as error:
            self._over = True
            self._bytes.clear()
            warnings.warn(f"TensorBoard's files are not written: {error}", BoardNotWritten, stacklevel=2)


def _measured(values: Mapping[str, Any]) -> dict[str, float]:
    """Every finite fraction, as `scores/asr_after`."""
    return {f"scores/{k}": v for k, v in values.items() if isinstance(v, float) and math.isfinite(v)}


def _flat(config: Config, path: str = "") -> Config:
    """A spec by dotted paths, as one types them; a member's name stands at its own path: `defense`, `defense.lr`."""
    found: Config = {}
    for name, value in config.items():
        here = path if name == "name" else f"{path}.{name}" if path else name
        if isinstance(value, dict):
            found |= _flat(value, here)
        elif value is not None:
            found[here] = value if isinstance(value, str | bool | int | float) else json.dumps(value)
    return found


def _record(data: bytes) -> bytes:
    """One record of TensorFlow's TFRecord format: length, checksum of the length, data, checksum of the data."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
