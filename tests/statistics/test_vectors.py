"""Agreement with numbers that were computed or published by others (tests/data/stat_vectors.json)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from experiments.statistics import Estimate, Interval, NotEstimable, SequentialSRM, sequential
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.bounded import EmpiricalBernstein, hoeffding_interval
from experiments.statistics.cuped import Adjusted, cuped_difference
from experiments.statistics.group_sequential import GroupSequentialPlan, obrien_fleming
from experiments.statistics.means import MeanTest, welch_degrees_of_freedom, welch_difference
from experiments.statistics.moments import UnitMoments
from experiments.statistics.multiplicity import benjamini_hochberg, holm
from experiments.statistics.normal_mixture import best_rho, boundary, log_mixture
from experiments.statistics.pairs import McNemar, PairTable, mcnemar_test, tango_interval
from experiments.statistics.power import EMQuestion, SampleSize, sample_size, two_sided_mean_size
from experiments.statistics.ratios import RatioContrast, ratio_contrast
from experiments.statistics.relative import delta_standard_error, fieller_interval, relative_change
from experiments.statistics.srm import chi_square
from experiments.statistics.two_proportions import Counts, difference, equivalence, non_inferiority
from experiments.statistics.winsorising import winsorise
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


def _welch(inputs: dict[str, Any]) -> dict[str, Any]:
    test = welch_difference(*_arms(inputs), 1 - inputs["alpha"])
    assert isinstance(test, MeanTest)
    return {
        **_shown(test.estimate),
        "diff": test.estimate.value,
        "t": test.statistic,
        "df": test.degrees_of_freedom,
        "p_two_sided": test.p_value,
    }


def _shown(estimate: Estimate | NotEstimable) -> dict[str, Any]:
    assert isinstance(estimate, Estimate)
    assert isinstance(estimate.interval, Interval)
    return {
        "estimate": estimate.value,
        "se": estimate.se,
        "ci_lower": estimate.interval.lower,
        "ci_upper": estimate.interval.upper,
    }


def _delta(inputs: dict[str, Any]) -> dict[str, Any]:
    control, treatment = _arms(inputs)
    estimate = relative_change(control, treatment, 1 - inputs["alpha"], "delta")
    assert isinstance(estimate, Estimate)
    freedom = welch_degrees_of_freedom(
        (control.variance_of_mean, treatment.variance_of_mean), (control.units, treatment.units)
    )
    return {**_shown(estimate), "p": 2 * float(stats.t.sf(abs(estimate.value / estimate.se), freedom))}


def _ratio(inputs: dict[str, Any]) -> dict[str, Any]:
    sides = [
        UnitMoments.from_totals(
            ("t", "c"), list(zip(inputs[f"numerator_{a}"], inputs[f"denominator_{a}"], strict=True))
        )
        for a in ("control", "treatment")
    ]
    contrast = ratio_contrast(sides[0], sides[1], ("t",), ("c",), 0.95, 1_000)
    assert isinstance(contrast, RatioContrast)
    return {
        **_shown(contrast.difference),
        "ratio_control": contrast.control.value,
        "ratio_treatment": contrast.treatment.value,
        "p_two_sided": contrast.p_value,
    }


def _cuped(inputs: dict[str, Any]) -> dict[str, Any]:
    sides = [
        UnitMoments.from_totals(
            ("y", "n", "x"), [(y, 1, x) for y, x in zip(inputs[f"post_{a}"], inputs[f"pre_{a}"], strict=True)]
        )
        for a in ("control", "treatment")
    ]
    adjusted = cuped_difference(sides[0], sides[1], ("y",), "n", "x", 0.95)
    plain = welch_difference(sides[0].aggregate("n", "y"), sides[1].aggregate("n", "y"), 0.95)
    assert isinstance(adjusted, Adjusted)
    assert isinstance(plain, MeanTest)
    return {
        **_shown(adjusted.difference),
        "theta": adjusted.theta,
        "p": adjusted.p_value,
        "unadjusted_estimate": plain.estimate.value,
        "unadjusted_se": plain.estimate.se,
    }


def _winsor(inputs: dict[str, Any]) -> dict[str, Any]:
    capped = winsorise(inputs["control"], inputs["treatment"], 0.95)
    return {
        "cap": capped.cap,
        "mean_control": capped.control.mean(),
        "mean_treatment": capped.treatment.mean(),
        "share_capped_control": capped.share_control,
        "share_capped_treatment": capped.share_treatment,
    }


def _counts(inputs: dict[str, Any]) -> Counts:
    """Arm 1 of the published tables is the one that the other is taken from."""
    if "x1" in inputs:
        return Counts(inputs["x2"], inputs["n2"], inputs["x1"], inputs["n1"])
    return Counts(*(inputs[f"{kind}_{arm}"] for arm in ("control", "treatment") for kind in "xn"))


def _difference(method: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def found(inputs: dict[str, Any]) -> dict[str, Any]:
        shown = _shown(difference(_counts(inputs), 1 - inputs["alpha"], method))
        return {**shown, "diff": shown["estimate"], "ci": [shown["ci_lower"], shown["ci_upper"]]}

    return found


def _non_inferiority(inputs: dict[str, Any]) -> dict[str, Any]:
    counts, found = _counts(inputs), {}
    for name in ("farrington_manning", "miettinen_nurminen", "wald", "agresti-caffo"):
        test = non_inferiority(counts, inputs["margin"], name.replace("-", "_"))  # type: ignore[arg-type]
        found[name] = {"z": test.statistic, "p_one_sided": test.p_value}
    for level in (0.9, 0.95):
        shown = _shown(difference(counts, level, "miettinen_nurminen"))
        found[f"mn_{level * 100:.0f}pct_ci"] = [shown["ci_lower"], shown["ci_upper"]]  # type: ignore[assignment]
    return found


def _tost(inputs: dict[str, Any]) -> dict[str, Any]:
    counts = _counts(inputs)
    mirrored = Counts(counts.treatment, counts.n_treatment, counts.control, counts.n_control)
    return {
        "p_lower": non_inferiority(counts, -inputs["low"]).p_value,
        "p_upper": non_inferiority(mirrored, inputs["upp"]).p_value,
        "p_tost": equivalence(counts, inputs["upp"]),
    }


def _mcnemar(inputs: dict[str, Any]) -> dict[str, Any]:
    (both, control), (treatment, neither) = inputs["table"]
    test = mcnemar_test(PairTable(both, control, treatment, neither))
    assert isinstance(test, McNemar)
    return {
        "p_exact": test.p_exact,
        "p_mid": test.p_mid,
        "chi2": test.chi_square,
        "p_chi2": test.p_chi_square,
        "p_chi2_cc": test.p_corrected,
    }


def _tango(inputs: dict[str, Any]) -> dict[str, Any]:
    found = []
    for case in inputs["cases"]:
        a, b, c, d = case["table"]
        shown = _shown(tango_interval(PairTable(a, c, b, d), case["level"]))
        found.append([shown["ci_lower"], shown["ci_upper"]])
    return {"ci": found}


def _empirical_bernstein(inputs: dict[str, Any]) -> dict[str, Any]:
    x = [((7 * i * i + 3 * i) % 101) / 100 for i in range(1, 201)]
    found = {}
    for n in (50, 100, 200):
        interval = EmpiricalBernstein(inputs["alpha"], inputs["truncation"]).advance(x[:n]).at_present
        found[f"at_{n}"] = [interval.lower, interval.upper]
    hoeffding = hoeffding_interval(x, inputs["alpha"])
    return found | {"hoeffding_at_200": [hoeffding.lower, hoeffding.upper]}


def _mixture(inputs: dict[str, Any]) -> dict[str, Any]:
    v, alpha = inputs["v"], inputs["alpha"]
    rho = best_rho(inputs["v_opt"], inputs["alpha_opt"])
    return {
        "two_sided_bound": boundary(v, alpha, rho),
        "one_sided_bound": boundary(v, alpha, best_rho(inputs["v_opt"], 2 * inputs["alpha_opt"]), "one"),
        "two_sided_best_rho": rho,
        "log_mixture_s10_v100_two_sided": log_mixture(10, 100, rho),
    }


def _benjamini_hochberg(inputs: dict[str, Any]) -> dict[str, Any]:
    adjusted = list(benjamini_hochberg({str(i): p for i, p in enumerate(inputs["p_values"])}).values())
    return {"adjusted": adjusted, "reject": [p <= inputs["alpha"] for p in adjusted]}


def _sample_size(inputs: dict[str, Any]) -> dict[str, Any]:
    question = EMQuestion(inputs["p_control"], inputs["p_treatment"], inputs["margin"])
    size = sample_size(question, inputs["alpha_one_sided"], inputs["power"])
    assert isinstance(size, SampleSize)
    return {"n_per_arm": size.treatment, "n_unrounded": size.unrounded}


def _mean_size(inputs: dict[str, Any]) -> dict[str, Any]:
    sd, effect = inputs["sd"], inputs["mde"]
    quantiles = stats.norm.isf(inputs["alpha"] / 2) + stats.norm.ppf(inputs["power"])
    return {
        "effect_size": effect / sd,
        "n_per_arm_unrounded": two_sided_mean_size(sd, effect, inputs["alpha"], inputs["power"]),
        "n_normal": 2 * (sd * quantiles / effect) ** 2,
    }


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
    "welch_tokens_summary": _welch,
    "gb_two_sided_relative_published": _delta,
    "posthog_mean_published": _delta,
    "ratio_tokens_per_correct_absolute": _ratio,
    "cuped_tokens_absolute": _cuped,
    "winsor_pooled_p95_cap": _winsor,
    "prop_diff_newcombe": _difference("newcombe"),
    "prop_diff_miettinen_nurminen": _difference("miettinen_nurminen"),
    "mn_edge_3_200_0_200": _difference("miettinen_nurminen"),
    "mn_edge_0_500_4_480": _difference("miettinen_nurminen"),
    "newcombe1998_d_mn": _difference("miettinen_nurminen"),
    "propcis_mn": _difference("miettinen_nurminen"),
    "noninferiority_exact_match_margin_0.02": _non_inferiority,
    "noninferiority_worse_fails": _non_inferiority,
    "tost_equivalence_pm_0.05": _tost,
    "mcnemar_statsmodels_doc1": _mcnemar,
    "mcnemar_replay": _mcnemar,
    "tango_published": _tango,
    "confseq_predmix_empbern": _empirical_bernstein,
    "confseq_normal_mixture_bound": _mixture,
    "obrien_fleming_K4": lambda inputs: {"z": list(obrien_fleming(inputs["K"], inputs["alpha_two_sided"]))},
    "lan_demets_obf_K5": lambda inputs: {
        "z": list(GroupSequentialPlan(tuple(inputs["information"]), inputs["alpha_two_sided"]).boundaries())
    },
    "mult_benjamini_hochberg": _benjamini_hochberg,
    "ni_sample_size_published_chow": _sample_size,
    "ni_sample_size_0.72_0.72_0.02_0.8": _sample_size,
    "power_means_n": _mean_size,
}
# Tested elsewhere: hashing with the assignment, the others below and in the simulations.
ELSEWHERE = {
    "gb_hash",
    "gb_bucket_ranges",
    "gb_choose_variation",
    "cluster_robust_em",
    "property_aa_peeking_exact_match",
}


def test_every_vector_is_covered() -> None:
    assert set(COVERED) | ELSEWHERE == set(VECTORS)


@pytest.mark.parametrize("name", sorted(COVERED))
def test_agrees_with_the_vector(name: str) -> None:
    vector = VECTORS[name]
    _agrees(COVERED[name](vector["inputs"]), vector["expected"], vector["tolerance"], name)


def _agrees(found: Any, expected: Any, tolerance: dict[str, float], where: str) -> None:
    if isinstance(expected, dict):
        for key, value in expected.items():
            _agrees(found[key], value, tolerance, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            _agrees(one, other, tolerance, f"{where}[{i}]")
    else:
        assert close(found, expected, tolerance), f"{where}: {found} against {expected}"


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
