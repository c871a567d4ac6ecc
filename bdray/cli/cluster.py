"""bdray cluster check: a cluster file before `ray up`."""

import argparse
from pathlib import Path
from typing import Any

from bdray.cli._ray import ray_needed
from bdray.layout import complain, safe, say


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """The command's own words and options."""
    cluster = commands.add_parser("cluster", help="check a cluster file before `ray up`")
    actions = cluster.add_subparsers(required=True, metavar="ACTION")
    parser = actions.add_parser(
        "check",
        help="what is wrong with a cluster file",
        description="Say what is wrong with a file for `ray up`, and what it would start; needs no cloud and no network.",
    )
    parser.add_argument("file", metavar="FILE", help="e.g. cluster.yaml")
    parser.set_defaults(command=command, store="")


def command(options: argparse.Namespace) -> int:
    """Say what is wrong; the exit status."""
    with ray_needed("a cluster file is checked with"):
        from bdray.launch.cluster import check

    findings, started = check(Path(options.file))
    errors = [finding for finding in findings if finding.kind == "error"]
    for finding in findings:
        complain(f"{'bdray' if finding in errors else finding.kind}: {options.file}: {finding.text}")
    say(safe(f"{options.file}: {len(errors)} errors" if errors else f"{options.file}: {started}"))
    return 2 if errors else 0
