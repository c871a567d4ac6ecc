"""Figure: a picture of rows, and the numbers behind it; every other module here is one figure.

A figure's module says of which defense it draws the finished rows (`DEFENSE`), and makes it (`figure(rows, store)`): from rows
with their experiment's dict as `config`, and from the tables that the store has of them.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bdray.layout import align, page, percent, to_csv
from bdray.report.groups import identity
from bdray.report.picture import check_name, save
from bdray.spec import BadInput, unknown
from bdray.store.store import Store


@dataclass(frozen=True)
class Figure:
    """A picture and its numbers."""

    about: str
    """What the numbers are, in words."""
    heads: dict[str, str]
    """Of the text, by the records' columns."""
    records: list[dict[str, Any]]
    """Shares 0 to 1. A column that also has a `_least` and a `_most` is a share, the mean over n seeds."""
    notes: list[str]
    sketch: Callable[[], Any]
    """Makes the matplotlib figure."""

    def text(self, form: str) -> str:
        """The numbers as text, markdown (shares in percent) or CSV (0 to 1, full precision)."""
        if form == "csv":
            return to_csv(self.records[0], [list(record.values()) for record in self.records])
        lines = [[_cell(record, name) for name in self.heads] for record in self.records]
        aligns = ["left", *["right"] * (len(self.heads) - 1)]
        return page(form, [self.about], align(list(self.heads.values()), lines, form, aligns), self.notes)

    def draw(self, path: Path) -> None:
        """Write the picture. Raises BadInput for a file that cannot be written."""
        check_name(path)
        save(self.sketch(), path)


def names() -> list[str]:
    """Every figure's name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def check_kind(kind: str) -> None:
    """Raise BadInput for what is no figure's name."""
    if kind not in names():
        raise BadInput(unknown("figure", kind, names()))


def figure(kind: str, rows: pa.Table, store: Store) -> Figure:
    """The figure of this name, of those of the rows that it is about. Raises BadInput where there is nothing to draw, or too
    much."""
    check_kind(kind)
    member = importlib.import_module(f"{__name__}.{kind}")
    mine = rows.filter((pc.field("defense") == member.DEFENSE) & (pc.field("status") == "done")).to_pylist()
    if not mine:
        raise BadInput(
            f"no finished row of the defense {member.DEFENSE!r} among {len(rows)} rows; run one with "
            f"`bdray run defense={member.DEFENSE}`"
        )
    found: Figure = member.figure([{**row, "config": identity(row)} for row in mine], store)
    return found


def _cell(record: dict[str, Any], name: str) -> str:
    value = record[name]
    if value is None or not isinstance(value, float):
        return "" if value is None else str(value)
    if f"{name}_least" not in record:
        return f"{value:.4g}"
    ends = f" [{percent(record[f'{name}_least'])}, {percent(record[f'{name}_most'])}]" if record["n"] > 1 else ""
    return percent(value) + ends
