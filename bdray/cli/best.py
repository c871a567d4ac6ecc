"""bdray best: the best settings of a sweep, and the Pareto front."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from bdray.cli._forms import add_forms, form_of
from bdray.layout import complain, say
from bdray.spec import BadInput


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """The command's own words and options."""
    parser = commands.add_parser(
        "best",
        parents=[places],
        help="the best settings of a sweep, and the Pareto front",
        description="Rank the settings of a sweep, each judged over all of its victims. Values in percent.",
    )
    parser.add_argument("sweep", metavar="SWEEP", help="its name, as in `bdray table --sweep`")
    parser.add_argument(
        "--by",
        help="defender (what a defender can measure), training (the same of a filter, no clean data) or oracle (the true ASR); "
        "without it defender, or oracle where no row has the proxy",
    )
    parser.add_argument("--proxy", help="what stands for the ASR; see `bdray list proxies`")
    parser.add_argument("--budget", type=float, help="utility that a setting may cost, 0 to 1 (0.05)")
    parser.add_argument("--class-budget", type=float, help="that one class may fall by, 0 to 1; each --by has its own")
    parser.add_argument(
        "--planted", type=float, default=0.5, metavar="ASR", help="before, below which a victim is left out (0.5)"
    )
    parser.add_argument("--judge", default="mean", help="over the victims: mean or worst")
    parser.add_argument(
        "--leave-out",
        metavar="PATH",
        help="choose on all victims but those of one attack (or seed, ...), report on these, for each in turn",
    )
    parser.add_argument("-n", type=int, default=10, dest="count", help="how many settings to show (10)")
    add_forms(parser)
    parser.add_argument("--picture", metavar="FILE", help="also draw utility against what is left of the backdoor")
    parser.set_defaults(command=command)


def command(options: argparse.Namespace) -> None:
    """Rank and print them."""
    from bdray.cli._rows import rows_of
    from bdray.proxies import Proxy
    from bdray.report import best
    from bdray.report.objective import Objective
    from bdray.store.store import Store
    from bdray.store.trials import trials

    fields = ("proxy", "budget", "class_budget", "planted")
    given = {name: getattr(options, name) for name in fields if getattr(options, name) is not None}
    aim = Objective(kind=options.by or "defender", judge=options.judge, **given)
    if options.leave_out and options.picture:
        raise BadInput("got --leave-out and --picture, expected one of them; the picture is of the choice on all victims")
    Proxy.of(aim.proxy)
    store = Store(options.store)
    rows = rows_of(store, options.sweep, []).to_pylist()
    tried = trials(store, options.sweep)
    if options.leave_out:
        left = best.leave_out(rows, tried, aim, options.leave_out)
        say(best.render_left_out(left, aim, options.leave_out, form_of(options)))
        return
    try:
        found = best.best(rows, tried, aim)
    except best.Unrankable:
        if options.by:
            raise
        # A grid measures no proxies: what is left to rank by is the truth, and the table says so.
        complain(f"warning: no row has the proxy {aim.proxy!r}, which a defender needs; ranked by the oracle, which none has")
        found = best.best(rows, tried, replace(aim, kind="oracle"))
    say(best.render(found, options.count, form_of(options)))
    if options.picture:
        best.draw(found, Path(options.picture))
        complain(f"picture: {options.picture}")
