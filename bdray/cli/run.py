"""bdray run: one experiment."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bdray.layout import say
from bdray.spec import BadInput
from bdray.threads import settle

if TYPE_CHECKING:
    from bdray.experiment import Experiment


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """The command's own words and options."""
    parser = commands.add_parser(
        "run",
        parents=[places],
        help="one experiment",
        description="Run one experiment; with no words the embedded one: digits, blend, NFT.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="path=value",
        help="e.g. task.data=cifar10 attack=sig attack.rate=0.05 defense=nft defense.shots=1 seed=3",
    )
    parser.add_argument("--again", metavar="KEY", help="repeat the experiment of a stored row")
    parser.set_defaults(command=command)


def command(options: argparse.Namespace) -> None:
    """Run it, or show the stored row."""
    settle()
    from bdray.bench import Bench, read_anew
    from bdray.experiment import Experiment
    from bdray.overrides import experiment_config
    from bdray.report.board import Board
    from bdray.report.table import describe
    from bdray.run import run
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
    read_anew()
    Bench(experiment, store, root).check()
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
