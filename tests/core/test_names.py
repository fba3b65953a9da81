"""Names cannot leave a directory, and a typing error is answered with what was probably meant."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, strategies as st

from mamba_stream.core.names import LONGEST_NAME, check_name, did_you_mean
from mamba_stream.errors import InvalidName

ALPHABET = string.ascii_letters + string.digits + "._-"


@given(st.text(ALPHABET, min_size=1, max_size=LONGEST_NAME))
def test_names_of_the_alphabet_are_allowed_but_for_dots_only_and_a_leading_underscore(name: str) -> None:
    if set(name) == {"."} or name.startswith("_"):
        with pytest.raises(InvalidName):
            check_name(name)
    else:
        assert check_name(name) == name


@given(st.text(min_size=1, max_size=20).filter(lambda name: not set(name) <= set(ALPHABET)))
def test_any_other_character_is_refused_and_named(name: str) -> None:
    with pytest.raises(InvalidName, match="only the letters"):
        check_name(name, "group")


@pytest.mark.parametrize("name", ["", "a" * 201, ".", "..", "...", "a/b", "a\\b", "a b", "ä", "a\n", "a\0"])
def test_names_that_could_do_harm_are_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="topic name"):
        check_name(name)


def test_only_the_engine_begins_names_with_an_underscore() -> None:
    assert check_name("_state", internal=True) == "_state"
    with pytest.raises(InvalidName, match="the engine's own"):
        check_name("_state")


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidName, match="not int"):
        check_name(7)  # type: ignore[arg-type]


def test_the_message_says_what_was_being_named() -> None:
    with pytest.raises(InvalidName, match="step name"):
        check_name("", "step")


def test_a_near_miss_is_guessed_whatever_its_case() -> None:
    assert did_you_mean("PRISE", ["symbol", "price"]) == ", did you mean 'price'?"
    assert did_you_mean("trade", ["Trades", "quotes"]) == ", did you mean 'Trades'?"


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    assert did_you_mean("volume", ["price", "symbol"]) == ""
    assert did_you_mean("volume", []) == ""
