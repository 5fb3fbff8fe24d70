"""The simulation suite in its shortest form: every scenario runs, and the report says what it found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulations import __main__ as suite
from benchmarks.simulations.figures import Figure, Scenario, share


@pytest.mark.parametrize("scenario", suite.SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_is_the_same_for_the_same_seed(scenario: Scenario) -> None:
    figures = scenario.run(3, 2)
    assert figures
    assert all(math.isfinite(figure.value) for figure in figures)
    assert scenario.run(3, 2) == figures


def test_a_promise_is_kept_within_three_monte_carlo_errors() -> None:
    assert share("", 70, 1_000, 0.05, "at most").holds
    assert not share("", 80, 1_000, 0.05, "at most").holds
    assert not share("", 900, 1_000, 0.94, "at least").holds
    assert share("", 80, 1_000, 0.05, "shown").holds


def test_a_few_replications_break_a_promise_only_when_chance_can_hardly_do_it() -> None:
    """Of 10 replications at 5 %, at least 3 count with probability .0115 and at least 5 with 6.4e-5."""
    assert share("", 3, 10, 0.05, "at most").holds
    assert not share("", 5, 10, 0.05, "at most").holds
    assert share("", 5, 10, 0.8, "at least").holds
    assert not share("", 3, 10, 0.8, "at least").holds


def test_a_share_of_nothing_or_all_is_bounded_by_the_number_of_runs() -> None:
    """The rule of three: about 3 / n (Hanley and Lippman-Hand, JAMA 1983)."""
    assert share("", 0, 300, 0.05, "at most").bound == pytest.approx(3 / 300, rel=0.01)
    assert share("", 300, 300, 0.05, "at least").bound == pytest.approx(1 - 3 / 300, rel=0.01)
    assert share("", 1, 300, 0.05, "at most").bound is None


def test_the_report_bounds_a_share_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [share("heads", 0, 500, 0.5, "at most")]
    scenario: Any = Scenario("coin", "Coin", "A coin.", lambda seed, n: figures, 100)
    monkeypatch.setattr(suite, "SCENARIOS", [scenario])
    assert "| heads | 0.0000 (≤ 0.0060) | at most 0.5 | 500 |" in suite.report({"coin": figures})


def test_finished_scenarios_are_not_simulated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def count(seed: int, replications: int) -> list[Figure]:
        runs.append(replications)
        return [share("heads", 1, 2, 0.5, "at most")]

    monkeypatch.setattr(suite, "ROOT", tmp_path)
    scenario = Scenario("coin", "Coin", "A coin.", count, 100)
    assert suite.run(scenario, quick=False) == suite.run(scenario, quick=False)
    assert runs == [100]


def test_the_report_marks_a_promise_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [share("heads", 80, 100, 0.5, "at most"), Figure("throws", 1234.4, 5.0, None, "shown", 7)]
    scenario: Any = Scenario("coin", "Coin", "A coin.", lambda seed, n: figures, 100)
    monkeypatch.setattr(suite, "SCENARIOS", [scenario])
    text = suite.report({"coin": figures})
    assert "| heads | 0.8000 ± 0.0400 | at most 0.5 (**not kept**) | 100 |" in text
    assert "| throws | 1,234 ± 5 | shown | 7 |" in text
