"""bdray sweep: what a sweep file lists, on Ray."""

import argparse
from typing import Any

from bdray.cli._ray import ray_needed
from bdray.layout import complain, prose, say
from bdray.threads import wait_asleep


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """The command's own words and options."""
    parser = commands.add_parser(
        "sweep",
        parents=[places],
        help="what a sweep file lists, on Ray",
        description="Run the missing cells of a sweep; the same command again goes on where it stopped.",
    )
    parser.add_argument("file", metavar="FILE", help="e.g. sweeps/demo.py")
    parser.add_argument(
        "words", nargs="*", metavar="path=value", help="change the sweep; a list is a grid: 'seed=[0,1,2]' samples=8"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what is done, missing and skipped; start nothing")
    parser.add_argument("--retry-failed", action="store_true", help="run cells whose row says failed once more")
    parser.add_argument("--address", help="of a Ray cluster; this machine otherwise")
    parser.set_defaults(command=command)


def command(options: argparse.Namespace) -> int:
    """Run what is missing of it; the exit status."""
    wait_asleep()
    with ray_needed("sweeps need"):
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
