"""When the moving variance of the entropy ends thinking."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.policies import EntropyPlateau, ExitReason, Observation
from tests.policies.observations import decide


def exit_number(policy: EntropyPlateau, *entropies: float | None) -> int | None:
    found = decide(policy, [Observation(64, end_entropy=entropy) for entropy in entropies])
    return found[0] if found else None


def test_a_constant_entropy_ends_thinking_when_the_warm_up_is_over() -> None:
    assert exit_number(EntropyPlateau(warm_up=4), *[1.5] * 8) == 4


@pytest.mark.parametrize("timescale", [1.0, 3.0, 20.0])
@given(level=st.floats(0, 12), probes=st.integers(2, 40))
def test_the_start_has_no_weight(timescale: float, level: float, probes: int) -> None:
    """Without the bias correction the mean would rise from 0 and a constant entropy would seem to move."""
    policy = EntropyPlateau(timescale=timescale, warm_up=probes, delta=1e-9)
    assert exit_number(policy, *[level] * probes) == probes


def test_an_entropy_that_falls_keeps_thinking() -> None:
    falling = [5.0 - 0.5 * n for n in range(10)]
    assert exit_number(EntropyPlateau(delta=0.05, timescale=4.0), *falling) is None


def test_it_settles_after_the_entropy_has() -> None:
    """By hand, a = 1/2: means 4, 2.4, 11/7, 1.2 (corrected), variances from H - mean."""
    values = [4.0, 1.6, 0.85714285714, 0.85714285714]
    mean = variance = 0.0
    for t, value in enumerate(values, 1):
        mean = 0.5 * mean + 0.5 * value
        share = 1 - 0.5**t
        variance = 0.5 * variance + 0.5 * (value - mean / share) ** 2
    last = variance / (1 - 0.5 ** len(values))
    assert exit_number(EntropyPlateau(delta=last * 1.001, timescale=2.0, warm_up=4), *values) == 4
    assert exit_number(EntropyPlateau(delta=last * 0.999, timescale=2.0, warm_up=4), *values) is None


def test_an_entropy_that_could_not_be_measured_is_no_probe() -> None:
    assert exit_number(EntropyPlateau(warm_up=2), 1.0, None, 1.0) == 3


def test_the_exit_says_where_and_why() -> None:
    found = decide(EntropyPlateau(warm_up=2), [Observation(n, end_entropy=math.e) for n in (10, 20)])
    assert found is not None
    assert (found[1].reason, found[1].decision_step) == (ExitReason.ENTROPY_SETTLED, 20)
    assert "< 0.001 nats squared after 2 probes" in found[1].detail
