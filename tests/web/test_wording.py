"""Numbers and policies in words; the geometry of the forest plot."""

from __future__ import annotations

import pytest

from experiments.policies import POLICIES
from experiments.web.forest import WIDTH, Mark, panel
from experiments.web.presets import PRESETS
from experiments.web.wording import minus, number, percent, points, policy_words, saving


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1234567, 0, "1,234,567"), (-0.04, 1, "0.0"), (-12.34, 1, "\N{MINUS SIGN}12.3")],
)
def test_number(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_fractions_become_points_and_percent() -> None:
    assert points(-0.0123, sign=True) == "\N{MINUS SIGN}1.2 points"
    assert percent(0.4444, sign=True) == "+44.4%"


def test_minus_leaves_hyphens_alone() -> None:
    assert minus("step-1020 of non-1 is -5.0 (-6.0)") == "step-1020 of non-1 is \N{MINUS SIGN}5.0 (\N{MINUS SIGN}6.0)"


@pytest.mark.parametrize(("fraction", "text"), [(0.2, "at least 20% fewer"), (-0.05, "at most 5% more")])
def test_saving_in_words(fraction: float, text: str) -> None:
    assert saving(fraction) == text


def test_policy_words_follow_the_declared_order() -> None:
    spec = {"name": "answer_convergence", "parameters": {"probe_every": 32, "patience": 2}}
    assert policy_words(spec) == "Answer convergence: patience 2 probes, probe every 32 tokens"


def test_policy_of_a_newer_version_keeps_its_name() -> None:
    assert policy_words({"name": "not_known_here"}) == "not_known_here"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_policies(name: str) -> None:
    assert PRESETS[name].spec["name"] in POLICIES


@pytest.mark.parametrize("scale", [1e-6, 0.5, 100.0])
@pytest.mark.parametrize("bound", [-5.0, 5.0])
def test_forest_keeps_everything_inside(scale: float, bound: float) -> None:
    marks = [
        Mark("control", "", "plain", 0.0),
        Mark("x", "", "good", scale, -scale, 3 * scale),
        Mark("y", "", "bad"),
    ]
    drawn = panel("k", "t", "a", marks, bound=bound, bound_label="b", accepted_above=True, description="d")
    places = [drawn.zero_x, drawn.bound_x, *(tick.x for tick in drawn.ticks)]
    places += [x for row in drawn.rows for x in (row.x, row.x_lower, row.x_upper) if x is not None]
    assert all(0 <= x <= WIDTH for x in places)
    assert 2 <= len(drawn.ticks) <= 7
    assert "0" in [tick.text for tick in drawn.ticks]
    assert drawn.rows[2].x is None


def test_forest_orders_values_from_left_to_right() -> None:
    mark = Mark("x", "", "good", -44.0, -48.0, -41.0)
    drawn = panel("k", "t", "a", [mark], bound=-20.0, bound_label="b", accepted_above=False, description="d")
    row = drawn.rows[0]
    assert row.x_lower is not None
    assert row.x is not None
    assert row.x_upper is not None
    assert row.x_lower < row.x < row.x_upper < drawn.bound_x < drawn.zero_x
    assert drawn.accepted_x + drawn.accepted_width == pytest.approx(drawn.bound_x)
