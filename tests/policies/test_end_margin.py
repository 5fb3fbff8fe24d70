"""When a small margin to the end of thinking ends it."""

from __future__ import annotations

import pytest

from experiments.policies import EndMargin, Exit, ExitReason, Observation
from tests.policies.observations import decide


def exit_number(policy: EndMargin, *margins: float | None) -> int | None:
    found = decide(policy, [Observation(64, end_margin=margin) for margin in margins])
    return found[0] if found else None


def test_exits_at_the_first_margin_within_the_threshold() -> None:
    assert exit_number(EndMargin(threshold=0.5), 2.0, 0.51, 0.5, 0.1) == 3


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_exits_after_patience_readings_in_a_row(patience: int) -> None:
    assert exit_number(EndMargin(threshold=0.5, patience=patience), 0.1, 2.0, 0.1, 0.2, 0.3) == (1, 4, 5)[patience - 1]


def test_a_margin_that_could_not_be_read_breaks_the_run() -> None:
    assert exit_number(EndMargin(threshold=0.5, patience=2), 0.1, None, 0.1) is None


def test_the_exit_says_where_and_why() -> None:
    found = decide(EndMargin(threshold=0.25), [Observation(70, end_margin=0.125)])
    detail = "margin 0.1250 <= 0.25 at 1 readings in a row (patience 1)"
    assert found == (1, Exit(ExitReason.END_NEAR, 70, detail))


def test_it_pays_for_no_branch() -> None:
    assert not EndMargin().needs_branch
