"""What a look shows of one treatment beyond the contrasts that decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.columns import TOKENS
from experiments.statistics.cuped import Adjusted, cuped_difference
from experiments.statistics.design import Design
from experiments.statistics.evidence import Evidence
from experiments.statistics.moments import UnitMoments
from experiments.statistics.pairs import (
    McNemar,
    PairTable,
    SequentialPairs,
    mcnemar_test,
    sequential_pairs,
    tango_interval,
    token_difference,
)
from experiments.statistics.prediction_powered import RectifiedContrast, rectified_contrast
from experiments.statistics.quantiles import QuantileEstimate, QuantileSketch, quantile_estimate
from experiments.statistics.ratios import RatioContrast, ratio_contrast
from experiments.statistics.results import Estimate, NotEstimable

QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class PairReport:
    """Shadowed requests: the treatment's answer and the full one on the same thought.

    Attributes:
        pairs: all of them.
        agreement: share with equal answers, a fraction.
        table: the graded ones by who was right.
        mcnemar: whether both are right equally often; fixed sample.
        difference: EM within pairs by Tango's interval; fixed sample.
        sequential: the same under repeated looks.
        tokens: decoded_tokens of the treatment minus those of the full run, within pairs; fixed sample.
    """

    pairs: int
    agreement: float
    table: PairTable
    mcnemar: McNemar | NotEstimable
    difference: Estimate | NotEstimable
    sequential: SequentialPairs | NotEstimable
    tokens: Estimate | NotEstimable


@dataclass(frozen=True, slots=True)
class TreatmentDetail:
    """One treatment; none of this decides.

    Attributes:
        treatment: its key.
        adjusted_tokens: difference of decoded_tokens with CUPED on the first prompt's length; fixed sample.
        tokens_per_correct: decoded_tokens per correct answer, over labelled requests' units; fixed sample.
        prediction_powered: EM from predictions and labels together, where predictions are declared.
        pairs: shadow runs.
    """

    treatment: str
    adjusted_tokens: Adjusted | NotEstimable
    tokens_per_correct: RatioContrast | NotEstimable
    prediction_powered: RectifiedContrast | NotEstimable
    pairs: PairReport | NotEstimable


def detail(treatment: str, control: Evidence, treated: Evidence, design: Design) -> TreatmentDetail:
    """The details of one treatment from the moments of both arms."""
    pairs = pair_report(treated.pairs, design)
    if control.moments is None or treated.moments is None:
        missing = NotEstimable("an arm has no request yet")
        return TreatmentDetail(treatment, missing, missing, missing, pairs)
    both = control.moments, treated.moments
    return TreatmentDetail(
        treatment=treatment,
        adjusted_tokens=cuped_difference(*both, TOKENS, "completions", "prompt_characters", design.level),
        tokens_per_correct=_tokens_per_correct(*both, design),
        prediction_powered=_prediction_powered(control, treated, design),
        pairs=pairs,
    )


def _tokens_per_correct(control: UnitMoments, treatment: UnitMoments, design: Design) -> RatioContrast | NotEstimable:
    for side in (control, treatment):
        if side.total("labelled") < side.total("completions"):
            return NotEstimable("not all requests are labelled, so their tokens are not those of the graded answers")
    return ratio_contrast(control, treatment, TOKENS, ("correct",), design.level, design.tuning_n)


def _prediction_powered(control: Evidence, treated: Evidence, design: Design) -> RectifiedContrast | NotEstimable:
    if not control.predictions or control.moments is None or treated.moments is None:
        return NotEstimable("no source of predictions is declared")
    for drawn, moments in ((control.random_labels, control.moments), (treated.random_labels, treated.moments)):
        # Predictions are rectified by the labelled requests, which must err as the others do.
        if not drawn and moments.total("labelled") < moments.total("completions"):
            return NotEstimable("the labelled requests are no random sample: that takes the label source audit")
    return rectified_contrast(control.moments, treated.moments, design)


def pair_report(pairs: UnitMoments | None, design: Design) -> PairReport | NotEstimable:
    """The shadow runs of one treatment."""
    if pairs is None or not pairs.total("pairs"):
        return NotEstimable("there is no shadow run")
    count = int(pairs.total("pairs"))
    table = PairTable(
        both_right=int(pairs.total("both_right")),
        only_control=int(pairs.total("only_control")),
        only_treatment=int(pairs.total("only_treatment")),
        both_wrong=int(pairs.total("graded") - pairs.total("both_right", "only_control", "only_treatment")),
    )
    tokens = token_difference(pairs.aggregate("pairs", "control_tokens"), _saved(pairs), design.level)
    return PairReport(
        pairs=count,
        agreement=1 - pairs.total("disagreements") / count,
        table=table,
        mcnemar=mcnemar_test(table),
        difference=tango_interval(table, design.level),
        sequential=sequential_pairs(_graded(pairs), design.margin, design.alpha, design.level, design.tuning_n),
        tokens=tokens,
    )


def _saved(pairs: UnitMoments) -> ClusterAggregate:
    return _contrast(pairs, pairs.units, "pairs", {"treatment_tokens": 1.0, "control_tokens": -1.0})


def _graded(pairs: UnitMoments) -> ClusterAggregate:
    if not pairs.total("graded"):
        return ClusterAggregate.empty()
    # Not all units: those without a graded pair would make each unit look smaller and their number larger.
    difference = {"only_treatment": 1.0, "only_control": -1.0}
    return _contrast(pairs, pairs.units_with({"graded": 1.0}, difference), "graded", difference)


def _contrast(pairs: UnitMoments, units: int, counts: str, weights: Mapping[str, float]) -> ClusterAggregate:
    """The aggregate of a linear combination of columns over a count column."""
    return ClusterAggregate(
        units=units,
        sum_n=pairs.total(counts),
        sum_s=sum(weight * pairs.total(name) for name, weight in weights.items()),
        sum_s2=pairs.covariance(weights, weights),
        sum_n2=pairs.product((counts,), (counts,)),
        sum_ns=pairs.covariance({counts: 1.0}, weights),
    )


def quantiles(
    sketches: Mapping[str, QuantileSketch], tokens: ClusterAggregate, level: float
) -> dict[str, tuple[QuantileEstimate | NotEstimable, ...]]:
    """p50, p90 and p99 of each sketched metric.

    Args:
        sketches: by metric.
        tokens: decoded_tokens over units, for the average number of values per unit.
        level: nominal coverage in (0, 1).
    """
    if tokens.units == 0:
        return {}
    # The widest design effect that clusters of this average size (in the sense of Kish) can have.
    effect = tokens.sum_n2 / tokens.sum_n
    return {
        name: tuple(quantile_estimate(sketch, q, level, max(1.0, effect)) for q in QUANTILES)
        for name, sketch in sorted(sketches.items())
    }
