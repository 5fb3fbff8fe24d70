"""What a look shows beyond what decides: shadow pairs, and predictions of correctness."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.statistics import NotEstimable
from experiments.statistics.columns import PAIR_COLUMNS, UNIT_COLUMNS
from experiments.statistics.details import PairReport, detail, pair_report
from experiments.statistics.evidence import Evidence
from experiments.statistics.moments import UnitMoments
from experiments.statistics.pairs import SequentialPairs
from experiments.statistics.prediction_powered import RectifiedContrast
from tests.statistics.builders import design


def shadowed(n: int, graded: int) -> UnitMoments:
    """Units with one pair each, the first `graded` of them graded and both right."""
    rows = np.zeros((n, len(PAIR_COLUMNS)), dtype=np.int64)
    rows[:, PAIR_COLUMNS.index("pairs")] = 1
    rows[:graded, PAIR_COLUMNS.index("graded")] = rows[:graded, PAIR_COLUMNS.index("both_right")] = 1
    rows[:, PAIR_COLUMNS.index("control_tokens")] = 1_000
    rows[:, PAIR_COLUMNS.index("treatment_tokens")] = 600 + np.arange(n) % 7
    return UnitMoments.from_totals(PAIR_COLUMNS, rows)


def report(pairs: UnitMoments) -> PairReport:
    found = pair_report(pairs, design(margin=0.02))
    assert isinstance(found, PairReport)
    return found


def test_pairs_that_are_not_graded_say_nothing_of_em() -> None:
    few, many = (report(shadowed(n, 40)).sequential for n in (40, 2_000))
    assert few == many


def test_ten_graded_pairs_among_two_thousand_are_too_few() -> None:
    """Their p-value was 2e-125."""
    found = report(shadowed(2_000, 10))
    assert found.sequential == NotEstimable("pairs need at least 30 units with graded ones, got 10")
    assert not isinstance(found.tokens, NotEstimable)


def test_forty_graded_pairs_without_discordance_exclude_no_loss_of_two_points() -> None:
    found = report(shadowed(2_000, 40)).sequential
    assert isinstance(found, SequentialPairs)
    assert (found.difference.units, found.p_non_inferiority > 0.05) == (40, True)


def test_a_unit_with_most_of_the_graded_pairs_counts_for_little_more_than_one() -> None:
    rows = np.array([[100]] + [[1]] * 50)
    assert UnitMoments.from_totals(("graded",), rows).units_with({"graded": 1.0}) == 3


def test_units_without_a_count_do_not_count() -> None:
    assert UnitMoments.from_totals(("graded",), np.array([[2]] * 5 + [[0]] * 9)).units_with({"graded": 1.0}) == 5


def test_no_unit_has_a_count_where_none_was_graded() -> None:
    assert UnitMoments.from_totals(("graded",), np.array([[0], [0]])).units_with({"graded": 1.0}) == 0


@settings(max_examples=200)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 4), min_size=1, max_size=12))
def test_no_more_units_are_counted_than_have_graded_pairs(rows: list[tuple[int, int, int, int]]) -> None:
    pairs = np.zeros((len(rows), len(PAIR_COLUMNS)), dtype=np.int64)
    for row, (right, lost, gained, wrong) in zip(pairs, rows, strict=True):
        graded = right + lost + gained + wrong
        row[:] = (graded + 1, lost + gained, graded, right, lost, gained, 1_000, 900)
    moments = UnitMoments.from_totals(PAIR_COLUMNS, pairs)
    counted = moments.units_with({"graded": 1.0}, {"only_treatment": 1.0, "only_control": -1.0})
    assert counted <= np.count_nonzero(pairs[:, PAIR_COLUMNS.index("graded")])
    assert isinstance(pair_report(moments, design()), PairReport)


def predicted(labelled: int, *, random: bool) -> Evidence:
    """1,000 requests with a prediction each, of which some are labelled."""
    rows = np.zeros((1_000, len(UNIT_COLUMNS)), dtype=np.int64)
    marks = (np.arange(1_000) < labelled).astype(np.int64)
    right = (np.arange(1_000) % 10 > 0).astype(np.int64)
    columns = {"completions": 1, "answered": 1, "answer": 10, "labelled": marks, "labelled_units": marks}
    columns |= {"correct": marks * right, "proxy": 100 * right, "labelled_proxy": 100 * marks * right}
    for name, values in columns.items():
        rows[:, UNIT_COLUMNS.index(name)] = values
    return Evidence(UnitMoments.from_totals(UNIT_COLUMNS, rows), predictions=True, random_labels=random)


@pytest.mark.parametrize(("labelled", "random"), [(100, True), (1_000, False)])
def test_predictions_are_rectified_by_a_random_sample_or_by_all(labelled: int, random: bool) -> None:
    arm = predicted(labelled, random=random)
    assert isinstance(detail("early", arm, arm, design()).prediction_powered, RectifiedContrast)


def test_predictions_are_not_rectified_by_whatever_is_labelled() -> None:
    """References come with the requests that users know the answer to, and those may be the easy ones."""
    arm = predicted(100, random=False)
    assert detail("early", arm, arm, design()).prediction_powered == NotEstimable(
        "the labelled requests are no random sample: that takes the label source audit"
    )
