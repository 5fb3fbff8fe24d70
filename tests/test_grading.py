"""What counts as the answer, and when two answers are equal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.grading import extract_answer, grader_by_name, normalise_answer


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


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=20))
def test_case_and_outer_space_do_not_matter(text: str) -> None:
    assert normalise_answer(f" \n{text}\t") == normalise_answer(text) == normalise_answer(text.casefold())


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        (" 42 \n", "", "42"),
        (r"so \boxed{7}", r"\\boxed\{([^}]*)\}", "7"),
        (r"\boxed{6}, no: \boxed{ 7 }", r"\\boxed\{([^}]*)\}", "7"),
        ("the answer is 7", r"\d+", "7"),
        ("I do not know", r"\d+", ""),
        ("x = 1, y = 2", r"(\w) = (\d)", "y"),
        ("no", "yes (\\d)|no", ""),  # the group took no part in the match
    ],
)
def test_the_last_match_is_the_answer(text: str, pattern: str, expected: str) -> None:
    assert extract_answer(text, pattern) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("42", "42", True),
        (" 42.", "42", True),
        ("PARIS", "Paris", True),
        ("43", "42", False),
        ("", "42", False),
        ("42.0", "42", False),
    ],
)
def test_exact_match(answer: str, reference: str, expected: bool) -> None:
    assert grader_by_name("exact_match").grade(answer, reference) is expected


@pytest.mark.parametrize("reference", ["", "  ", "."])
def test_an_empty_reference_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="reference must not be empty, got"):
        grader_by_name("exact_match").grade("42", reference)


def test_a_grader_has_a_name_and_a_version() -> None:
    grader = grader_by_name("exact_match")
    assert (grader.name, grader.version) == ("exact_match", 1)


def test_an_unknown_grader_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="grader must be one of exact_match, got 'judge'"):
        grader_by_name("judge")
