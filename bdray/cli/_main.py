"""What is common to all commands. Bad input is one sentence on stderr and status 2, output that cannot be written 1; what a
signal ends has 128 and the number of the signal, 130 for Ctrl-C, and one sentence, too."""

import argparse
import difflib
import importlib
import os
import re
import sys
import warnings
from typing import Any, NoReturn

import bdray
from bdray.layout import CannotPrint, complain, entries, say, silence, streams
from bdray.signals import Ending, orderly
from bdray.spec import BadInput, GaveUp, at_home, unknown
from bdray.store.refusal import shown, without_secrets
from bdray.wording import sentence

COMMANDS = ("run", "sweep", "table", "best", "figure", "cluster", "store", "list")
"""As `--help` lists them."""


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
    except (FloatingPointError, GaveUp) as error:  # a training diverged, or a defense gave up; its failed row is in the store
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
        if name in ("file", "out", "picture") and value:
            setattr(options, name, at_home(value))


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
    for command in COMMANDS:
        importlib.import_module(f"bdray.cli.{command}").add(commands, places)
    return parser, commands
