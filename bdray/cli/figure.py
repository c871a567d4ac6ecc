"""bdray figure: a figure, and its numbers."""

import argparse
from pathlib import Path
from typing import Any

from bdray.cli._forms import add_forms, form_of
from bdray.layout import complain, say
from bdray.spec import BadInput


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """The command's own words and options."""
    parser = commands.add_parser(
        "figure",
        parents=[places],
        help="a figure of AdvrBD, and its numbers",
        description="Draw what the rows of AdvrBD show: divergences of poisoned and clean samples at the first partition; "
        "enhancement, utility and ASR along the iterations; rates, both after the defense over its partition rate.",
    )
    parser.add_argument("kind", metavar="KIND", help="divergences, enhancement or rates")
    parser.add_argument(
        "words", nargs="*", metavar="SWEEP | path=value", help="only this sweep's rows, and only these, e.g. attack=blend"
    )
    parser.add_argument("--out", metavar="FILE", help="of the picture; without it only the numbers are shown")
    add_forms(parser)
    parser.set_defaults(command=command)


def command(options: argparse.Namespace) -> None:
    """Print its numbers, and draw it."""
    from bdray.cli._rows import rows_of
    from bdray.report.figures import check_kind, figure
    from bdray.report.picture import check_name
    from bdray.store.store import Store

    check_kind(options.kind)
    sweeps = [word for word in options.words if "=" not in word]
    if len(sweeps) > 1:
        raise BadInput(f"got the sweeps {' and '.join(map(repr, sweeps))}, expected one of them; the rest is path=value")
    if options.out:
        check_name(Path(options.out))
    store = Store(options.store)
    rows = rows_of(store, next(iter(sweeps), None), [word for word in options.words if "=" in word])
    found = figure(options.kind, rows, store)
    if options.out:
        found.draw(Path(options.out))
        complain(f"picture: {options.out}")
    say(found.text(form_of(options)))
