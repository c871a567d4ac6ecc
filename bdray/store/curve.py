"""Curve: the values of some metrics at each step of a training or a defense, as they are stored."""

from collections.abc import Callable

import pyarrow as pa

CURVES = pa.schema(
    [("key", pa.string()), ("of", pa.string()), ("step", pa.int64()), ("metric", pa.string()), ("value", pa.float64())]
)
"""One value of one metric at one step; `of` is `victim`, `defense` or `truth` (judged by the platform with what no defender
has), `key` the victim's or the row's."""

Progress = Callable[..., None]
"""`progress(stage, step, **metrics)`: a report that also says whose: of the surrogate, the victim or the defense."""


def unwatched(stage: str, step: int, **metrics: float) -> None:
    """A progress that nobody reads."""


class Curve:
    """A report that also keeps what it is told."""

    def __init__(self, key: str, of: str, progress: Progress = unwatched) -> None:
        self.key, self.of, self.progress = key, of, progress
        self.points: list[tuple[int, str, float]] = []

    def __call__(self, step: int, **metrics: float) -> None:
        self.points += [(step, name, float(value)) for name, value in metrics.items()]
        self.progress(self.of, step, **metrics)

    def table(self) -> pa.Table:
        """With the columns of CURVES."""
        rows = [{"key": self.key, "of": self.of, "step": s, "metric": m, "value": v} for s, m, v in self.points]
        return pa.Table.from_pylist(rows, CURVES)
