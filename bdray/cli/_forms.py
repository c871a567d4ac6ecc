"""What a table is written as."""

import argparse


def add_forms(parser: argparse.ArgumentParser, csv: str = "0 to 1, full precision") -> None:
    """Options for what a table is written as: see `form_of`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--csv", action="store_true", help=csv)
    group.add_argument("--markdown", action="store_true", help="as GitHub reads it")
    group.add_argument("--latex", action="store_true", help="a tabular, for the package booktabs")


def form_of(options: argparse.Namespace) -> str:
    """csv, markdown, latex or text."""
    return next((form for form in ("csv", "markdown", "latex") if getattr(options, form)), "text")
