"""What a sentence shows of a value: printable, short, and never a traceback of its own."""

import pickle
from typing import Any

import pytest

from bdray.spec import BadInput, Incompatible, unknown
from bdray.wording import SENTENCE, VALUE, printable, quoted, sentence, shortened, shown


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printable("plain, é, 日本語 and 🧨") == "plain, é, 日本語 and 🧨"
    assert printable("a\nb\x1b[31m\x00\x7f\x85") == r"a\nb\x1b[31m\x00\x7f\x85"
    assert printable("\u202eabc\u2028\ufeff") == r"\u202eabc\u2028\ufeff"
    assert printable("caf\udce9") == r"caf\udce9"


def test_what_is_long_keeps_its_ends() -> None:
    assert shortened("x" * VALUE) == "x" * VALUE
    cut = shortened("a" * 5000 + "b" * 5000)
    assert len(cut) < VALUE
    assert cut.startswith("aaa")
    assert cut.endswith("bbb")
    assert "…" in cut


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.5, "0.5"),
        (True, "true"),
        (None, "null"),
        ("a", '"a"'),
        ("é", '"é"'),
        ([1, "x"], '[1, "x"]'),
        ({"a": {"b": {"c": {"d": 1}}}}, '{"a": {"b": {"c": "…"}}}'),
        (float("nan"), "NaN"),
        (b"x", "an object of the type bytes"),
        (10**5000, "a number of 5000 digits"),
        ({1, 2}, "an object of the type set"),
    ],
    ids=lambda given: given[:30] if isinstance(given, str) else "",
)
def test_a_value_is_shown_as_json_or_named(value: Any, text: str) -> None:
    assert shown(value) == text


def test_nothing_is_too_deep_or_too_long_to_show() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == '[[["…"]]]'
    assert len(shown(["x" * 10**6] * 1000)) <= VALUE + 1
    assert len(shown(dict.fromkeys(map(str, range(10**5)), 1))) <= VALUE + 1
    assert quoted("x" * 10**6).startswith("'xxx")


def test_bad_input_is_one_short_line_whatever_it_was_made_of() -> None:
    error = BadInput(f"got {'x' * 100_000}\n\x1b]0;title\x07\ud800, expected less")
    text = str(error)
    assert len(text) <= SENTENCE
    assert text.isprintable()
    assert text.startswith("got xxx")
    assert text.endswith(", expected less")
    assert str(pickle.loads(pickle.dumps(Incompatible("a\nb")))) == r"a\nb"
    assert sentence(sentence("a\nb")) == sentence("a\nb")
    assert len(str(BadInput("a b " * 10_000))) <= SENTENCE


def test_a_long_name_is_refused_at_once() -> None:
    text = unknown("attack", "[" * 100_000, ["blend", "sig"])
    assert len(text) < 200
    assert text.endswith("choose from blend, sig")
