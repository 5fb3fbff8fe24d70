"""When equal trial answers end thinking."""

from __future__ import annotations

import pytest

from experiments.policies import AnswerConvergence, Exit, ExitReason, Observation
from tests.policies.observations import answered, decide


def exit_number(patience: int, *answers: str) -> int | None:
    found = decide(AnswerConvergence(patience=patience), [answered(text) for text in answers])
    return found[0] if found else None


@pytest.mark.parametrize("patience", [2, 3, 8])
def test_exits_at_the_probe_that_makes_patience_equal_answers_in_a_row(patience: int) -> None:
    assert exit_number(patience, *["7"] * (patience + 2)) == patience


def test_another_answer_starts_a_new_run_of_one() -> None:
    assert exit_number(3, "7", "7", "8", "8", "8") == 5


def test_an_answer_that_returns_does_not_continue_its_old_run() -> None:
    assert exit_number(3, "7", "7", "8", "7", "7") is None


@pytest.mark.parametrize("empty", ["", "  \n", "."])
def test_an_empty_answer_breaks_the_run(empty: str) -> None:
    assert exit_number(2, "7", empty, "7") is None


def test_empty_answers_never_agree() -> None:
    assert exit_number(2, "", "", "") is None


def test_a_probe_without_a_trial_answer_breaks_the_run() -> None:
    points = [answered("7"), Observation(128), answered("7")]
    assert decide(AnswerConvergence(patience=2), points) is None


def test_answers_are_compared_as_the_normaliser_spells_them() -> None:
    assert exit_number(2, "The  Answer.", " the answer") == 2


def test_the_exit_says_where_and_why() -> None:
    found = decide(AnswerConvergence(patience=2), [answered("7", at=70), answered("7", at=131)])
    assert found == (2, Exit(ExitReason.CONVERGED, 131, "2 equal trial answers in a row (patience 2)"))


def test_it_probes_after_each_so_many_tokens() -> None:
    schedule = AnswerConvergence(probe_every=32, min_thinking_tokens=100).schedule()
    assert (schedule.every, schedule.minimum) == (32, 100)
