"""bdray table: the rows, attack x defense."""

import argparse
from pathlib import Path
from typing import Any

from bdray.cli._forms import add_forms, form_of
from bdray.layout import complain, say
from bdray.spec import BadInput


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """The command's own words and options."""
    parser = commands.add_parser(
        "table",
        parents=[places],
        help="the rows, attack x defense",
        description="What the seeds of every attack and defense in the store showed, in percent. Victims that did not plant "
        "stand apart, and what lost the target class is flagged.",
    )
    parser.add_argument("words", nargs="*", metavar="path=value", help="only these rows, e.g. attack=blend task.data=cifar10")
    parser.add_argument("--sweep", help="only this sweep's rows")
    parser.add_argument("--sort", metavar="COLUMN", help="by a column, e.g. asr_after, or -der for the largest first")
    add_forms(parser, "full precision, spread in columns of its own")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--columns", metavar="A,B", help="these, by the names in the CSV, e.g. attack,defense,asr_after")
    what.add_argument("--wide", action="store_true", help="every column")
    what.add_argument("--matrix", metavar="COLUMN", help="one value of every attack (a line each) and defense (a column each)")
    parser.add_argument(
        "--sql", metavar="QUERY", help='DuckDB over the rows, e.g. "SELECT attack, avg(asr_after) FROM rows GROUP BY 1"'
    )
    parser.add_argument("--paper", metavar="NAME", help="beside what a paper has published: advrbd or nft")
    parser.add_argument("--all", action="store_true", help="--paper: also what it has published and these rows lack")
    parser.add_argument(
        "--interval", action="store_true", help="with the 95 %% interval of each utility and ASR, from its tests"
    )
    parser.add_argument(
        "--planted",
        type=float,
        default=0.5,
        metavar="ASR",
        help="before, from which on a victim counts as backdoored (0.5)",
    )
    parser.add_argument(
        "--class-budget",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="that the target class may fall by (0.2)",
    )
    parser.add_argument("--picture", metavar="FILE", help="also draw clean utility against ASR, one point a row")
    parser.set_defaults(command=command)


def command(options: argparse.Namespace) -> None:
    """Print it."""
    from bdray.cli._rows import rows_of
    from bdray.judge.validity import Bounds
    from bdray.report import table
    from bdray.report.papers import beside, paper
    from bdray.store.store import Store

    if options.sql and options.sort:
        raise BadInput("got --sort and --sql, expected one of them; write ORDER BY in the query")
    if options.paper and (options.sql or options.sort):
        other = "--sql" if options.sql else "--sort"
        raise BadInput(f"got --paper and {other}, expected one of them; --paper keeps the order of the paper's tables")
    if options.all and not options.paper:
        raise BadInput("got --all without --paper, expected both; the table shows all rows as it is")
    chosen = next((f"--{name}" for name in ("columns", "wide", "matrix") if getattr(options, name)), None)
    against = "--sql" if options.sql else "--paper" if options.paper else "--sort" if options.sort and options.matrix else None
    if chosen and against:
        raise BadInput(f"got {chosen} and {against}, expected one of them; {chosen} is for the table of attacks and defenses")
    published = paper(options.paper) if options.paper else None
    bounds = Bounds(planted=options.planted, class_budget=options.class_budget)
    store = Store(options.store)
    rows, form = rows_of(store, options.sweep, options.words, averaged=not options.sql), form_of(options)
    if published:
        say(beside.render(rows, published, options.all, form, bounds))
    elif options.sql:
        say(table.query(rows, options.sql, form, bounds))
    elif options.matrix:
        say(table.matrix(rows, options.matrix, form, bounds))
    else:
        columns = [name.strip() for name in (options.columns or "").split(",") if name.strip()]
        say(table.render(rows, options.sort, form, bounds, options.interval, columns=columns, wide=options.wide))
    if options.picture:
        from bdray.report.picture import draw

        draw(rows, Path(options.picture), bounds)
        complain(f"picture: {options.picture}")
