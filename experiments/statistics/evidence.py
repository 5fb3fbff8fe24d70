"""What a look knows of one arm beyond its aggregates: segments, pairs, sketches and running tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.guardrails import GuardrailMetric
from experiments.statistics.moments import UnitMoments
from experiments.statistics.quantiles import QuantileSketch
from experiments.statistics.safe_proportions import SafeDifference


@dataclass(frozen=True, slots=True)
class Evidence:
    """One arm.

    Attributes:
        moments: of all its requests, over the columns of `experiments.statistics.columns`.
        segments: labelled answers by segment.
        pairs: of its treatment's shadow runs, over the pair columns; None for the control and without any.
        sketches: by metric.
        em_test: the exact test of EM against the control, where units have one request each.
        guardrail_tests: the same of guardrails by metric.
        predictions: whether a source of predictions of correctness is declared.
        random_labels: whether the labelled requests are a random sample (an audit's), known at admission.
    """

    moments: UnitMoments | None = None
    segments: Mapping[str, ClusterAggregate] = field(default_factory=dict)
    pairs: UnitMoments | None = None
    sketches: Mapping[str, QuantileSketch] = field(default_factory=dict)
    em_test: SafeDifference | None = None
    guardrail_tests: Mapping[GuardrailMetric, SafeDifference] = field(default_factory=dict)
    predictions: bool = False
    random_labels: bool = False
