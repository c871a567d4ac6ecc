"""The command line: run, sweep, table, best, figure, store, list. Bad input is one sentence on stderr and status 2, output that
cannot be written 1; Ctrl-C is 130, SIGTERM 143, SIGHUP 129, with one sentence, too."""

import argparse
import contextlib
import difflib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import bdray
from bdray.layout import CannotPrint, complain, entries, prose, safe, say, silence, streams
from bdray.signals import Ending, orderly
from bdray.spec import BadInput, unknown
from bdray.store.refusal import shown, without_secrets
from bdray.threads import settle, wait_asleep
from bdray.wording import sentence

if TYPE_CHECKING:
    from bdray.experiment import Experiment


def main(words: list[str] | None = None) -> int:
    """Entry point of `bdray` and `python -m bdray`; the exit status."""
    try:
        with streams():
            return _main(words)
    except BrokenPipeError:  # `bdray table | head`
        silence()
        return 0
    except CannotPrint as error:
        silence()
        complain(f"bdray: {error}")
        return 1


def _main(words: list[str] | None) -> int:
    options = _parse(words)
    stopped = f"stopped; nothing is lost: the same command goes on from what {shown(options.store)!r} holds"
    with orderly(stopped, last=words is None) as ending:
        return _ended(options, ending)


def _ended(options: argparse.Namespace, ending: Ending) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: complain(f"warning: {without_secrets(str(message))}")
            _check_empty(options)
            return int(options.command(options) or 0)
    except CannotPrint:
        raise
    except BadInput as error:
        complain(f"bdray: {without_secrets(str(error))}")
        return 2
    except FloatingPointError as error:  # a training that diverged; its failed row is in the store
        complain(f"bdray: {without_secrets(str(error))}")
        return 1
    except KeyboardInterrupt:
        ending.say()
        return ending.status


EXAMPLES = {
    "bdray run": "one experiment: digits, Blend, NFT",
    "bdray run attack=sig defense=abl seed=3": "other parts; any field is path=value",
    "bdray sweep sweeps/demo.py": "many of them, on Ray",
    "bdray table --sweep demo": "what they showed",
    "bdray best demo": "the settings of its defenses, ranked",
    "bdray figure divergences demo": "the figures of AdvrBD",
    "bdray store check": "whether what is stored can be read",
    "bdray cluster check cluster.yaml": "whether a cluster file is sound",
    "bdray list defense nft": "the fields of one defense",
}


def _check_empty(options: argparse.Namespace) -> None:
    """Raise BadInput for an option that is there and says nothing, as `--again "$KEY"` does in a script without KEY; put the
    home folder in place of `~` in names of files, where the shell left it, as in --out=~/x.png."""
    for name, value in vars(options).items():
        if value == "" and name not in ("store", "data"):  # which are refused where they are used
            raise BadInput(f"got an empty {name!r}, expected a value; give one, or leave it out")
        if name in ("file", "out", "picture") and value and value[0] == "~":
            from bdray.store.filesystems import home

            setattr(options, name, home(value))


class _Parser(argparse.ArgumentParser):
    """argparse's, whose sentence has what was typed in it."""

    def error(self, message: str) -> NoReturn:
        super().error(sentence(message))


def _parse(words: list[str] | None) -> argparse.Namespace:
    """Words may stand before, between and after options, which argparse alone does not allow in a subcommand."""
    parser, commands = _parser()
    words = _with_sort(sys.argv[1:] if words is None else words)
    if not words:
        return argparse.Namespace(command=_help, store="")
    if words[0][:1] != "-" and words[0] not in commands.choices:
        parser.error(unknown("command", words[0], commands.choices))
    options, rest = parser.parse_known_args(words)
    stray = [word for word in rest if word.startswith("-") or not hasattr(options, "words")]
    if stray:
        command = next(word for word in words if word in commands.choices)
        known = re.findall(r"--?[a-z][\w-]*", commands.choices[command].format_usage())
        near = difflib.get_close_matches(stray[0].partition("=")[0], known, n=1)
        said = without_secrets(" ".join(stray))
        parser.error(f"unrecognized arguments: {said}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if rest:
        options.words += rest
    return options


def _with_sort(words: list[str]) -> list[str]:
    """With `--sort=-der` in place of `--sort -der`, in which argparse takes the column for an option."""
    found: list[str] = []
    for word in words:
        if found[-1:] == ["--sort"] and re.fullmatch("-[a-z][a-z_]+", word):
            found[-1] = f"--sort={word}"
        else:
            found.append(word)
    return found


def _help(options: argparse.Namespace) -> None:
    lines = ["bdray evaluates backdoor attacks and defenses on deep networks.", "", *entries(list(EXAMPLES.items()))]
    say("\n".join([*lines, "", "`bdray COMMAND --help` says more; README.md has the rest."]))


def _parser() -> tuple[argparse.ArgumentParser, Any]:
    """The parser, and its commands by name in `choices`."""
    parser = _Parser(prog="bdray", description="Evaluate backdoor attacks and defenses at scale.")
    parser.add_argument("--version", action="version", version=f"bdray {bdray.__version__}")
    places = _Parser(add_help=False)
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
    show.add_argument("--sort", metavar="COLUMN", help="by a column, e.g. asr_after, or -der for the largest first")
    _add_forms(show, "full precision, spread in columns of its own")
    what = show.add_mutually_exclusive_group()
    what.add_argument("--columns", metavar="A,B", help="these, by the names in the CSV, e.g. attack,defense,asr_after")
    what.add_argument("--wide", action="store_true", help="every column")
    what.add_argument("--matrix", metavar="COLUMN", help="one value of every attack (a line each) and defense (a column each)")
    show.add_argument(
        "--sql", metavar="QUERY", help='DuckDB over the rows, e.g. "SELECT attack, avg(asr_after) FROM rows GROUP BY 1"'
    )
    show.add_argument("--paper", metavar="NAME", help="beside what a paper has published: advrbd or nft")
    show.add_argument("--all", action="store_true", help="--paper: also what it has published and these rows lack")
    show.add_argument("--interval", action="store_true", help="with the 95 %% interval of each utility and ASR, from its tests")
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
        help="defender (what a defender can measure), training (the same of a filter, no clean data) or oracle (the true ASR); "
        "without it defender, or oracle where no row has the proxy",
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
    _add_forms(top)
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
    _add_forms(plot)
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
    names.add_argument("kind", nargs="?", metavar="KIND", help="only these, e.g. attacks; or training")
    names.add_argument("name", nargs="?", metavar="NAME", help="one of them in full, e.g. defense nft: its fields and presets")
    names.set_defaults(command=_list)
    return parser, commands


def _add_forms(parser: argparse.ArgumentParser, csv: str = "0 to 1, full precision") -> None:
    """Options for what a table is written as: see `_form`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--csv", action="store_true", help=csv)
    group.add_argument("--markdown", action="store_true", help="as GitHub reads it")
    group.add_argument("--latex", action="store_true", help="a tabular, for the package booktabs")


def _form(options: argparse.Namespace) -> str:
    return next((form for form in ("csv", "markdown", "latex") if getattr(options, form)), "text")


def _run(options: argparse.Namespace) -> None:
    settle()
    from bdray.experiment import Experiment, check_data, run
    from bdray.overrides import experiment_config
    from bdray.report.board import Board
    from bdray.report.table import describe
    from bdray.store.filesystems import data_folder
    from bdray.store.row import spec_of
    from bdray.store.store import Store

    store, root = Store(options.store), data_folder(options.data)
    before = None
    if options.again is not None:
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
    say(describe(row, before))


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
    from bdray.store.filesystems import data_folder
    from bdray.store.store import Store

    store, root = Store(options.store), data_folder(options.data)
    sweep = read_sweep(options.file)
    for path, value in parse(options.words):
        sweep = sweep.with_override(path, value)
    found = plan(sweep, store, root, options.retry_failed)
    if not options.dry_run:
        store.check_writable()
    say(found.sentence())
    if options.dry_run:
        for experiment, reason in found.skipped:
            say(prose(f"skipped {experiment.attack.name} x {experiment.defense.name}: {reason}", "  "))
        return 0
    launch(found, store, root, options.address)
    what = "settings" if sweep.searches else "cells"
    ended = {"failed": found.ended["failed"] + len(found.failed), "lost": found.ended["lost"]}
    for status, cure in (("failed", "once more: --retry-failed"), ("lost", "the same command tries them again")):
        if ended[status]:
            sql = f"SELECT key, error FROM rows WHERE status = '{status}'"
            why = "" if sweep.searches and status == "lost" else f'why: bdray table --sweep {sweep.name} --sql "{sql}"; '
            complain(f"bdray: {ended[status]} {what} {status}; {why}{cure}")
    return 1 if any(ended.values()) else 0


def _table(options: argparse.Namespace) -> None:
    from bdray.judge.validity import Bounds
    from bdray.overrides import parse
    from bdray.report import table
    from bdray.report.papers import beside as paper_table
    from bdray.report.papers import paper
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
    rows = store.rows(options.sweep)
    if not len(rows):
        where = f"of the sweep {options.sweep!r} " if options.sweep else ""
        raise BadInput(f"no rows {where}in the store {store.uri!r}; make some with `bdray run` or `bdray sweep`")
    rows = table.only(rows, parse(options.words))
    form = _form(options)
    if published:
        say(paper_table.render(rows, published, options.all, form, bounds))
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


def _best(options: argparse.Namespace) -> None:
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
    rows = store.rows(options.sweep).to_pylist()
    if not rows:
        raise BadInput(f"no rows of the sweep {options.sweep!r} in the store {store.uri!r}; run it with `bdray sweep`")
    tried = trials(store, options.sweep)
    if options.leave_out:
        left = best.leave_out(rows, tried, aim, options.leave_out)
        say(best.render_left_out(left, aim, options.leave_out, _form(options)))
        return
    try:
        found = best.best(rows, tried, aim)
    except best.Unrankable:
        if options.by:
            raise
        # A grid measures no proxies: what is left to rank by is the truth, and the table says so.
        complain(f"warning: no row has the proxy {aim.proxy!r}, which a defender needs; ranked by the oracle, which none has")
        found = best.best(rows, tried, replace(aim, kind="oracle"))
    say(best.render(found, options.count, _form(options)))
    if options.picture:
        best.draw(found, Path(options.picture))
        complain(f"picture: {options.picture}")


def _figure(options: argparse.Namespace) -> None:
    from bdray.overrides import parse
    from bdray.report import table
    from bdray.report.figures.figures import check_kind, figure
    from bdray.report.picture import check_name
    from bdray.store.store import Store

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
        complain(f"picture: {options.out}")
    say(found.text(_form(options)))


def _cluster(options: argparse.Namespace) -> int:
    with _ray_needed("a cluster file is checked with"):
        from bdray.launch.cluster import check

    findings, started = check(Path(options.file))
    errors = [finding for finding in findings if finding.kind == "error"]
    for finding in findings:
        complain(f"{'bdray' if finding in errors else finding.kind}: {options.file}: {finding.text}")
    say(safe(f"{options.file}: {len(errors)} errors" if errors else f"{options.file}: {started}"))
    return 2 if errors else 0


def _store(options: argparse.Namespace) -> int:
    from bdray.spec import unknown
    from bdray.store import keeping as storekeeping
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
        text, damaged = storekeeping.check(store, options.delete)
        say(text)
        return int(damaged)
    say(storekeeping.compact(store, sweeps[0]) if action == "compact" else storekeeping.show(store))
    return 0


def _list(options: argparse.Namespace) -> None:
    from bdray.report.catalogue import catalogue

    say(catalogue(options.kind, options.name))


if __name__ == "__main__":
    sys.exit(main())
