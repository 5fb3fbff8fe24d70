"""When a run of equal trial answers that outgrows the earlier ones ends thinking."""

from __future__ import annotations

import pytest

from experiments.policies import ExitReason, RunJump
from tests.policies.observations import answered, decide


def exit_number(min_jump: int, *answers: str) -> int | None:
    found = decide(RunJump(min_jump=min_jump), [answered(text) for text in answers])
    return found[0] if found else None


@pytest.mark.parametrize("min_jump", [2, 3, 6])
def test_a_first_run_must_be_as_long_as_the_jump(min_jump: int) -> None:
    assert exit_number(min_jump, *["7"] * 8) == min_jump


def test_a_later_run_must_outgrow_the_longest_before() -> None:
    assert exit_number(2, "7", "8", "8", "8") == 4
    assert exit_number(3, "1", "1", "2", "3", "3", "3", "3", "3") == 8


def test_an_empty_answer_ends_a_run_that_counts() -> None:
    assert exit_number(3, "7", "7", "", "7", "7", "7", "7", "7") == 8


def test_the_exit_says_where_and_why() -> None:
    found = decide(RunJump(min_jump=2), [answered("7", at=10), answered("7", at=20)])
    assert found is not None
    assert (found[1].reason, found[1].decision_step) == (ExitReason.RUN_JUMP, 20)
    assert found[1].detail == "2 equal trial answers in a row, 0 at most before (jump 2)"
