"""The command line: run, sweep, table, best, figure, store, list. Bad input is one sentence on stderr and status 2; Ctrl-C is
130, SIGTERM 143, SIGHUP 129, with one sentence, too."""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bdray.refusal import printable, shown, without_secrets
from bdray.signals import Ending, orderly
from bdray.spec import BadInput
from bdray.threads import settle, wait_asleep

if TYPE_CHECKING:
    from bdray.experiment import Experiment


def main(words: list[str] | None = None) -> int:
    """Entry point of `bdray` and `python -m bdray`; the exit status."""
    options = _parse(words)
    stopped = f"stopped; nothing is lost: the same command goes on from what {shown(options.store)!r} holds"
    with orderly(stopped, last=words is None) as ending:
        return _ended(options, ending)


def _ended(options: argparse.Namespace, ending: Ending) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {_said(message)}", file=sys.stderr)
            return int(options.command(options) or 0)
    except BadInput as error:
        print(f"bdray: {_said(error)}", file=sys.stderr)
        return 2
    except FloatingPointError as error:  # a training that diverged; its failed row is in the store
        print(f"bdray: {_said(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        ending.say()
        return ending.status
    except BrokenPipeError:  # `bdray table | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _said(what: object) -> str:
    """A sentence without what is secret in an URI, and with every control character but a line's end written out."""
    return "\n".join(printable(line) for line in without_secrets(str(what)).split("\n"))


def _parse(words: list[str] | None) -> argparse.Namespace:
    """Words may stand before, between and after options, which argparse alone does not allow in a subcommand."""
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    stray = [word for word in rest if word.startswith("-") or not hasattr(options, "words")]
    if stray:
        parser.error(f"unrecognized arguments: {_said(' '.join(stray))}")
    if rest:
        options.words += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bdray", description="Evaluate backdoor attacks and defenses at scale.")
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument(
        "--store",
        default=os.environ.get("BDRAY_STORE", "store"),
        metavar="URI",
        help="folder or bucket of rows and victims (BDRAY_STORE, store)",
    )
    places.add_argument(
        "--data",
        default=os.environ.get("BDRAY_DATA", "data"),
        metavar="DIR",
        help="folder of the data sets (BDRAY_DATA, data)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser(
        "run",
        parents=[places],
        help="one experiment",
        description="Run one experiment; with no words the embedded one: digits, blend, NFT.",
    )
    one.add_argument(
        "words",
        nargs="*",
        metavar="path=value",
        help="e.g. task.data=cifar10 attack=sig attack.rate=0.05 defense=nft defense.shots=1 seed=3",
    )
    one.add_argument("--again", metavar="KEY", help="repeat the experiment of a stored row")
    one.set_defaults(command=_run)

    many = commands.add_parser(
        "sweep",
        parents=[places],
        help="what a sweep file lists, on Ray",
        description="Run the missing cells of a sweep; the same command again goes on where it stopped.",
    )
    many.add_argument("file", metavar="FILE", help="e.g. sweeps/demo.py")
    many.add_argument(
        "words", nargs="*", metavar="path=value", help="change the sweep; a list is a grid: 'seed=[0,1,2]' samples=8"
    )
    many.add_argument("--dry-run", action="store_true", help="say what is done, missing and skipped; start nothing")
    many.add_argument("--retry-failed", action="store_true", help="run cells whose row says failed once more")
    many.add_argument("--address", help="of a Ray cluster; this machine otherwise")
    many.set_defaults(command=_sweep)

    show = commands.add_parser(
        "table",
        parents=[places],
        help="the rows, attack x defense",
        description="What the seeds of every attack and defense in the store showed, in percent. Victims that did not plant "
        "stand apart, and what lost the target class is flagged.",
    )
    show.add_argument("words", nargs="*", metavar="path=value", help="only these rows, e.g. attack=blend task.data=cifar10")
    show.add_argument("--sweep", help="only this sweep's rows")
    show.add_argument("--sort", metavar="COLUMN", help="by a column, e.g. asr_after; with a leading - the largest first")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="full precision, spread in columns of its own")
    form.add_argument("--markdown", action="store_true")
    show.add_argument(
        "--sql", metavar="QUERY", help='DuckDB over the rows, e.g. "SELECT attack, avg(asr_after) FROM rows GROUP BY 1"'
    )
    show.add_argument("--paper", metavar="NAME", help="beside what a paper has published: advrbd or nft")
    show.add_argument("--all", action="store_true", help="--paper: also what it has published and these rows lack")
    show.add_argument("--interval", action="store_true", help="with the 95 % interval of each utility and ASR, from its tests")
    show.add_argument(
        "--planted",
        type=float,
        default=0.5,
        metavar="ASR",
        help="before, from which on a victim counts as backdoored (0.5)",
    )
    show.add_argument(
        "--class-budget",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="that the target class may fall by (0.2)",
    )
    show.add_argument("--picture", metavar="FILE", help="also draw clean utility against ASR, one point a row")
    show.set_defaults(command=_table)

    top = commands.add_parser(
        "best",
        parents=[places],
        help="the best settings of a sweep, and the Pareto front",
        description="Rank the settings of a sweep, each judged over all of its victims. Values in percent.",
    )
    top.add_argument("sweep", metavar="SWEEP", help="its name, as in `bdray table --sweep`")
    top.add_argument(
        "--by",
        default="defender",
        help="defender (what a defender can measure), training (the same of a filter, no clean data) or oracle (the true ASR)",
    )
    top.add_argument("--proxy", help="what stands for the ASR; see `bdray list proxies`")
    top.add_argument("--budget", type=float, help="utility that a setting may cost, 0 to 1 (0.05)")
    top.add_argument("--class-budget", type=float, help="that one class may fall by, 0 to 1; each --by has its own")
    top.add_argument("--planted", type=float, default=0.5, metavar="ASR", help="before, below which a victim is left out (0.5)")
    top.add_argument("--judge", default="mean", help="over the victims: mean or worst")
    top.add_argument(
        "--leave-out",
        metavar="PATH",
        help="choose on all victims but those of one attack (or seed, ...), report on these, for each in turn",
    )
    top.add_argument("-n", type=int, default=10, dest="count", help="how many settings to show (10)")
    shape = top.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="0 to 1, full precision")
    shape.add_argument("--markdown", action="store_true")
    top.add_argument("--picture", metavar="FILE", help="also draw utility against what is left of the backdoor")
    top.set_defaults(command=_best)

    plot = commands.add_parser(
        "figure",
        parents=[places],
        help="a figure of AdvrBD, and its numbers",
        description="Draw what the rows of AdvrBD show: divergences of poisoned and clean samples at the first partition; "
        "enhancement, utility and ASR along the iterations; rates, both after the defense over its partition rate.",
    )
    plot.add_argument("kind", metavar="KIND", help="divergences, enhancement or rates")
    plot.add_argument(
        "words", nargs="*", metavar="SWEEP | path=value", help="only this sweep's rows, and only these, e.g. attack=blend"
    )
    plot.add_argument("--out", metavar="FILE", help="of the picture; without it only the numbers are shown")
    numbers = plot.add_mutually_exclusive_group()
    numbers.add_argument("--csv", action="store_true", help="0 to 1, full precision")
    numbers.add_argument("--markdown", action="store_true")
    plot.set_defaults(command=_figure)

    cluster = commands.add_parser("cluster", help="check a cluster file before `ray up`")
    actions = cluster.add_subparsers(required=True, metavar="ACTION")
    look = actions.add_parser(
        "check",
        help="what is wrong with a cluster file",
        description="Say what is wrong with a file for `ray up`, and what it would start; needs no cloud and no network.",
    )
    look.add_argument("file", metavar="FILE", help="e.g. cluster.yaml")
    look.set_defaults(command=_cluster, store="")

    keep = commands.add_parser(
        "store",
        parents=[places],
        help="what the store holds and costs; whether it can be read",
        description="With no words: what the store holds, what it costs, which victims no row uses. compact SWEEP: one file of "
        "the rows of a sweep. check: read everything, and a line for each file that is damaged or left over; exit status 1 if "
        "something stays damaged.",
    )
    keep.add_argument("words", nargs="*", metavar="compact SWEEP | check")
    keep.add_argument("--delete", action="store_true", help="check: remove what is damaged or left over, nothing else")
    keep.set_defaults(command=_store)

    names = commands.add_parser("list", parents=[places], help="every task, data set, model, attack, defense and sweep")
    names.add_argument("kind", nargs="?", help="only these, e.g. attacks")
    names.set_defaults(command=_list)
    return parser


def _run(options: argparse.Namespace) -> None:
    settle()
    from bdray.board import Board
    from bdray.experiment import Experiment, check_data, run
    from bdray.overrides import experiment_config
    from bdray.results import spec_of
    from bdray.store import Store
    from bdray.table import describe

    store, root = Store(options.store), Path(options.data)
    before = None
    if options.again:
        if options.words:
            raise BadInput("got --again and path=value words, expected one of them; --again repeats a row as it was")
        before = store.row(options.again)
        if before is None:
            raise BadInput(
                f"no row {options.again!r} in the store {store.uri!r}; `bdray table --sql 'SELECT key FROM rows'` lists them"
            )
        experiment = Experiment.of(spec_of(before))
    else:
        experiment = Experiment.of(experiment_config(options.words))
    check_data(experiment, root)
    workers = experiment.training.workers
    if workers > 1 and store.victim_about(experiment.victim_key()) is None:
        raise BadInput(
            f"training.workers: got {workers}, but `bdray run` trains in one process; train this victim with `bdray sweep`, or "
            "set training.workers=1"
        )
    store.check_writable()
    sweep = before["sweep"] if before else "runs"
    with _bars(experiment) as bars, Board(store, sweep, experiment.key()) as board:

        def progress(stage: str, step: int, **metrics: float) -> None:
            bars(stage, step, **metrics)
            board(stage, step, **metrics)

        row = run(experiment, store, root, sweep, progress, again=bool(before))
        board.close(row)
    print(describe(row, before))


@contextlib.contextmanager
def _bars(experiment: "Experiment") -> Iterator[Callable[..., None]]:
    """A progress bar that follows each stage in turn; silent without a terminal."""
    from tqdm import tqdm

    defense = experiment.defense
    totals = {"victim": experiment.training.epochs}
    totals["defense"] = getattr(defense, "steps", None) or getattr(defense, "epochs", None) or experiment.training.epochs
    bar = tqdm(total=experiment.training.epochs, desc="working", disable=None, leave=False)
    stages = [""]

    def progress(stage: str, step: int, **metrics: float) -> None:
        if stage != stages[-1]:
            stages.append(stage)
            bar.reset(total=totals.get(stage))
            bar.set_description(stage)
        bar.n = step
        bar.set_postfix({name: f"{value:.3g}" for name, value in metrics.items() if name != "seconds"})

    try:
        yield progress
    finally:
        bar.close()


@contextlib.contextmanager
def _ray_needed(what: str) -> Iterator[None]:
    """`bdray run` works without Ray; what does not says so."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise BadInput(f"{what} Ray, which is not installed; pip install 'ray[default,train,tune]'") from None


def _sweep(options: argparse.Namespace) -> int:
    wait_asleep()
    with _ray_needed("sweeps need"):
        from bdray.launch import launch, plan, read_sweep
    from bdray.overrides import parse
    from bdray.store import Store

    store, root = Store(options.store), Path(options.data)
    sweep = read_sweep(options.file)
    for path, value in parse(options.words):
        sweep = sweep.with_override(path, value)
    found = plan(sweep, store, root, options.retry_failed)
    if not options.dry_run:
        store.check_writable()
    print(found.sentence(), flush=True)
    if options.dry_run:
        for experiment, reason in found.skipped:
            print(f"skipped {experiment.attack.name} x {experiment.defense.name}: {reason}")
        return 0
    launch(found, store, root, options.address)
    what = "settings" if sweep.searches else "cells"
    ended = {"failed": found.ended["failed"] + len(found.failed), "lost": found.ended["lost"]}
    for status, cure in (("failed", "once more: --retry-failed"), ("lost", "the same command tries them again")):
        if ended[status]:
            sql = f"SELECT key, error FROM rows WHERE status = '{status}'"
            why = "" if sweep.searches and status == "lost" else f'why: bdray table --sweep {sweep.name} --sql "{sql}"; '
            print(f"bdray: {ended[status]} {what} {status}; {why}{cure}", file=sys.stderr)
    return 1 if any(ended.values()) else 0


def _table(options: argparse.Namespace) -> None:
    from bdray import paper_table, table
    from bdray.overrides import parse
    from bdray.papers import paper
    from bdray.store import Store
    from bdray.validity import Bounds

    if options.sql and options.sort:
        raise BadInput("got --sort and --sql, expected one of them; write ORDER BY in the query")
    if options.paper and (options.sql or options.sort):
        other = "--sql" if options.sql else "--sort"
        raise BadInput(f"got --paper and {other}, expected one of them; --paper keeps the order of the paper's tables")
    if options.all and not options.paper:
        raise BadInput("got --all without --paper, expected both; the table shows all rows as it is")
    published = paper(options.paper) if options.paper else None
    bounds = Bounds(planted=options.planted, class_budget=options.class_budget)
    store = Store(options.store)
    rows = store.rows(options.sweep)
    if not len(rows):
        where = f"of the sweep {options.sweep!r} " if options.sweep else ""
        raise BadInput(f"no rows {where}in the store {store.uri!r}; make some with `bdray run` or `bdray sweep`")
    rows = table.only(rows, parse(options.words))
    form = "csv" if options.csv else "markdown" if options.markdown else "text"
    if published:
        print(paper_table.render(rows, published, options.all, form, bounds))
    elif options.sql:
        print(table.query(rows, options.sql, form, bounds))
    else:
        print(table.render(rows, options.sort, form, bounds, options.interval))
    if options.picture:
        from bdray.picture import draw

        draw(rows, Path(options.picture), bounds)
        print(f"picture: {options.picture}", file=sys.stderr)


def _best(options: argparse.Namespace) -> None:
    from bdray import best
    from bdray.objective import Objective
    from bdray.proxies import Proxy
    from bdray.store import Store
    from bdray.trials import trials

    fields = ("proxy", "budget", "class_budget", "planted")
    given = {name: getattr(options, name) for name in fields if getattr(options, name) is not None}
    aim = Objective(kind=options.by, judge=options.judge, **given)
    if options.leave_out and options.picture:
        raise BadInput("got --leave-out and --picture, expected one of them; the picture is of the choice on all victims")
    Proxy.of(aim.proxy)
    store = Store(options.store)
    rows = store.rows(options.sweep).to_pylist()
    if not rows:
        raise BadInput(f"no rows of the sweep {options.sweep!r} in the store {store.uri!r}; run it with `bdray sweep`")
    form = "csv" if options.csv else "markdown" if options.markdown else "text"
    if options.leave_out:
        left = best.leave_out(rows, trials(store, options.sweep), aim, options.leave_out)
        print(best.render_left_out(left, aim, options.leave_out, form))
        return
    found = best.best(rows, trials(store, options.sweep), aim)
    print(best.render(found, options.count, form))
    if options.picture:
        best.draw(found, Path(options.picture))
        print(f"picture: {options.picture}", file=sys.stderr)


def _figure(options: argparse.Namespace) -> None:
    from bdray import table
    from bdray.figures import check_kind, figure
    from bdray.overrides import parse
    from bdray.picture import check_name
    from bdray.store import Store

    check_kind(options.kind)
    sweeps = [word for word in options.words if "=" not in word]
    if len(sweeps) > 1:
        raise BadInput(f"got the sweeps {' and '.join(map(repr, sweeps))}, expected one of them; the rest is path=value")
    if options.out:
        check_name(Path(options.out))
    store = Store(options.store)
    rows = store.rows(*sweeps)
    if not len(rows):
        where = f"of the sweep {sweeps[0]!r} " if sweeps else ""
        raise BadInput(f"no rows {where}in the store {store.uri!r}; make some with `bdray run` or `bdray sweep`")
    rows = table.only(rows, parse([word for word in options.words if "=" in word]))
    found = figure(options.kind, rows, store)
    if options.out:
        found.draw(Path(options.out))
        print(f"picture: {options.out}", file=sys.stderr)
    print(found.text("csv" if options.csv else "markdown" if options.markdown else "text"))


def _cluster(options: argparse.Namespace) -> int:
    with _ray_needed("a cluster file is checked with"):
        from bdray.launch.cluster import check

    findings, started = check(Path(options.file))
    errors = [finding for finding in findings if finding.kind == "error"]
    for finding in findings:
        print(f"{'bdray' if finding in errors else finding.kind}: {options.file}: {finding.text}", file=sys.stderr)
    print(f"{options.file}: {len(errors)} errors" if errors else f"{options.file}: {started}")
    return 2 if errors else 0


def _store(options: argparse.Namespace) -> int:
    from bdray import storekeeping
    from bdray.spec import unknown
    from bdray.store import Store

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
        text, damaged = storekeeping.check(store, options.delete)
        print(text)
        return int(damaged)
    print(storekeeping.compact(store, sweeps[0]) if action == "compact" else storekeeping.show(store))
    return 0


def _list(options: argparse.Namespace) -> None:
    from bdray.catalogue import catalogue

    print(catalogue(options.kind))


if __name__ == "__main__":
    sys.exit(main())
