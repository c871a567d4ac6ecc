"""The command line; every module here but those with an underscore is one command."""

from bdray.cli._main import main

__all__ = ["main"]
