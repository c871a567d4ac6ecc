"""The rows that a command is about."""

import pyarrow as pa

from bdray.layout import complain
from bdray.overrides import parse
from bdray.report.groups import mixed
from bdray.report.table import only
from bdray.spec import BadInput
from bdray.store.store import Store


def rows_of(store: Store, sweep: str | None, words: list[str], averaged: bool = True) -> pa.Table:
    """Those of a sweep, or of all, whose specs have these `path=value`. Raises BadInput where there are none. Where they are
    `averaged`, a warning says that their data were changed in between."""
    rows = store.rows(sweep)
    if not len(rows):
        where = f"of the sweep {sweep!r} " if sweep else ""
        raise BadInput(f"no rows {where}in the store {store.uri!r}; make some with `bdray run` or `bdray sweep`")
    rows = only(rows, parse(words))
    for sentence in mixed(rows) if averaged else ():
        complain(f"warning: {sentence}")
    return rows
