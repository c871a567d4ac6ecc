"""How a command ends that is ended from outside: processes of their own that are sent signals, without Ray."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bdray import signals
from bdray.signals import Ending, kept, orderly

COMMAND = """
import sys, time
from bdray import signals

signals.GRACE = 1.0
with signals.orderly("stopped; the same command goes on") as ending:
    try:
        print("ready", flush=True)
        {work}
    except KeyboardInterrupt:
        {cleanup}
        ending.say()
        status = ending.status
    else:
        status = 0
sys.exit(status)
"""
WORK = "time.sleep(20)"


class Started:
    """A command at work."""

    def __init__(self, work: str = WORK, cleanup: str = "pass", before: str = "") -> None:
        text = textwrap.dedent(before) + COMMAND.format(work=work, cleanup=cleanup)
        self.process = subprocess.Popen(
            [sys.executable, "-c", text],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self) -> tuple[int, str]:
        """Its status, and what it said on stderr."""
        said = self.process.communicate(timeout=30)[1]
        return self.process.returncode, said.strip()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signals.ENDING}
    yield
    assert {number: signal.getsignal(number) for number in signals.ENDING} == before


SAID = "bdray: stopped; the same command goes on"


@pytest.mark.parametrize("number", signals.ENDING, ids=lambda number: number.name)
def test_each_ends_it_in_the_same_way(number: signal.Signals) -> None:
    command = Started()
    command.process.send_signal(number)
    assert command.end() == (128 + number, SAID)


def test_a_second_signal_does_not_cut_the_clean_up_short() -> None:
    command = Started(cleanup="print('ready', flush=True); time.sleep(0.5); print('clean', flush=True)")
    command.process.send_signal(signal.SIGTERM)
    assert command.process.stdout is not None
    assert command.process.stdout.readline() == "ready\n"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        command.process.send_signal(number)
    out, said = command.process.communicate(timeout=30)
    assert (command.process.returncode, out, said.strip()) == (143, "clean\n", SAID)


def test_a_clean_up_that_hangs_is_ended() -> None:
    command = Started(cleanup="time.sleep(60)")
    command.process.send_signal(signal.SIGTERM)
    assert command.end() == (143, SAID)


def test_work_that_swallows_the_interrupt_is_ended() -> None:
    command = Started(work="\n        ".join(["try: time.sleep(60)", "except BaseException: pass", "time.sleep(60)"]))
    command.process.send_signal(signal.SIGHUP)
    assert command.end() == (129, SAID)


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    command = Started(work="time.sleep(0.7)", before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    command.process.send_signal(signal.SIGHUP)
    assert command.end() == (0, "")


def test_a_closed_terminal_takes_no_sentence() -> None:
    """Nobody reads what is written, and writing fails."""
    command = Started(before="import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 2)")
    command.process.send_signal(signal.SIGHUP)
    assert command.end()[0] == 129


def test_a_command_inside_another_program_leaves_it_as_it_was() -> None:
    with orderly("stopped", last=False) as ending:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert ending.status == 143
    assert ending.timer is not None
    ending.timer.join(5)
    assert not ending.timer.is_alive()


def test_what_takes_over_the_handlers_does_not_keep_them() -> None:
    """As Ray does when it starts."""
    before = signal.getsignal(signal.SIGTERM)
    with kept():
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_name_of_a_store_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Ending("stopped; what \x1b]0;pwned\x07\u202e holds").say()
    assert capsys.readouterr().err == "\nbdray: stopped; what \\x1b]0;pwned\\x07\\u202e holds\n"
