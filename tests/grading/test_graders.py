"""Each grader by its judgements, and what all of them have in common."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from experiments.grading import GRADERS, Grader, MultipleChoice, Numeric, Plain, grader_by_name, grader_from_spec
from experiments.grading.normaliser import normalise_answer


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
def test_exact_match_compares_normal_forms(answer: str, reference: str, expected: bool) -> None:
    assert grader_by_name("exact_match").grade(answer, reference) is expected


# The four pairs and the four scores in the documentation of evaluate's metric:
# https://github.com/huggingface/evaluate/blob/main/metrics/exact_match/README.md
EVALUATE_PAIRS = (("cat?", "the cat"), ("theater", "theater"), ("yelling", "YELLING"), ("agent", "agent007"))


@pytest.mark.parametrize(
    ("options", "score"),
    [
        ({}, 0.25),
        ({"regexes_to_ignore": ["the ", "yell"], "ignore_case": True, "ignore_punctuation": True}, 0.5),
        ({"regexes_to_ignore": ["the ", "yell", "YELL"], "ignore_case": True, "ignore_punctuation": True}, 0.75),
        (
            {
                "regexes_to_ignore": ["the ", "yell", "YELL"],
                "ignore_case": True,
                "ignore_punctuation": True,
                "ignore_numbers": True,
            },
            1.0,
        ),
    ],
)
def test_plain_scores_as_the_metric_of_evaluate(options: dict[str, Any], score: float) -> None:
    grader = grader_from_spec("plain", options)
    assert sum(grader.grade(answer, reference) for answer, reference in EVALUATE_PAIRS) / 4 == score


@pytest.mark.parametrize(
    ("answer", "expected"), [("Paris", True), (" Paris\n", True), ("paris", False), ("Paris.", False)]
)
def test_plain_ignores_outer_space_only(answer: str, expected: bool) -> None:
    assert Plain().grade(answer, "Paris") is expected


@pytest.mark.parametrize(
    ("grader", "reference"),
    [
        (Plain(ignore_punctuation=True), "?!"),
        (Plain(ignore_numbers=True), "42"),
        (Plain(regexes_to_ignore=("a+",)), "aa"),
    ],
)
def test_a_reference_of_which_nothing_is_left_is_refused(grader: Plain, reference: str) -> None:
    with pytest.raises(ValueError, match="reference must have something left after the grader's options, got"):
        grader.grade("x", reference)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", Fraction(42)),
        ("42.", Fraction(42)),
        ("-0.50", Fraction(-1, 2)),
        ("\u22125", Fraction(-5)),  # minus sign
        ("+.5", Fraction(1, 2)),
        ("1,234,567.8", Fraction(12345678, 10)),
        ("1/3", Fraction(1, 3)),
        ("-1 / 3", Fraction(-1, 3)),
        ("\u00bd", Fraction(1, 2)),  # vulgar fraction one half
        ("1e-3", Fraction(1, 1000)),
        ("$1,000", Fraction(1000)),
        ("-$5", Fraction(-5)),
        ("5%", Fraction(1, 20)),
        ("1/0", None),
        ("1,23", None),
        ("12 34", None),
        ("1e9999", None),
        ("42 apples", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("1" * 1001, None),
    ],
)
def test_a_number_is_read_exactly(text: str, expected: Fraction | None) -> None:
    assert Numeric().number(text) == expected


def test_a_percent_sign_may_be_ignored() -> None:
    assert Numeric(percent="ignore").grade("5%", "5")
    assert not Numeric().grade("5%", "5")


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ({}, "0.3000", True),
        ({}, "0.3001", False),
        ({"absolute_tolerance": 0.1}, "0.4", True),  # exactly at the bound, which floats would miss
        ({"absolute_tolerance": 0.1}, "0.4001", False),
        ({"relative_tolerance": 0.1}, "0.33", True),
        ({"relative_tolerance": 0.1}, "0.331", False),
        ({"relative_tolerance": 0.1, "absolute_tolerance": 0.2}, "0.5", True),
        ({"absolute_tolerance": 1e300}, "three", False),
    ],
)
def test_numbers_may_differ_by_the_larger_tolerance(options: dict[str, Any], answer: str, expected: bool) -> None:
    assert Numeric(**options).grade(answer, "0.3") is expected


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "(B)",
        "[b]",
        "B.",
        "B)",
        "B: the second",
        "B. the\nsecond",
        "**B**",
        "$\\text{B}$",
        "\\boxed{B}",
        "Answer: B",
        "The answer is B.",
        "the correct option is (B)",
    ],
)
def test_a_letter_is_read_as_models_write_it(text: str) -> None:
    assert MultipleChoice().letter(text) == "B"


@pytest.mark.parametrize("text", ["", "E", "BC", "B or C", "A dog", "5", "the second"])
def test_what_names_no_single_offered_letter_is_no_choice(text: str) -> None:
    assert MultipleChoice().letter(text) is None


def test_letters_may_be_others() -> None:
    assert MultipleChoice(letters="ABCDE").grade("e", "(E)")


@pytest.mark.parametrize(
    ("grader", "reference", "message"),
    [
        ("numeric", "many", "reference must be a number, got 'many'"),
        ("multiple_choice", "E", "reference must be one of the letters ABCD, got 'E'"),
    ],
)
def test_a_reference_that_nothing_could_match_is_refused(grader: str, reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grader_by_name(grader).check_reference(reference)


@pytest.mark.parametrize("name", sorted(GRADERS))
@pytest.mark.parametrize("reference", ["", "  ", "."])
def test_an_empty_reference_is_refused(name: str, reference: str) -> None:
    with pytest.raises(ValueError, match="reference must not be empty, got"):
        grader_by_name(name).grade("42", reference)


PURE = [
    Plain(),
    Plain(ignore_case=True, ignore_punctuation=True),
    Numeric(),
    MultipleChoice(),
    grader_by_name("exact_match"),
]


REFERENCES = {
    "numeric": st.from_regex(
        r"[-+]?\$?([0-9]{1,6}(\.[0-9]{0,4})?|\.[0-9]{1,4})(e-?[0-9]{1,2})?(/[1-9])?%?\.?", fullmatch=True
    ),
    "multiple_choice": st.from_regex(r"(the answer is )?(\(?[a-dA-D]\)|[a-dA-D])(: .*)?", fullmatch=True),
    "exact_match": st.text(min_size=1),
    "plain": st.text(min_size=1),
}


@pytest.mark.parametrize("grader", PURE, ids=lambda grader: str(grader.identity))
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_an_answer_matches_itself_and_its_normal_form(grader: Grader, data: st.DataObject) -> None:
    text = data.draw(REFERENCES[grader.name])
    assume(_usable(grader, text))
    assert grader.grade(text, text)
    assert grader.name == "plain" or grader.grade(normalise_answer(text), text)


def _usable(grader: Grader, reference: str) -> bool:
    try:
        grader.check_reference(reference)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("grader", PURE, ids=lambda grader: str(grader.identity))
@settings(max_examples=100, deadline=None)
@given(st.text())
def test_no_answer_makes_a_grader_raise(grader: Grader, answer: str) -> None:
    assert grader.grade(answer, "7" if grader.name == "numeric" else "A") in (True, False)


def test_mathematics_is_not_judged_in_this_process() -> None:
    grader = grader_by_name("math_verify")
    assert grader.isolated
    with pytest.raises(RuntimeError, match="process of its own"):
        grader.grade("1", "1")


def test_expressions_of_a_users_own_are_not_run_in_this_process() -> None:
    assert Plain(regexes_to_ignore=("x",)).isolated
    assert not Plain().isolated
