"""Judgements in processes that are killed when they overrun."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata

import pytest

from experiments.grading import MATH_VERIFY_RELEASE, MathVerify, Plain, grader_by_name
from experiments.services.judging import Judgement, JudgePool, Task

HANGS = (sys.executable, "-c", "print('ready', flush=True); input(); __import__('threading').Event().wait()")
DIES = (sys.executable, "-c", "print('ready', flush=True); input(); raise SystemExit(3)")
ONCE = (sys.executable, "-c", "print('ready', flush=True); input(); print('{\"correct\": true}', flush=True)")
HUGE = "9^{9^{9^{9}}}"


@pytest.fixture(scope="module")
def pool() -> Iterator[JudgePool]:
    """Two real judges."""
    made = JudgePool(2)
    yield made
    made.close()


def mathematics(answer: str, reference: str, **options: object) -> Task:
    return Task(MathVerify(**options), answer, reference)  # type: ignore[arg-type]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for each judgement."""
    monkeypatch.setattr(MathVerify, "timeout_seconds", 0.5)
    monkeypatch.setattr(Plain, "timeout_seconds", 0.5)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("0.5", r"\frac{1}{2}"),
        ("1/2", "0.5"),
        (r"\boxed{\frac{2}{4}}", "1/2"),
        (r"The answer is $\frac{2}{4}$.", "0.5"),
        ("0.50", "0.5"),
        ("{3, 1, 2}", r"\{1, 2, 3\}"),
        ("[1,2)", "[1,2)"),
        (r"(-\infty, 3]", r"(-\infty,3]"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("sqrt(8)", r"2\sqrt{2}"),
        ("(x-1)(x+1)", "x^2-1"),
        ("x=5", "5"),
        ("1,000", "1000"),
        ("50%", "0.5"),
        ("42 apples", "42"),
        (r"\text{even}", r"\text{even}"),
        ("even", "even"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}"),
    ],
)
def test_equal_mathematics_is_correct(pool: JudgePool, answer: str, reference: str) -> None:
    assert pool.judge([mathematics(answer, reference)]) == [Judgement(True)]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("0.33", r"\frac{1}{3}"),
        ("[1,2]", "[1,2)"),
        (r"\{1,2\}", r"\{1,2,3\}"),
        ("1,2", "2"),
        ("y+1", "x+1"),
        ("odd", "even"),
        ("", "1"),
        (r"\frac{1}{", "1"),
        ("I do not know", "1"),
    ],
)
def test_other_mathematics_is_incorrect(pool: JudgePool, answer: str, reference: str) -> None:
    assert pool.judge([mathematics(answer, reference)]) == [Judgement(False)]


def test_the_reference_and_the_answer_are_not_interchangeable(pool: JudgePool) -> None:
    """A set answers a relation, a relation does not answer a set (README of math-verify 0.9.0)."""
    found = pool.judge([mathematics("(1,2)", "1 < x < 2"), mathematics("1 < x < 2", "(1,2)")])
    assert found == [Judgement(True), Judgement(False)]


def test_options_reach_the_library(pool: JudgePool) -> None:
    found = pool.judge([mathematics("0.33", "1/3", float_rounding=2), mathematics("y+1", "x+1", strict=False)])
    assert found == [Judgement(True), Judgement(True)]


def test_a_reference_that_is_no_mathematics_says_so(pool: JudgePool) -> None:
    [found] = pool.judge([mathematics("1", "$")])
    assert found == Judgement(None, "reference", "reference must be mathematics, got '$'")


def test_mathematics_without_end_times_out_and_the_others_are_judged(pool: JudgePool, short: None) -> None:
    found = pool.judge([mathematics("1", "1"), mathematics("1", HUGE), mathematics("2", "2")])
    assert found == [
        Judgement(True),
        Judgement(None, "timeout", "math_verify timed out after 0.5 seconds"),
        Judgement(True),
    ]


def test_an_expression_without_end_times_out(pool: JudgePool, short: None) -> None:
    [found] = pool.judge([Task(Plain(regexes_to_ignore=("(a+)+$",)), "a" * 60 + "b", "b")])
    assert found == Judgement(None, "timeout", "plain timed out after 0.5 seconds")


def test_a_judge_that_hangs_is_killed(short: None) -> None:
    hanging = JudgePool(1, HANGS)
    [found] = hanging.judge([mathematics("1", "1")])
    assert found is not None
    assert found.failure == "timeout"
    assert hanging._idle == []  # killed and waited for, not kept


def test_a_judge_that_dies_says_so() -> None:
    [found] = JudgePool(1, DIES).judge([mathematics("1", "1")])
    assert found == Judgement(None, "judge", "the judging process ended: exit status 3")


def test_a_judge_that_left_is_replaced() -> None:
    leaving = JudgePool(1, ONCE)
    assert leaving.judge([mathematics("1", "1")] * 3) == [Judgement(True)] * 3
    leaving.close()


def test_without_a_process_tasks_are_left(caplog: pytest.LogCaptureFixture) -> None:
    assert JudgePool(1, (sys.executable, "-c", "raise SystemExit(3)")).judge([mathematics("1", "1")]) == [None]
    assert "no process that judges can be started: BrokenPipeError exit status 3" in caplog.text


def test_what_is_not_begun_in_time_is_left(pool: JudgePool) -> None:
    assert pool.judge([mathematics("1", "1")], within=0.0) == [None]


def test_no_task_is_no_judgement(pool: JudgePool) -> None:
    assert pool.judge([]) == []


def test_any_grader_can_be_judged_apart(pool: JudgePool) -> None:
    assert pool.judge([Task(grader_by_name("numeric"), "0.5", "1/2")]) == [Judgement(True)]


def test_the_graders_version_is_the_installed_release() -> None:
    """Another release may judge otherwise: raise the version of the grader with it."""
    assert metadata.version("math-verify") == MATH_VERIFY_RELEASE == "0.9.0"
    assert MathVerify.version == 1
