"""One look: aggregates in, a snapshot out, that can be stored as JSON and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.statistics import checks, codec, guardrails, health, segments
from experiments.statistics.arms import ArmAggregates, Outcomes, TokenMeans
from experiments.statistics.comparison import Comparison, compare
from experiments.statistics.design import Design
from experiments.statistics.details import TreatmentDetail, detail, quantiles
from experiments.statistics.evidence import Evidence
from experiments.statistics.guardrails import GuardrailResult
from experiments.statistics.health import Health
from experiments.statistics.intervals import mean_sequence
from experiments.statistics.proportions import wilson_interval
from experiments.statistics.quantiles import QuantileEstimate
from experiments.statistics.results import Estimate, NotEstimable
from experiments.statistics.segments import Interaction, SegmentContrast, SegmentHarm
from experiments.statistics.srm import SequentialSRM
from experiments.statistics.verdict import Verdict, VerdictInputs, verdict

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class LookInputs:
    """Everything that a look is a function of.

    Attributes:
        design: the declared question of the running phase.
        arms: one per variant of the design, in any order, mature exposures only.
        srm: the state that the last look of this phase stored, or None at its first look.
        duration_reached: whether the declared maximum duration has passed.
        reverted: keys of treatments reverted in earlier phases.
        evidence: what is known beyond the aggregates, by arm.
        earlier_units: exposures in the experiment's earlier phases; they count towards its maximum.

    Raises:
        ValueError: the arms are not exactly the variants of the design.
    """

    design: Design
    arms: tuple[ArmAggregates, ...]
    srm: SequentialSRM | None = None
    duration_reached: bool = False
    reverted: tuple[str, ...] = ()
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    earlier_units: int = 0

    def __post_init__(self) -> None:
        checks.count("earlier_units", self.earlier_units)
        keys = sorted(arm.key for arm in self.arms)
        if keys != sorted(self.design.weights):
            raise ValueError(f"arms must be {sorted(self.design.weights)}, got {keys}")


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm as shown: its counts and fixed-sample estimates.

    Attributes:
        key: the variant's key.
        is_control: whether it is the control.
        exposures, completions, labelled_completions, enforcement_failures: counts.
        outcomes: completions by how they ended.
        em: proportion correct with Wilson's interval.
        decoded_tokens: mean per completion with an anytime-valid interval, probes included.
        tokens_without_probes: the same without probe tokens, marked by its name.
        token_means: means by kind, or None where the caller gave none.
        quantiles: p50, p90 and p99 by sketched metric; fixed sample.
    """

    key: str
    is_control: bool
    exposures: int
    completions: int
    labelled_completions: int
    enforcement_failures: int
    outcomes: Outcomes
    em: Estimate | NotEstimable
    decoded_tokens: Estimate | NotEstimable
    tokens_without_probes: Estimate | NotEstimable
    token_means: TokenMeans | None
    quantiles: Mapping[str, tuple[QuantileEstimate | NotEstimable, ...]]


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """What is known of segments.

    Attributes:
        harm: tests for harm in the declared ones; they can revert.
        contrasts: EM differences in all that were seen: exploration.
        interactions: by treatment, whether its effect differs between segments: exploration.
    """

    harm: tuple[SegmentHarm, ...]
    contrasts: tuple[SegmentContrast, ...]
    interactions: Mapping[str, Interaction | NotEstimable]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The stored result of one look.

    Attributes:
        schema_version: of the JSON form.
        design: the declared question.
        total_units: exposures over all variants, those of earlier phases included.
        arms: the control first, then the treatments in alphabetical order.
        comparisons: one per treatment, in alphabetical order.
        details: one per treatment, in alphabetical order; they decide nothing.
        guardrails: one result per declared guardrail and treatment.
        segments: what is known of segments.
        health: what may block a ship.
        verdict: the decision and its reasons.
        srm: state to hand to the next look.
    """

    schema_version: int
    design: Design
    total_units: int
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    details: tuple[TreatmentDetail, ...]
    guardrails: tuple[GuardrailResult, ...]
    segments: SegmentReport
    health: Health
    verdict: Verdict
    srm: SequentialSRM

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a missing estimate is {"not_estimable": reason}. `from_dict` inverts it."""
        encoded: dict[str, Any] = codec.encode(self)
        return encoded

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Snapshot:
        """Reads what `to_dict` wrote.

        Raises:
            ValueError: another schema version, or a field that is missing, unknown or of another type.
        """
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema_version must be {SCHEMA_VERSION}, got {version!r}")
        snapshot: Snapshot = codec.decode(cls, data)
        return snapshot


def analyse(inputs: LookInputs) -> Snapshot:
    """One look: estimates, contrasts, health and verdict from aggregates. Equal inputs, equal snapshot."""
    design = inputs.design
    by_key = {arm.key: arm for arm in inputs.arms}
    control, treatments = by_key[design.control], [by_key[key] for key in design.treatments]
    last = inputs.srm or SequentialSRM.start(design.weights)
    if last.weights != design.weights:
        raise ValueError(f"srm.weights must be the design's {design.weights}, got {last.weights}")
    srm = last.advance({key: arm.exposures for key, arm in by_key.items()})
    total_units = inputs.earlier_units + sum(arm.exposures for arm in inputs.arms)
    evidence = {key: inputs.evidence.get(key, Evidence()) for key in by_key}
    comparisons = tuple(compare(control, arm, design, evidence[arm.key].em_test) for arm in treatments)
    state = health.assess(srm, control, treatments, design)
    watched = guardrails.assess(
        design.guardrails,
        control.watched,
        {arm.key: arm.watched for arm in treatments},
        design.harm_alpha,
        design.tuning_n,
        {arm.key: evidence[arm.key].guardrail_tests for arm in treatments},
    )
    by_segment = _segments(design, evidence)
    return Snapshot(
        schema_version=SCHEMA_VERSION,
        design=design,
        total_units=total_units,
        arms=tuple(_summarise(arm, design, evidence[arm.key]) for arm in (control, *treatments)),
        comparisons=comparisons,
        details=tuple(detail(arm.key, evidence[control.key], evidence[arm.key], design) for arm in treatments),
        guardrails=watched,
        segments=by_segment,
        health=state,
        verdict=verdict(
            VerdictInputs(
                design,
                comparisons,
                state,
                total_units,
                inputs.duration_reached,
                inputs.reverted,
                watched,
                by_segment.harm,
            )
        ),
        srm=srm,
    )


def _segments(design: Design, evidence: Mapping[str, Evidence]) -> SegmentReport:
    control = evidence[design.control].segments
    treated = {key: evidence[key].segments for key in design.treatments}
    return SegmentReport(
        harm=tuple(item for key, own in treated.items() for item in segments.harm(key, control, own, design)),
        contrasts=tuple(item for key, own in treated.items() for item in segments.contrasts(key, control, own, design)),
        interactions={key: segments.interaction(key, control, own) for key, own in treated.items()},
    )


def _summarise(arm: ArmAggregates, design: Design, evidence: Evidence) -> ArmSummary:
    em: Estimate | NotEstimable
    if arm.em is None:
        em = NotEstimable(f"arm {arm.key!r} has no labelled completions")
    else:
        em = wilson_interval(arm.em, design.level)
    return ArmSummary(
        key=arm.key,
        is_control=arm.key == design.control,
        exposures=arm.exposures,
        completions=arm.completions,
        labelled_completions=arm.labelled_completions,
        enforcement_failures=arm.enforcement_failures,
        outcomes=arm.outcomes,
        em=em,
        decoded_tokens=mean_sequence(arm.decoded_tokens, design.level, design.tuning_n / 2),
        tokens_without_probes=mean_sequence(arm.tokens_without_probes, design.level, design.tuning_n / 2),
        token_means=arm.token_means,
        quantiles=quantiles(evidence.sketches, arm.decoded_tokens, design.level),
    )
