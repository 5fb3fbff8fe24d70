"""Schedules and caps: the run that an engine drives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.policies import (
    AnswerConvergence,
    Confidence,
    Exit,
    ExitReason,
    Full,
    Observation,
    Policy,
    PolicyRun,
    ProbeSchedule,
    Step,
    TokenBudget,
    TrialAnswer,
)

POLICIES: Sequence[Policy] = (
    Full(),
    Full(max_thinking_tokens=30),
    TokenBudget(max_thinking_tokens=25),
    AnswerConvergence(patience=2, probe_every=7),
    AnswerConvergence(patience=3, probe_every=5, min_thinking_tokens=20, max_thinking_tokens=40),
    Confidence(threshold=0.5, patience=2),
    Confidence(threshold=0.5, probe_every=10, max_thinking_tokens=20),
)


def probe_points(policy: Policy, boundaries: set[int], tokens: int, client_cap: int | None = None) -> list[int]:
    """Where a run probes if no probe ever decides, over so many thinking tokens."""
    run = PolicyRun(policy, client_cap)
    points = []
    for token in range(1, tokens + 1):
        step = run.after_token(token, token in boundaries)
        if step is Step.PROBE:
            points.append(token)
            run.observe(Observation(token))
    return points


def test_probes_at_the_first_step_boundary_at_or_after_each_multiple() -> None:
    # 64 is passed at 70, 128 at 128 itself, 192 and 256 in one step that ends at 260, then 320 at 333.
    boundaries = {10, 63, 70, 90, 128, 140, 260, 290, 333}
    assert probe_points(AnswerConvergence(probe_every=64), boundaries, 400) == [70, 128, 260, 333]


def test_probes_at_every_step_boundary_without_an_interval() -> None:
    assert probe_points(Confidence(), {3, 4, 9}, 10) == [3, 4, 9]


def test_no_probe_before_min_thinking_tokens() -> None:
    every_token = set(range(1, 101))
    policy = AnswerConvergence(probe_every=16, min_thinking_tokens=40)
    assert probe_points(policy, every_token, 100) == [40, 48, 64, 80, 96]


def test_full_never_probes() -> None:
    assert probe_points(Full(), set(range(1, 100)), 99) == []


def test_an_observation_of_a_policy_without_schedule_is_refused() -> None:
    with pytest.raises(RuntimeError, match="full declared no probe schedule"):
        PolicyRun(Full()).observe(Observation(1))


def test_the_run_counts_its_probes() -> None:
    run = PolicyRun(Confidence(threshold=1.0))
    run.observe(Observation(3))
    run.observe(Observation(5))
    assert len(run.observations) == 2


@pytest.mark.parametrize(
    ("policy", "client_cap", "limit", "reason"),
    [
        (TokenBudget(max_thinking_tokens=5), None, 5, ExitReason.TOKEN_BUDGET),
        (Full(max_thinking_tokens=5), None, 5, ExitReason.HARD_CAP),
        (Full(), 4, 4, ExitReason.CLIENT_CAP),
        (TokenBudget(max_thinking_tokens=5), 4, 4, ExitReason.CLIENT_CAP),
        (TokenBudget(max_thinking_tokens=5), 9, 5, ExitReason.TOKEN_BUDGET),
        (Full(max_thinking_tokens=5), 5, 5, ExitReason.HARD_CAP),
    ],
)
def test_the_smaller_of_the_policys_and_the_clients_cap_ends_thinking(
    policy: Policy, client_cap: int | None, limit: int, reason: ExitReason
) -> None:
    run = PolicyRun(policy, client_cap)
    assert [run.after_token(token, False) for token in range(1, limit)] == [Step.GO_ON] * (limit - 1)
    expected = Exit(reason, limit, f"{limit} thinking tokens (limit {limit})")
    assert run.after_token(limit, False) == expected


def test_the_cap_wins_over_a_probe_at_the_same_token() -> None:
    run = PolicyRun(Confidence(probe_every=8, max_thinking_tokens=8))
    step = run.after_token(8, True)
    assert isinstance(step, Exit)
    assert step.reason is ExitReason.HARD_CAP


def test_a_schedule_without_interval_starts_at_the_minimum() -> None:
    assert ProbeSchedule(None, 5).first() == 5
    assert ProbeSchedule(None).first() == 1
    assert ProbeSchedule(None).after(7) == 8


points = st.lists(
    st.builds(TrialAnswer, st.sampled_from(["", "1", "2"]), st.tuples(st.sampled_from([-0.1, -0.6, -3.0]))),
    min_size=60,
    max_size=60,
)


def run_over(policy: Policy, trials: list[TrialAnswer], boundaries: set[int], cap: int | None) -> Exit | None:
    run = PolicyRun(policy, cap)
    for token in range(1, len(trials) + 1):
        step = run.after_token(token, token in boundaries)
        if step is Step.PROBE:
            step = run.observe(Observation(token, trials[token - 1])) or Step.GO_ON
        if isinstance(step, Exit):
            return step
    return None


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(POLICIES), points, st.sets(st.integers(1, 60)), st.none() | st.integers(1, 70))
def test_no_exit_is_decided_beyond_the_cap(
    policy: Policy, trials: list[TrialAnswer], boundaries: set[int], cap: int | None
) -> None:
    limit = min(value for value in (policy.max_thinking_tokens, cap, 10**9) if value is not None)
    found = run_over(policy, trials, boundaries, cap)
    if found is None:
        assert limit > len(trials)
    else:
        assert found.decision_step <= limit


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(POLICIES), points, st.sets(st.integers(1, 60)))
def test_the_same_observations_decide_the_same_again(
    policy: Policy, trials: list[TrialAnswer], boundaries: set[int]
) -> None:
    assert run_over(policy, trials, boundaries, None) == run_over(policy, trials, boundaries, None)
