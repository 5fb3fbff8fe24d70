"""Error rates over the phases of an experiment."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.statistics import Decision, LookInputs, analyse
from experiments.statistics.arms import ArmAggregates
from experiments.statistics.evidence import Evidence
from experiments.statistics.phases import SMALLEST, alpha_in_phase
from experiments.statistics.safe_proportions import SafeDifference
from tests.statistics.builders import arm, design


@given(alpha=st.floats(1e-6, 0.5), phases=st.integers(1, 400))
def test_all_phases_together_keep_the_declared_alpha(alpha: float, phases: int) -> None:
    spent = math.fsum(alpha_in_phase(alpha, number) for number in range(1, phases + 1))
    assert 0.75 * alpha <= spent <= alpha + phases * SMALLEST


@given(alpha=st.floats(1e-6, 0.5), number=st.integers(1, 32_767))
def test_a_further_phase_never_has_more(alpha: float, number: int) -> None:
    assert 0 < alpha_in_phase(alpha, number + 1) <= alpha_in_phase(alpha, number) < alpha


def test_the_first_phase_has_three_quarters_and_the_second_three_sixteenths() -> None:
    assert [alpha_in_phase(0.04, number) for number in (1, 2)] == pytest.approx([0.03, 0.0075])


@pytest.mark.parametrize(("alpha", "number", "message"), [(0.05, 0, "number must be > 0"), (0.0, 1, "alpha must be")])
def test_bad_input_is_refused(alpha: float, number: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alpha_in_phase(alpha, number)


def _look(number: int, *arms: ArmAggregates) -> LookInputs:
    alphas = {name: alpha_in_phase(0.05, number) for name in ("alpha", "false_revert_alpha")}
    return LookInputs(design("early", **alphas), arms)


def test_the_hundredth_phase_still_gives_numbers() -> None:
    arms = np.arange(400) % 2
    inputs = _look(100, arm("full", 400, 390), arm("early", 400, 385, 600.0))
    test = SafeDifference.for_interval(0.05).advance(arms, np.ones(400, dtype=bool))
    exact = LookInputs(inputs.design, inputs.arms, evidence={"early": Evidence(em_test=test)})
    for given_inputs in (inputs, exact):
        assert analyse(given_inputs).verdict.decision is Decision.KEEP_RUNNING


def test_units_of_earlier_phases_count_towards_the_maximum() -> None:
    inputs = LookInputs(
        design("early", maximum_units=3_000), (arm("full", correct=850), arm("early", mean=900.0)), earlier_units=1_000
    )
    snapshot = analyse(inputs)
    assert (snapshot.total_units, snapshot.verdict.decision) == (3_000, Decision.INCONCLUSIVE)
