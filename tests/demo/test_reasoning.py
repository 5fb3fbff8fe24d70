"""The thinking the model is taught: drafts with slips, checks that mend them, checks that find nothing."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from demo.tiny_reasoner.reasoning import CHECKS, CORRECTION, DRAFT, reasoning_trace, slip_facts
from demo.tiny_reasoner.task import Operation, Problem, sample_problem

TRACES = 300


def _passes(rng: random.Random, problem: Problem) -> list[list[str]]:
    """Lines of each pass, its header first."""
    lines = [line.text for line in reasoning_trace(rng, problem)]
    size = problem.steps + 1
    return [lines[start : start + size] for start in range(0, len(lines), size)]


def test_last_pass_ends_in_the_answer() -> None:
    rng = random.Random(0)
    for _ in range(TRACES):
        problem = sample_problem(rng)
        assert str(reasoning_trace(rng, problem)[-1].value) == problem.answer


def test_some_drafts_are_wrong_and_mended() -> None:
    rng = random.Random(1)
    wrong = 0
    for _ in range(TRACES):
        problem = sample_problem(rng)
        wrong += str(reasoning_trace(rng, problem, draft_only=True)[-1].value) != problem.answer
    # Each of 4.5 steps slips with probability 0.12 on average: 1 - 0.88 ** 4.5 is 0.44.
    assert 0.3 < wrong / TRACES < 0.55


def test_four_clean_checks_in_a_row_end_the_thinking() -> None:
    rng = random.Random(2)
    for _ in range(TRACES):
        passes = _passes(rng, sample_problem(rng))
        clean = [not any(line.endswith(" no\n") for line in lines[1:]) for lines in passes[1:]]
        assert clean[-len(CHECKS) :] == [True] * len(CHECKS)
        assert not any(clean[start : start + len(CHECKS)] == [True] * 4 for start in range(len(clean) - 4))


def test_a_correction_is_followed_by_a_correcting_pass() -> None:
    rng = random.Random(3)
    for _ in range(TRACES):
        passes = _passes(rng, sample_problem(rng))
        assert passes[0][0] == f"{DRAFT}\n"
        for before, after in itertools.pairwise(passes[1:]):
            corrected = any(line.endswith(" no\n") for line in before)
            assert (after[0] == f"{CORRECTION}\n") == corrected


def test_verifying_lines_quote_the_value_before_and_tag_the_change() -> None:
    rng = random.Random(4)
    for _ in range(50):
        passes = _passes(rng, sample_problem(rng))
        for before, after in itertools.pairwise(passes):
            for old, new in zip(before[1:], after[1:], strict=True):
                found = re.fullmatch(r"[b-h]=(\d+)\?\d+[-+*]\d=(\d+)( ok| no)\n", new)
                assert found is not None, new
                quoted, value, tag = found.groups()
                assert quoted == re.findall(r"=(\d+)(?: ok| no)?\n", old)[-1]
                assert tag == (" ok" if quoted == value else " no")


@pytest.mark.parametrize(("share", "kind"), [(0.10, "draft"), (0.015, "stubborn")])
def test_slipping_facts_occur_as_often_as_declared(share: float, kind: str) -> None:
    # A fact of + or - has probability 1/3 * 1/9 * 1/10, one of * has 1/3 * 1/3 * 1/10.
    facts = getattr(slip_facts(), kind)
    occurring = sum(1 / 90 if symbol == "*" else 1 / 270 for symbol, _, _ in facts)
    assert occurring == pytest.approx(share, abs=0.004)


def test_slipping_facts_all_have_a_carry_to_forget() -> None:
    for symbol, operand, units in slip_facts().draft | slip_facts().stubborn:
        tens_change = Operation(symbol, operand).apply(units) // 10
        assert tens_change > 0 or units * operand >= 10
