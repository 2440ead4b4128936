"""Text from strangers on its way to a terminal or a log: one line, nothing hidden, nothing lost."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.text import visible

JOINERS = "\u200c\u200d\u00ad"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello.",
        "안녕하세요",
        "👋🏽 👨‍👩‍👧",
        "naïve — “quotes”",
        "नमस्\u200dते",
        "می\u200cخواهم",
        " Disconnect : 127.0.0.1:5 ",
    ],
)
def test_what_people_write_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\nb", "a\\nb"),
        ("a\tb", "a\\tb"),
        ("a\rb", "a\\x0db"),
        ("a\0b", "a\\x00b"),
        ("\x7f", "\\x7f"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_an_escape_a_line_break_or_a_hidden_character_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters()))
def test_no_text_hides_anything_or_breaks_the_line(text: str) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    for char in shown:
        category = unicodedata.category(char)
        assert category not in ("Cc", "Cs", "Co", "Zl", "Zp")
        assert category != "Cf" or char in JOINERS


@given(st.text(st.characters()))
def test_what_was_made_visible_stays_as_it_is(text: str) -> None:
    assert visible(visible(text)) == visible(text)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M"])))
def test_letters_digits_and_signs_of_all_scripts_stay(text: str) -> None:
    assert visible(text) == text
