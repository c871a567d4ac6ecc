"""bdray store: what the store holds and costs; whether it can be read."""

import argparse
from typing import Any

from bdray.layout import say
from bdray.spec import BadInput, unknown


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """The command's own words and options."""
    parser = commands.add_parser(
        "store",
        parents=[places],
        help="what the store holds and costs; whether it can be read",
        description="With no words: what the store holds, what it costs, which victims no row uses. compact SWEEP: one file of "
        "the rows of a sweep. check: read everything, and a line for each file that is damaged or left over; exit status 1 if "
        "something stays damaged.",
    )
    parser.add_argument("words", nargs="*", metavar="compact SWEEP | check")
    parser.add_argument("--delete", action="store_true", help="check: remove what is damaged or left over, nothing else")
    parser.set_defaults(command=command)


def command(options: argparse.Namespace) -> int:
    """Look, check or compact; the exit status."""
    from bdray.store import keeping
    from bdray.store.store import Store

    action, *sweeps = options.words or ["show"]
    if action not in ("show", "compact", "check"):
        raise BadInput(unknown("store command", action, ["show", "compact", "check"]))
    if len(sweeps) != (action == "compact"):
        got = f"{len(sweeps)} names" if sweeps else "no name"
        raise BadInput(f"store {action}: got {got}, expected {'one of a sweep' if action == 'compact' else 'none'}")
    if options.delete and action != "check":
        raise BadInput(f"got --delete with store {action}, which removes nothing that is needed; it belongs to store check")
    store = Store(options.store)
    if action == "check":
        text, damaged = keeping.check(store, options.delete)
        say(text)
        return int(damaged)
    say(keeping.compact(store, sweeps[0]) if action == "compact" else keeping.show(store))
    return 0
