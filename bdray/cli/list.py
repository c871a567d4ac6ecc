"""bdray list: every task, data set, model, attack, defense and sweep."""

import argparse
from typing import Any

from bdray.layout import say


def add(commands: Any, places: argparse.ArgumentParser) -> None:
    """The command's own words and options."""
    parser = commands.add_parser("list", parents=[places], help="every task, data set, model, attack, defense and sweep")
    parser.add_argument("kind", nargs="?", metavar="KIND", help="only these, e.g. attacks; or training")
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of them in full, e.g. defense nft: its fields and presets")
    parser.set_defaults(command=command)


def command(options: argparse.Namespace) -> None:
    """Print them."""
    from bdray.report.catalogue import catalogue

    say(catalogue(options.kind, options.name))
