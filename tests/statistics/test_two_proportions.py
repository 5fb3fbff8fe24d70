"""Two proportions and pairs: corners, symmetry, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics import ClusterAggregate, Estimate, Interval, NotEstimable
from experiments.statistics.pairs import (
    McNemar,
    PairTable,
    SequentialPairs,
    mcnemar_test,
    sequential_pairs,
    tango_interval,
    token_difference,
)
from experiments.statistics.pairs import non_inferiority as paired_non_inferiority
from experiments.statistics.two_proportions import Counts, difference, equivalence, non_inferiority, relative_risk

METHODS = ("newcombe", "miettinen_nurminen", "agresti_caffo")
COUNTS = st.tuples(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.floats(0, 1)).map(
    lambda t: Counts(round(t[0] * t[2]), t[0], round(t[1] * t[3]), t[1])
)


@pytest.mark.parametrize("method", METHODS)
@given(counts=COUNTS)
def test_an_interval_holds_its_estimate_and_stays_in_range(method: Any, counts: Counts) -> None:
    found = difference(counts, 0.95, method)
    assert isinstance(found.interval, Interval)
    assert found.value in found.interval
    assert -1 <= found.interval.lower <= found.interval.upper <= 1


@given(COUNTS)
def test_exchanging_the_arms_mirrors_the_score_interval(counts: Counts) -> None:
    mirrored = Counts(counts.treatment, counts.n_treatment, counts.control, counts.n_control)
    one, other = (difference(side, 0.95, "miettinen_nurminen").interval for side in (counts, mirrored))
    assert isinstance(one, Interval)
    assert isinstance(other, Interval)
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), abs=1e-8)


@given(COUNTS, st.floats(0.01, 0.3))
def test_the_score_test_rejects_what_its_interval_excludes(counts: Counts, margin: float) -> None:
    lower = difference(counts, 0.9, "miettinen_nurminen").interval.lower  # type: ignore[union-attr]
    p = non_inferiority(counts, margin, "miettinen_nurminen").p_value
    assert (p < 0.05) == (lower > -margin) or abs(p - 0.05) < 1e-6


def test_all_right_in_both_arms_is_evidence_in_proportion_to_its_size() -> None:
    few, many = (non_inferiority(Counts(n, n, n, n), 0.05).p_value for n in (10, 300))
    assert few > 0.05 > many


def test_equivalence_needs_both_sides() -> None:
    assert equivalence(Counts(500, 1000, 500, 1000), 0.1) < 0.05
    assert equivalence(Counts(400, 1000, 500, 1000), 0.1) > 0.4


def test_the_risk_ratio_of_a_control_without_success_is_missing() -> None:
    assert relative_risk(Counts(0, 50, 3, 50), 0.95) is None


def test_the_risk_ratio_lies_in_its_interval() -> None:
    found = relative_risk(Counts(80, 100, 40, 100), 0.95)
    assert found is not None
    assert found[0] == pytest.approx(0.5)
    assert found[0] in found[1]


@pytest.mark.parametrize(
    ("counts", "lower", "upper"),
    [
        # Koopman (Biometrics 1984), section 4: 36 of 40 against 16 of 80.
        ((16, 80, 36, 40), 2.94, 7.15),
        # Perondi et al. (2004) by PropCIs 0.3 riskscoreci, as statsmodels' own tests have it.
        ((1, 34, 7, 34), 1.220853, 42.575718),
        # Agresti, An Introduction to Categorical Data Analysis (2019), section 2.3.3: aspirin, by PropCIs.
        ((104, 11_037, 189, 11_034), 1.433904, 2.304713),
    ],
)
def test_the_risk_ratio_agrees_with_published_intervals(
    counts: tuple[int, int, int, int], lower: float, upper: float
) -> None:
    found = relative_risk(Counts(*counts), 0.95)
    assert found is not None
    assert (found[1].lower, found[1].upper) == pytest.approx((lower, upper), rel=2e-3 if lower == 2.94 else 1e-6)


def _restricted_by_search(counts: Counts, ratio: float) -> float:
    """Koopman's U at a ratio, with the restricted estimate found on a fine grid and not by its closed form."""
    control = np.linspace(1e-9, min(1.0, 1 / ratio) - 1e-9, 200_001)
    treatment = ratio * control
    likelihood = (
        counts.control * np.log(control)
        + (counts.n_control - counts.control) * np.log1p(-control)
        + counts.treatment * np.log(treatment)
        + (counts.n_treatment - counts.treatment) * np.log1p(-treatment)
    )
    p = float(control[np.argmax(likelihood)])
    variance = ratio * p * (1 - ratio * p) / counts.n_treatment + ratio**2 * p * (1 - p) / counts.n_control
    return (counts.rates[1] - ratio * counts.rates[0]) ** 2 / variance


@pytest.mark.parametrize(
    "counts", [(50, 50, 48, 50), (50, 50, 50, 50), (40, 50, 44, 50), (200, 200, 180, 200), (3, 30, 30, 30)]
)
def test_the_risk_ratio_of_full_arms_is_where_the_profile_likelihood_has_it(counts: tuple[int, int, int, int]) -> None:
    found = relative_risk(Counts(*counts), 0.95)
    assert found is not None
    ends = [_restricted_by_search(Counts(*counts), ratio) for ratio in (found[1].lower, found[1].upper)]
    assert ends == pytest.approx([stats.chi2.isf(0.05, 1)] * 2, rel=2e-3)


@given(COUNTS)
def test_exchanging_the_arms_inverts_the_risk_ratio(counts: Counts) -> None:
    mirrored = Counts(counts.treatment, counts.n_treatment, counts.control, counts.n_control)
    one, other = (relative_risk(side, 0.95) for side in (counts, mirrored))
    if one is not None and other is not None:
        assert (one[1].lower, one[1].upper) == pytest.approx((1 / other[1].upper, 1 / other[1].lower), rel=1e-6)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((-1, 5, 1, 5), "control must be >= 0, got -1"),
        ((6, 5, 1, 5), "control must be <= n_control = 5, got 6"),
        ((0, 0, 1, 5), "n_control must be > 0, got 0"),
    ],
)
def test_impossible_counts_are_refused(counts: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Counts(*counts)


def test_a_margin_of_three_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin must be in \(0, 1\), got 3"):
        non_inferiority(Counts(1, 2, 1, 2), 3)


TABLES = st.tuples(*[st.integers(0, 200)] * 4).map(lambda t: PairTable(*t)).filter(lambda table: table.n > 0)


@given(TABLES)
def test_a_paired_interval_holds_its_estimate(table: PairTable) -> None:
    found = tango_interval(table, 0.95)
    assert isinstance(found, Estimate)
    assert isinstance(found.interval, Interval)
    assert found.value in found.interval


@given(TABLES, st.floats(0.01, 0.3))
def test_the_paired_test_rejects_what_its_interval_excludes(table: PairTable, margin: float) -> None:
    found = tango_interval(table, 0.9)
    assert isinstance(found, Estimate)
    p = paired_non_inferiority(table, margin).p_value
    assert (p < 0.05) == (found.interval.lower > -margin) or abs(p - 0.05) < 1e-6  # type: ignore[union-attr]


def test_tables_of_disjoint_pairs_add_up() -> None:
    assert PairTable(1, 2, 3, 4) + PairTable(4, 3, 2, 1) == PairTable(5, 5, 5, 5)


def test_without_a_discordant_pair_there_is_no_mcnemar_test() -> None:
    assert isinstance(mcnemar_test(PairTable(9, 0, 0, 1)), NotEstimable)


def test_pairs_decide_with_fewer_units_than_two_arms_would() -> None:
    """2 % discordance, margin 2 points: 2,000 pairs, where independent arms at .72 need 6,233 each."""
    both = ClusterAggregate(2_000, 2_000, 0, 40, 2_000, 0)
    found = sequential_pairs(both, 0.02, 0.05, 0.95, 2_000)
    assert isinstance(found, SequentialPairs)
    assert found.p_non_inferiority < 0.05
    assert found.lower_bound > -0.02


def test_pairs_without_discordance_keep_an_uncertainty() -> None:
    found = sequential_pairs(ClusterAggregate(30, 30, 0, 0, 30, 0), 0.02, 0.05, 0.95, 1_000)
    assert isinstance(found, SequentialPairs)
    assert found.p_non_inferiority > 0.05


def test_29_pairs_are_too_few_for_repeated_looks() -> None:
    found = sequential_pairs(ClusterAggregate(29, 29, 0, 0, 29, 0), 0.02, 0.05, 0.95, 1_000)
    assert found == NotEstimable("pairs need at least 30 units with graded ones, got 29")


def test_as_many_discordant_pairs_each_way_have_a_mid_p_of_one() -> None:
    found = mcnemar_test(PairTable(5, 3, 3, 5))
    assert isinstance(found, McNemar)
    assert found.p_mid == 1.0


def test_a_paired_token_difference_is_that_of_the_pairs() -> None:
    control = ClusterAggregate.from_values([10, 20, 30])
    found = token_difference(control, ClusterAggregate.from_values([-1, -2, -6]), 0.95)
    assert isinstance(found, Estimate)
    assert found.value == -3
