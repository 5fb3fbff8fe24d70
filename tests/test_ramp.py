"""Ramps of coverage, as values."""

from __future__ import annotations

import pytest

from experiments.ramp import Step, hold_seconds, next_coverage, ramp_from_json, ramp_to_json

JSON = [
    {"coverage": 0.01, "hold_seconds": 60},
    {"coverage": 0.5, "hold_seconds": 600},
    {"coverage": 1, "hold_seconds": 0},
]
RAMP = (Step(0.01, 60), Step(0.5, 600), Step(1.0, 0))


def test_its_json_form_is_inverted() -> None:
    assert ramp_from_json(JSON) == RAMP
    assert ramp_from_json(ramp_to_json(RAMP)) == RAMP


@pytest.mark.parametrize(
    ("coverage", "following", "hold"),
    [(0.0, 0.01, 0), (0.01, 0.5, 60), (0.2, 0.5, 60), (0.5, 1.0, 600), (1.0, None, 0)],
)
def test_a_coverage_is_held_as_long_as_the_step_that_it_has_reached(
    coverage: float, following: float | None, hold: int
) -> None:
    assert (next_coverage(RAMP, coverage), hold_seconds(RAMP, coverage)) == (following, hold)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", "ramp must be a list of at most 20 steps, got 'fast'"),
        (JSON * 7, "ramp must be a list of at most 20 steps"),
        ([0.5], r"ramp\[0\] must be an object with coverage and hold_seconds, got 0.5"),
        ([{"coverage": 0.5}], r"ramp\[0\] must be an object with coverage and hold_seconds"),
        ([{"coverage": 0, "hold_seconds": 1}], r"ramp\[0\].coverage must be above 0 and at most 1, got 0"),
        ([{"coverage": float("nan"), "hold_seconds": 1}], "coverage must be above 0 and at most 1, got nan"),
        ([{"coverage": True, "hold_seconds": 1}], "coverage must be above 0 and at most 1, got True"),
        ([{"coverage": 1, "hold_seconds": -1}], "hold_seconds must be a whole number from 0 to 7776000, got -1"),
        ([{"coverage": 1, "hold_seconds": 0.5}], "hold_seconds must be a whole number from 0 to 7776000, got 0.5"),
        ([JSON[1], JSON[1]], r"ramp\[1\].coverage must be above the step before it, 0.5, got 0.5"),
    ],
)
def test_what_is_no_ramp_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ramp_from_json(value)
