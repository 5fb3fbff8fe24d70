"""Where in a text its answer is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.grading import check_answer_pattern, extract_answer

PATTERNS = ("", "boxed:", "final:", "json:a", "json:a.0", r"\d+")


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
        ("boxed 7", r"(?:boxed) (\d)", "7"),
    ],
)
def test_the_last_match_is_the_answer(text: str, pattern: str, expected: str) -> None:
    assert extract_answer(text, pattern) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{6}, no: \boxed{ 7 }", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"{ \boxed{7}", "7"),  # a brace that never closes
        (r"} \boxed{7}", "7"),  # one that never opened
        (r"\boxed{6} and \boxed{\frac{1}{", "6"),  # cut
        (r"\boxed{\frac{1}{2}", ""),
        (r"\boxed{7\}", ""),  # an escaped brace closes nothing
        (r"\boxedset{7}", ""),
        ("7", ""),
    ],
)
def test_the_last_complete_box_is_the_answer(text: str, expected: str) -> None:
    assert extract_answer(text, "boxed:") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The final answer is 42.", "42"),
        ("Final answer: 42", "42"),
        ("**Final Answer**\nIt is: ", ""),
        ("**Final Answer:** 42", "42"),
        ("**Final Answer: 42**", "42"),
        ("The final answer is:\n42\nBye", "42"),
        (r"The final answer is $\frac{1}{2}$.", r"\frac{1}{2}"),
        (r"The final answer is \(x\).", "x"),
        (r"The final answer is $\boxed{7}$.", "7"),
        ("the final answer is 3.5", "3.5"),
        ("The final answer is $3$ or $4$", "$3$ or $4$"),
        ("The final answer is 1. No, the final answer is 2", "2"),
        ("The final answer is", ""),
        ("The final answer isn't known", ""),
        ("the answer is 42", ""),
    ],
)
def test_what_follows_the_words_final_answer_is_the_answer(text: str, expected: str) -> None:
    assert extract_answer(text, "final:") == expected


def test_the_ending_that_few_shot_prompts_teach_is_no_part_of_the_answer() -> None:
    """Source: the prompt of Lewkowycz et al. 2022 (Minerva), appendix D.2."""
    text = "Final Answer: The final answer is $[2,5)$. I hope it is correct."
    assert extract_answer(text, "final:") == "[2,5)"


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ('{"answer": "42"}', "answer", "42"),
        ('```json\n{"answer": 42}\n```', "answer", "42"),
        ('{"a": {"b": [1, 0.10]}}', "a.b.1", "0.10"),
        ('{"a": 1} then {"a": 2}', "a", "2"),
        ('{"a": 1} then {"b": 2}', "a", "1"),
        ('{"a": 1} then {"a": 2', "a", "1"),  # cut
        ('{"a": "2', "a", ""),
        ('the set {1, 2} is {"a": 3}', "a", "3"),
        ('{"a": "}{"}', "a", "}{"),
        ('{"a": true}', "a", "true"),
        ('{"a": null}', "a", ""),
        ('{"a": [1, 2.5, "x", {"b": false}]}', "a", '[1,2.5,"x",{"b":false}]'),
        ('{"a": [1]}', "a.1", ""),
        ('{"a": 1}', "a.b", ""),
        ('{"a": ' + "1" * 5000 + "}", "a", "1" * 5000),
        ('{"a": "\\ud800"}', "a", "\ufffd"),  # half a surrogate pair, which could not be stored
        ("no JSON", "a", ""),
    ],
)
def test_a_field_of_the_last_json_object_is_the_answer(text: str, path: str, expected: str) -> None:
    assert extract_answer(text, f"json:{path}") == expected


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.text(alphabet='\\{}"[]:a0 .*$\n'),
        st.lists(st.sampled_from(["\\boxed{", "final answer is", "}", '{"a":', "1", '"'])).map("".join),
    ),
    st.sampled_from(PATTERNS),
)
def test_no_text_makes_an_extractor_raise(text: str, pattern: str) -> None:
    answer = extract_answer(text, pattern)
    assert answer == answer.strip()
    answer.encode()


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="{}\\", exclude_categories=("Cs",))), st.text(alphabet="a{}"))
def test_a_complete_box_is_found_behind_any_braces(answer: str, before: str) -> None:
    assert extract_answer(f"{before}\\boxed{{{answer}}}", "boxed:") == answer.strip()


@pytest.mark.parametrize(
    ("unit", "pattern"),
    [
        ("\\boxed{", "boxed:"),
        ("\\boxed ", "boxed:"),
        ("\\", "boxed:"),
        ("final answer ", "final:"),
        ("final answer is ", "final:"),
        ("final answer is \t\n*", "final:"),
        ("{", "json:a"),
        ("{}", "json:a"),
        ('{"a":', "json:a"),
        ('"\\', "json:a"),
        ('"', "json:a"),
        (" ", "final:"),
    ],
)
def test_an_extractor_takes_linear_time(unit: str, pattern: str) -> None:
    """A million characters: what takes the square of that would not end within the test's lifetime."""
    text = "final answer is" + unit * (1_000_000 // len(unit))
    assert len(extract_answer(text, pattern)) < len(text)


@pytest.mark.parametrize("pattern", [*PATTERNS, "json:result.answer.0", "(?:final:)"])
def test_a_usable_pattern_passes_the_check(pattern: str) -> None:
    check_answer_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("boxed:7", "answer_pattern boxed: takes nothing after the colon, got '7'"),
        ("final: x", "answer_pattern final: takes nothing after the colon, got ' x'"),
        ("json:", "answer_pattern json: needs a path such as result.answer, got ''"),
        ("json:a..b", "answer_pattern json: needs a path such as result.answer, got 'a..b'"),
        ("(7", "answer_pattern is no regular expression: missing )"),
        ("a{99999999999999999999}", "answer_pattern is no regular expression"),
        ("x" * 257, "answer_pattern must have at most 256 characters, got 257"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match="answer_pattern") as caught:
        check_answer_pattern(pattern)
    assert str(caught.value).startswith(message)
