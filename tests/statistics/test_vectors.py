"""Agreement with numbers that were computed or published by others (tests/data/stat_vectors.json)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from experiments.statistics import Interval, SequentialSRM, sequential
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.multiplicity import holm
from experiments.statistics.relative import delta_standard_error, fieller_interval
from experiments.statistics.srm import chi_square
from tests.statistics.builders import close, from_summary, from_sums

PATH = Path(__file__).parents[1] / "data" / "stat_vectors.json"
VECTORS = {vector["name"]: vector for vector in json.loads(PATH.read_text(encoding="utf-8"))}


def _arms(inputs: dict[str, Any]) -> tuple[ClusterAggregate, ClusterAggregate]:
    if "mean_control" in inputs:
        pair = [
            from_summary(inputs[f"n_{arm}"], inputs[f"mean_{arm}"], inputs[f"sd_{arm}"])
            for arm in ("control", "treatment")
        ]
    else:
        pair = [
            from_sums(inputs[arm]["sum"], inputs[arm]["sum_squares"], inputs[arm]["n"])
            for arm in ("control", "treatment")
        ]
    return pair[0], pair[1]


def _relative(inputs: dict[str, Any]) -> tuple[float, float, int]:
    control, treatment = _arms(inputs)
    se = delta_standard_error(control.mean, control.variance_of_mean, treatment.mean, treatment.variance_of_mean)
    return treatment.mean / control.mean - 1, se, control.units + treatment.units


def _em(inputs: dict[str, Any]) -> tuple[float, float, int]:
    """The vectors use the plain binomial variance."""
    rates = [(inputs[f"x_{arm}"] / inputs[f"n_{arm}"], inputs[f"n_{arm}"]) for arm in ("control", "treatment")]
    se = math.sqrt(sum(p * (1 - p) / n for p, n in rates))
    return rates[1][0] - rates[0][0], se, rates[0][1] + rates[1][1]


def _sequential(estimate: float, se: float, n: int, inputs: dict[str, Any]) -> dict[str, Any]:
    tuning_n, alpha = inputs["sequential_tuning_parameter"], inputs["alpha"]
    interval = sequential.confidence_sequence(estimate, se, n, tuning_n, alpha)
    p = sequential.always_valid_p(estimate, se, n, tuning_n, alpha)
    return {
        "estimate": estimate,
        "se": se,
        "ci_lower": interval.lower,
        "ci_upper": interval.upper,
        "p": p,
        "p_always_valid": p,
        "rho": sequential.mixing_rho(tuning_n, alpha),
        "lower_bound": sequential.lower_bound(estimate, se, n, tuning_n, alpha),
    }


def _fieller(inputs: dict[str, Any]) -> dict[str, Any]:
    control, treatment = _arms(inputs)
    z = float(stats.norm.isf(inputs["alpha"] / 2))
    moments = (control.mean, control.variance_of_mean, treatment.mean, treatment.variance_of_mean)
    interval = fieller_interval(*moments, z, 0.95)
    assert isinstance(interval, Interval)
    return {"ci_lower": interval.lower, "ci_upper": interval.upper}


def _chi_square(inputs: dict[str, Any]) -> dict[str, Any]:
    result = chi_square(inputs["observed"], inputs["weights"])
    return {"chi2": result.statistic, "p": result.p_value, "flag_at_0_001": result.p_value < 0.001}


def _sequential_srm(inputs: dict[str, Any]) -> dict[str, Any]:
    state = SequentialSRM.start(
        {str(i): weight for i, weight in enumerate(inputs["weights"])}, inputs["dirichlet_concentration"]
    )
    p_values = []
    for batch in inputs["batches"]:
        state = state.update({str(i): seen for i, seen in enumerate(batch)})
        p_values.append(state.p_value)
    return {"p_values": p_values, "posterior_prob_srm": state.posterior_probability}


def _holm(inputs: dict[str, Any]) -> dict[str, Any]:
    adjusted = list(holm({str(i): p for i, p in enumerate(inputs["p_values"])}).values())
    return {"adjusted": adjusted, "reject": [p <= inputs["alpha"] for p in adjusted]}


COVERED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "relative_lift_fieller_z": _fieller,
    "gb_sequential_relative_published": lambda inputs: _sequential(*_relative(inputs), inputs),
    "sequential_tokens_rel_tuning_5000": lambda inputs: _sequential(*_relative(inputs), inputs),
    "sequential_em_abs_tuning_2400": lambda inputs: _sequential(*_em(inputs), inputs),
    "sequential_em_one_sided_lower_bound": lambda inputs: _sequential(*_em(inputs), inputs),
    "srm_ok": _chi_square,
    "srm_fail": _chi_square,
    "ssrm_docstring_batches": _sequential_srm,
    "mult_holm": _holm,
}


@pytest.mark.parametrize("name", sorted(COVERED))
def test_agrees_with_the_vector(name: str) -> None:
    vector = VECTORS[name]
    found = COVERED[name](vector["inputs"])
    for key, expected in vector["expected"].items():
        pairs = zip(found[key], expected, strict=True) if isinstance(expected, list) else [(found[key], expected)]
        for value, target in pairs:
            assert close(value, target, vector["tolerance"]), f"{key}: {value} against {target}"


def test_tiny_always_valid_p_agrees_relatively() -> None:
    """The vector's absolute tolerance would let any tiny p pass."""
    vector = VECTORS["sequential_tokens_rel_tuning_5000"]
    found = _sequential(*_relative(vector["inputs"]), vector["inputs"])["p_always_valid"]
    assert found == pytest.approx(vector["expected"]["p_always_valid"], rel=1e-8)


def test_cluster_difference_agrees_with_regression_up_to_its_small_sample_factor() -> None:
    """statsmodels' CR1 factor is G/(G-1) (n-1)/(n-2) over both arms; here it is k/(k-1) in each arm."""
    vector = VECTORS["cluster_robust_em"]
    inputs, pair = vector["inputs"], []
    rows = list(zip(inputs["cluster"], inputs["treatment"], inputs["exact_match"], strict=True))
    for arm in (0, 1):
        clusters = sorted({cluster for cluster, treated, _ in rows if treated == arm})
        counts = [sum(1 for cluster, _, _ in rows if cluster == wanted) for wanted in clusters]
        sums = [sum(right for cluster, _, right in rows if cluster == wanted) for wanted in clusters]
        pair.append(ClusterAggregate.from_arrays(counts, sums))
    k, groups, n = pair[0].units, len(set(inputs["cluster"])), len(rows)
    bare = sum(side.variance_of_mean for side in pair) * (k - 1) / k
    se = math.sqrt(bare * groups / (groups - 1) * (n - 1) / (n - 2))
    assert pair[1].mean - pair[0].mean == pytest.approx(vector["expected"]["diff"], rel=1e-8)
    assert se == pytest.approx(vector["expected"]["se_cluster"], rel=1e-8)
