"""When two trial answers are equal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.grading import NORMALISER_VERSION, normalise_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  42 \n", "42"),
        ("The  Answer\tis", "the answer is"),
        ("42.", "42"),
        ("42 .", "42"),
        ("3.5", "3.5"),
        ("Straße", "strasse"),
        ("\uff14\uff12", "42"),  # full-width digits
        ("x\u00b2", "x2"),  # superscript two
        ("a\u00a0b", "a b"),  # no-break space
        (".", ""),
        ("\u2024", ""),  # one dot leader is a full stop under NFKC
        ("", ""),
    ],
)
def test_one_spelling_per_answer(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


def test_only_one_final_full_stop_is_removed() -> None:
    assert normalise_answer("and so on...") == "and so on.."


def test_the_normaliser_has_a_version() -> None:
    assert NORMALISER_VERSION == 1


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=20))
def test_case_and_outer_space_do_not_matter(text: str) -> None:
    assert normalise_answer(f" \n{text}\t") == normalise_answer(text) == normalise_answer(text.casefold())


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=0x2FF, exclude_characters="."), max_size=20))
def test_a_normal_form_is_its_own(text: str) -> None:
    """But for final full stops, of which each time takes one."""
    once = normalise_answer(text)
    assert normalise_answer(once) == once
