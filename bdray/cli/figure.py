"""bdray figure: a figure, and its numbers."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdray.cli._forms import add_forms, form_of
from bdray.layout import complain, say
from bdray.spec import BadInput
from bdray.threads import settle

if TYPE_CHECKING:
    from bdray.report.figures import Figure


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """The command's own words and options."""
    parser = commands.add_parser(
        "figure",
        parents=[places],
        help="a figure, and its numbers",
        description="Draw what an attack does: samples of the victim with this key, clean and triggered. Or what the rows of "
        "AdvrBD show: divergences of poisoned and clean samples at the first partition; enhancement, utility and ASR "
        "along the iterations; rates, both after the defense over its partition rate.",
    )
    parser.add_argument("kind", metavar="KIND", help="samples, divergences, enhancement or rates")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="KEY | SWEEP | path=value",
        help="of samples: a victim's key, or that of a row on it; else only this sweep's rows, and only these, as attack=blend",
    )
    parser.add_argument("--out", metavar="FILE", help="of the picture; without it only the numbers are shown")
    add_forms(parser)
    parser.set_defaults(command=command)


def command(options: argparse.Namespace) -> None:
    """Print its numbers, and draw it."""
    from bdray.report.figures import check_kind
    from bdray.report.picture import check_name

    check_kind(options.kind)
    if options.out:
        check_name(Path(options.out))
    found = (_of_victim if options.kind == "samples" else _of_rows)(options)
    if options.out:
        found.draw(Path(options.out))
        complain(f"picture: {options.out}")
    say(found.text(form_of(options)))


def _of_victim(options: argparse.Namespace) -> "Figure":
    settle()
    from bdray.bench import read_anew
    from bdray.report.figures.samples import figure_of
    from bdray.store.filesystems import data_folder
    from bdray.store.store import Store

    if len(options.words) != 1 or "=" in options.words[0]:
        raise BadInput(
            f"got {' '.join(options.words) or 'nothing'} after `samples`, expected the key of a victim or of a row on it; "
            "`bdray table --sql 'SELECT attack, victim, key FROM rows'` lists them"
        )
    store, root = Store(options.store), data_folder(options.data)
    read_anew()
    return figure_of(options.words[0], store, root)


def _of_rows(options: argparse.Namespace) -> "Figure":
    from bdray.cli._rows import rows_of
    from bdray.report.figures import figure
    from bdray.store.store import Store

    sweeps = [word for word in options.words if "=" not in word]
    if len(sweeps) > 1:
        raise BadInput(f"got the sweeps {' and '.join(map(repr, sweeps))}, expected one of them; the rest is path=value")
    store = Store(options.store)
    rows = rows_of(store, next(iter(sweeps), None), [word for word in options.words if "=" in word])
    return figure(options.kind, rows, store)
