"""Layout: every table and every sentence on its way out: into columns no wider than the terminal, or as markdown, LaTeX or CSV,
and made of characters that can do a terminal no harm and that it has.

A terminal (or whoever sets COLUMNS) gets lines of at most its width; a pipe gets one line a row, however wide, without colour.
"""

import codecs
import contextlib
import csv
import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bdray.spec import BadInput
from bdray.wording import printable, sentence

FORMS = ("text", "markdown", "latex", "csv")
GAP = 2
"""Spaces between two columns."""
NARROW = 10
"""A label is not broken into shorter pieces than this."""

_ASCII = {"±": "+-", "…": "...", "×": "x", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "→": "->"}  # noqa: RUF001
_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "…": r"\ldots{}",
}
_WORDS = re.compile(r"[^ ]* *")
_PARTS = re.compile(r"[^ _/,]*[ _/,]*")
"""Of a label: it may be broken after these."""


class CannotPrint(BadInput):
    """The output takes no more: a full disk, a pipe that is not read. The command line exits with 1."""


class Screen(NamedTuple):
    """What stdout is."""

    width: int | None
    """Columns; None for a pipe or a file."""
    styled: bool
    """Whether heads may be bold."""
    encoding: str


def screen() -> Screen:
    """A terminal has the width it says, unless COLUMNS says another; NO_COLOR and TERM=dumb keep it plain."""
    out = sys.stdout
    terminal = out is not None and not out.closed and out.isatty()
    asked = os.environ.get("COLUMNS", "")
    width = int(asked) if asked.isdecimal() and 0 < int(asked) < 10_000 else None
    if terminal and width is None:
        width = shutil.get_terminal_size().columns
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
    return Screen(width, terminal and not plain, getattr(out, "encoding", None) or "utf-8")


def safe(text: str, encoding: str | None = None) -> str:
    """The text on one line, control characters written out (`\x1b`), in characters that stdout (or an encoding) has."""
    text = printable(re.sub(r"\s*[\r\n]\s*|\t", " ", text))
    encoding = encoding or screen().encoding
    return text if encoding == "utf-8" else text.encode(encoding, "bdray.ascii").decode(encoding)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that a stream does not have."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing), error.end


codecs.register_error("bdray.ascii", _replaced)


def align(heads: Sequence[str], lines: Sequence[Sequence[str]], form: str, aligns: Sequence[str], keys: int = 1) -> str:
    """Text, markdown or LaTeX. Every cell is a text already: a key like 12345e67 is no number.

    On a terminal what is aligned to the left may be broken, a number never; columns that do not fit side by side follow in
    blocks, each with the first `keys` columns again.
    """
    where = screen()
    cells = [[safe(cell, where.encoding) for cell in line] for line in (heads, *lines)]
    if form == "markdown":
        return _markdown(cells, aligns)
    if form == "latex":
        return _latex(cells, aligns)
    if where.width is None:
        return _plain(cells, aligns)
    return "\n\n".join(_blocks(cells, aligns, keys, where))


def page(form: str, top: Sequence[str], body: str, notes: Sequence[str] = ()) -> str:
    """A table between sentences, which in LaTeX are comments and in markdown, below it, a list."""
    mark = {"latex": "% ", "markdown": "- "}.get(form, "")
    above = [prose(text) if form == "text" else f"{'% ' if form == 'latex' else ''}{safe(text)}" for text in top]
    below = [prose(text, "  ") if form == "text" else f"{mark}{safe(text)}" for text in notes]
    return "\n\n".join("\n".join(part) for part in (above, [body] if body else [], below) if part)


def prose(text: str, indent: str = "") -> str:
    """A sentence in lines of at most the terminal's width, the second and later ones indented."""
    width = screen().width
    return safe(text) if width is None else "\n".join(_fold(safe(text), width, _WORDS, indent))


def entries(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A line each of a name and what it means, the latter cut to what the terminal holds."""
    longest = max((cell_len(name) for name, _ in pairs), default=0)
    return [clipped(f"  {name}{' ' * (longest - cell_len(name))}  {text}") for name, text in pairs]


def clipped(text: str) -> str:
    """One line, cut to the terminal's width; it ends in … where something was cut."""
    text, width = safe(text).rstrip(), screen().width
    if width is None or cell_len(text) <= width:
        return text
    return _fold(text, max(1, width - cell_len(safe("…"))), _WORDS)[0] + safe("…")


def _fold(text: str, width: int, at: re.Pattern[str], indent: str = "") -> list[str]:
    """Lines of at most `width` columns, broken after what the pattern finds, and anywhere in a piece that is longer."""
    indent, lines = (indent if 2 * len(indent) < width else ""), [""]
    for piece in at.findall(text):
        if lines[-1].strip() and cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append(indent)
        while cell_len(lines[-1] + piece.rstrip()) > width:
            room = max(width - cell_len(lines[-1]), 1)
            while room > 1 and cell_len(piece[:room]) > width - cell_len(lines[-1]):
                room -= 1
            lines[-1], piece = lines[-1] + piece[:room], piece[room:]
            lines.append(indent)
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _plain(cells: list[list[str]], aligns: Sequence[str]) -> str:
    """One line a row."""
    widths = [max(cell_len(line[at]) for line in cells) for at in range(len(aligns))]
    lines = [cells[0], ["-" * width for width in widths], *cells[1:]]
    return "\n".join(_joined(line, aligns, widths, " " * GAP).rstrip() for line in lines)


def _joined(line: Sequence[str], aligns: Sequence[str], widths: Sequence[int], gap: str) -> str:
    """The cells of one line, each as wide as its column."""
    blanks = [" " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
    padded = [b + c if side == "right" else c + b for c, b, side in zip(line, blanks, aligns, strict=True)]
    return gap.join(padded)


def _blocks(cells: list[list[str]], aligns: Sequence[str], keys: int, where: Screen) -> list[str]:
    """Tables that fit: one with whole heads and labels, or with broken ones, or as few as it takes."""
    assert where.width is not None
    left = [side == "left" for side in aligns]
    columns = [[line[at] for line in cells] for at in range(len(aligns))]
    whole = [max(map(cell_len, column)) for column in columns]
    if _total(whole) <= where.width:
        return [_drawn(cells, aligns, whole, where)]
    widths = [max(_longest(head, _WORDS), *map(cell_len, values), 1) for head, *values in columns]
    # Neither a head nor a label is broken inside a word.
    ends = [max(NARROW, _longest(head, _WORDS), *(2 + _longest(v, _PARTS) for v in values)) for head, *values in columns]
    limits = range(max(widths), NARROW - 1, -1)
    tries = [
        [min(w, max(limit, e)) if label else w for w, e, label in zip(widths, ends, left, strict=True)] for limit in limits
    ]
    for tried in tries or [widths]:
        if _total(tried) <= where.width:
            return [_drawn(cells, aligns, tried, where)]
    split = [groups for tried in tries if (groups := _groups(tried, keys, where.width))]
    if not split:
        return _records(cells, left, where.width)
    found = []
    for group in min(split, key=lambda groups: (len(groups), -len(groups[0]))):
        chosen = [*range(keys), *group]
        found += _blocks([[line[at] for at in chosen] for line in cells], [aligns[at] for at in chosen], keys, where)
    return found


def _groups(widths: Sequence[int], keys: int, width: int) -> list[list[int]]:
    """The columns after the first `keys`, in groups of which each fits beside these; none where one of them does not."""
    room = width - _total(widths[:keys]) - GAP
    groups: list[list[int]] = [[]] if len(widths) > keys else []
    for at in range(keys, len(widths)):
        if widths[at] > room:
            return []
        if groups[-1] and _total([widths[other] for other in (*groups[-1], at)]) > room:
            groups.append([])
        groups[-1].append(at)
    return groups


def _longest(text: str, at: re.Pattern[str]) -> int:
    """Columns of the longest piece."""
    return max(cell_len(piece.rstrip()) for piece in at.findall(text))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _records(cells: list[list[str]], left: Sequence[bool], width: int) -> list[str]:
    """Where not even one number fits beside its label: a line for each value, or two."""
    found = []
    for line in cells[1:]:
        parts: list[str] = []
        for head, value, label in zip(cells[0], line, left, strict=True):
            text = f"{head}: {value}"
            if label or cell_len(text) <= width or cell_len(value) + 2 > width:
                parts += _fold(text, width, _PARTS if label else _WORDS, "  ")
            else:
                parts += [*_fold(f"{head}:", width, _WORDS), f"  {value}"]
        found.append("\n".join(parts))
    return found


def _drawn(cells: list[list[str]], aligns: Sequence[str], widths: Sequence[int], where: Screen) -> str:
    """By rich, in columns of these widths."""
    table = Table.grid(padding=(0, GAP, 0, 0))
    for side, width in zip(aligns, widths, strict=True):
        table.add_column(justify="right" if side == "right" else "left", width=width, no_wrap=True)
    tops = [_fold(head, width, _WORDS) for head, width in zip(cells[0], widths, strict=True)]
    height = max(map(len, tops), default=1)
    table.add_row(*(Text("\n".join([*[""] * (height - len(top)), *top]), "bold") for top in tops))
    table.add_row(*(Text("-" * width, "dim") for width in widths))
    for line in cells[1:]:
        folded = (
            "\n".join(_fold(cell, width, _PARTS, "  ")) if side == "left" else cell
            for cell, side, width in zip(line, aligns, widths, strict=True)
        )
        table.add_row(*map(Text, folded))
    colours: Any = "standard" if where.styled else None
    console = Console(
        file=io.StringIO(), width=where.width, color_system=colours, force_terminal=where.styled, legacy_windows=False
    )
    console.print(table, crop=False)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip("\n").split("\n"))


def _markdown(cells: list[list[str]], aligns: Sequence[str]) -> str:
    """As GitHub reads it."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(3, *(cell_len(line[at]) for line in cells)) for at in range(len(aligns))]
    rule = ["-" * (width - 1) + ":" if side == "right" else "-" * width for side, width in zip(aligns, widths, strict=True)]
    return "\n".join(f"| {_joined(line, aligns, widths, ' | ')} |" for line in (cells[0], rule, *cells[1:]))


def _latex(cells: list[list[str]], aligns: Sequence[str]) -> str:
    """A tabular of the package booktabs."""
    heads, *lines = [" & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in line) + r" \\" for line in cells]
    begin = rf"\begin{{tabular}}{{{''.join(side[0] for side in aligns)}}}"
    return "\n".join([begin, r"\toprule", heads, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}"])


def to_csv(heads: Iterable[str], lines: Iterable[Sequence[Any]]) -> str:
    """Lines under their heads as CSV, control characters written out; a line break stays one, in quotes."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(map(_lines, heads))
    writer.writerows([[_lines(value) if isinstance(value, str) else value for value in line] for line in lines])
    return sink.getvalue().rstrip("\n")


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def percent(mean: float | None, spread: float | None = None) -> str:
    """Of a share 0 to 1, with one digit; empty where there is none."""
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")


def say(text: str) -> None:
    """Print what was laid out here. Raises CannotPrint where it cannot be written, BrokenPipeError where nobody reads it."""
    with _written_out():
        print(text, flush=True)


def complain(text: str) -> None:
    """One line on stderr, below a ^C where it starts with a line break; nothing where stderr takes nothing."""
    with contextlib.suppress(OSError, ValueError):
        print("\n" * text.startswith("\n") + sentence(" ".join(text.split())), file=sys.stderr, flush=True)


@contextlib.contextmanager
def streams() -> Iterator[None]:
    """Stdout and stderr take every character, as what they have, and wait for the reader of a full pipe. What can only be
    written at the end fails here, with CannotPrint or BrokenPipeError, and not when Python has gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, closed, or a test's
            stream.reconfigure(errors="bdray.ascii")  # type: ignore[union-attr]
            os.set_blocking(stream.fileno(), True)
    try:
        yield
    finally:
        if sys.stdout is not None and not sys.stdout.closed:
            with _written_out():
                sys.stdout.flush()


@contextlib.contextmanager
def _written_out() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = error.strerror or error
        raise CannotPrint(f"cannot write the output: {why}; free some space there, or send it elsewhere") from None


def silence() -> None:
    """Nothing more goes to stdout, not even what Python still holds when it ends."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
