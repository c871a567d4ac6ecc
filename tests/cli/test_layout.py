"""What is printed: tables at every width, every form, and nothing that a terminal obeys or lacks."""

import csv
import io
import os
import re
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from bdray import layout
from bdray.__main__ import main
from bdray.wording import printable

HEADS = ["attack", "defense", "n", "utility before", "ASR after", "flags"]
SIDES = ["left", "left", "right", "right", "right", "left"]
LINES = [
    [attack, defense, "3", "98.3 ± 0.8", "100.0 ± 0.0", flags]
    for attack in ("badnets", "label_consistent")
    for defense, flags in (("perfect_filter", ""), ("nft #1", "class lost"), ("nft #12", "not planted, class lost 2/3"))
]
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\u2066\x00\r\b\udcff\u200b\U000e0041"


@pytest.fixture(autouse=True)
def pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def table(form: str = "text") -> str:
    return layout.align(HEADS, LINES, form, SIDES, 2)


def bare(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize("width", [20, 26, 35, 44, 53, 62, 71, 80, 100, 120, 400])
def test_no_line_is_wider_and_no_number_is_broken(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = table()
    assert max(map(cell_len, text.split("\n"))) <= width
    assert text.count("98.3 ± 0.8") == len(LINES)
    assert text.count("100.0 ± 0.0") == len(LINES)


@pytest.mark.parametrize("width", [80, 120])
def test_words_are_broken_only_where_they_may_be(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    pieces = {
        word for line in (HEADS, *LINES) for part in " ".join(line).split() for word in (part, *re.findall("[^_]+_?", part))
    }
    assert {word for word in table().split() if set(word) != {"-"}} <= pieces


def test_one_table_where_it_fits_else_blocks_with_the_labels_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert table().count("attack") == 1
    monkeypatch.setenv("COLUMNS", "62")
    assert table().count("attack") == table().count("defense") == 2
    monkeypatch.setenv("COLUMNS", "20")
    assert table().count("attack: ") == len(LINES)


def test_a_pipe_gets_a_line_a_row_whatever_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table().split("\n")
    assert len(lines) == 2 + len(LINES)
    assert lines[1] == "  ".join("-" * n for n in (16, 14, 1, 14, 11, 27))
    assert lines[2] == "badnets           perfect_filter  3      98.3 ± 0.8  100.0 ± 0.0"
    assert "\x1b" not in table()


def test_a_terminal_has_bold_heads_unless_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = table()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    assert "\x1b[1m" in table()
    assert [line.rstrip() for line in bare(table()).split("\n")] == plain.split("\n")
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert table() == plain


def test_wide_characters_count_as_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    text = layout.align(["name", "n"], [["猫", "1"], ["dog", "22"]], "text", ["left", "right"])
    assert len({cell_len(line) for line in text.split("\n")}) == 1
    monkeypatch.setenv("COLUMNS", "20")
    long = layout.align(["name", "n"], [["猫" * 30, "1"]], "text", ["left", "right"])
    assert max(map(cell_len, long.split("\n"))) <= 20
    assert long.count("猫") == 30


def test_markdown_and_latex() -> None:
    heads, lines = ["a|b", "100 %"], [["x_1 & {y}", "1 ± 2"], ["\\~^<", "#$"]]
    markdown = layout.align(heads, lines, "markdown", ["left", "right"]).split("\n")
    assert markdown[0].startswith(r"| a\|b ")
    assert re.fullmatch(r"\| -+ \| -+: \|", markdown[1])
    assert len({len(line) for line in markdown}) == 1
    assert layout.align(heads, lines, "latex", ["left", "right"]).split("\n") == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a\textbar{}b & 100 \% \\",
        r"\midrule",
        r"x\_1 \& \{y\} & 1 $\pm$ 2 \\",
        r"\textbackslash{}\textasciitilde{}\textasciicircum{}\textless{} & \#\$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
@pytest.mark.parametrize("width", [None, "80", "12"])
def test_no_control_character_comes_through(form: str, width: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if width:
        monkeypatch.setenv("COLUMNS", width)
    lines = [[HOSTILE, "x" + HOSTILE]]
    text = (
        layout.to_csv([HOSTILE, "b"], lines) if form == "csv" else layout.align([HOSTILE, "b"], lines, form, ["left", "right"])
    )
    text += layout.page(form, [HOSTILE], "", [HOSTILE]) + layout.prose(HOSTILE) + layout.clipped(HOSTILE)
    text += layout.safe(HOSTILE) + "".join(layout.entries([(HOSTILE, HOSTILE)]))
    assert all(c == "\n" or (c.isprintable() and ord(c) < 0xD800) for c in text), text
    assert "evil" in text.replace("\n", "").replace(" ", "")


def test_a_table_escapes_what_a_sentence_does() -> None:
    odd = "".join(map(chr, [*range(1, 9), 0x7F, 0x9B, 0xAD, 0x600, 0x61C, 0x180E, 0x200B, 0x202E, 0x2066, 0xFEFF, 0xE0041]))
    assert layout.safe(odd, "utf-8") == layout.to_csv([odd], []) == printable(odd)


def test_a_line_break_in_a_cell() -> None:
    assert "one two" in layout.align(["a"], [["one\n  two"]], "text", ["left"])
    assert list(csv.reader(io.StringIO(layout.to_csv(["a"], [["one\ntwo"]])))) == [["a"], ["one\ntwo"]]


def test_an_ascii_terminal_gets_what_it_has_and_columns_stay_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    with layout.streams():
        text = table()
        layout.say(text)
        layout.say("→ … 猫 \udcff")  # what was not laid out, too
    assert "98.3 +- 0.8" in text
    assert text.isascii()
    assert out.buffer.getvalue().decode().split("\n")[-2] == r"-> ... \u732b \udcff"  # type: ignore[attr-defined]
    assert text.split("\n")[2].index("100.0") == text.split("\n")[0].index("ASR after") - 3


def test_a_sentence_is_folded_and_a_list_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "one two three four five six"
    assert layout.prose(words) == words
    monkeypatch.setenv("COLUMNS", "12")
    assert layout.prose(words, "  ").split("\n") == ["one two", "  three four", "  five six"]
    assert layout.entries([("a", words), ("bcd", "x")]) == ["  a    one…", "  bcd  x"]


def test_stdout_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with layout.streams():
        layout.say(table())


class Full(io.RawIOBase):
    """A device without space, or a pipe that nobody reads."""

    def __init__(self, error: type[OSError], number: int) -> None:
        self.error = error(number, os.strerror(number))

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise self.error


@pytest.mark.parametrize("words", [["list"], ["--version"], ["list", "--help"], []])
@pytest.mark.parametrize(("error", "status"), [(OSError, 1), (BrokenPipeError, 0), (BlockingIOError, 1)])
def test_output_that_cannot_be_written(
    words: list[str], error: type[OSError], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = {OSError: 28, BrokenPipeError: 32, BlockingIOError: 11}[error]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Full(error, number))))
    assert main(words) == status
    err = capsys.readouterr().err
    assert err.count("\n") == status
    assert err.startswith("bdray: cannot write the output: ") == bool(status)
    monkeypatch.setattr(sys, "stdout", io.StringIO())


def test_an_error_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    layout.complain(f"bdray: {HOSTILE}\nsecond")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(c == "\n" or c.isprintable() for c in err)


def test_no_module_prints_by_itself() -> None:
    """What goes out goes through `layout`, or the terminal of a launch, which is made harmless there."""
    files = {p.as_posix() for p in Path("bdray").rglob("*.py") if re.search(r"(?<![\w.])print\(", p.read_text())}
    assert files <= {"bdray/layout.py", "bdray/launch/watch/terminal.py", "bdray/signals.py"}
