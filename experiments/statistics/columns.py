"""The columns of the accumulators, and the arm that they make."""

from __future__ import annotations

from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.arms import ArmAggregates, Outcomes, TokenMeans
from experiments.statistics.guardrails import GuardrailMetric
from experiments.statistics.moments import UnitMoments

# Intention to treat: every request counts, whatever became of it. One that was lost is a timeout without
# tokens; what was not answered is incorrect wherever a label is due.
REQUEST_COLUMNS = (
    "completions",
    "answered",
    "error",
    "timeout",
    "cancelled",
    "thinking",
    "answer",
    "probe",
    "overrun",
    "empty",
    "truncated",
    "retried",
    "slow",
    "due",
    "labelled",
    "correct",
    "labelled_proxy",
    "proxy",
    "feedback",
    "negative",
    "prompt_characters",
    "unenforced",
    # Of answered requests alone: one that failed where a label is due is labelled by its failure.
    "due_answered",
    "labelled_answered",
    # How what was counted of a label moved afterwards: it came late, or is not what it was.
    "late",
    "corrected",
)
# A shadowed request beside its shadow run: the treatment's answer and the full one on the same thought.
PAIR_COLUMNS = (
    "pairs",
    "disagreements",
    "graded",
    "both_right",
    "only_control",
    "only_treatment",
    "control_tokens",
    "treatment_tokens",
)
# 0/1 columns of a unit: whether it has at least one observation of a metric that not every request has.
UNIT_MARKS = {"labelled_units": "labelled", "feedback_units": "feedback"}
UNIT_COLUMNS = (*REQUEST_COLUMNS, *UNIT_MARKS)

TOKENS = ("thinking", "answer", "probe", "overrun")
_WITHOUT_PROBES = ("thinking", "answer", "overrun")
# Each metric's columns: what is counted, out of what, and the mark of the units that have any.
WATCHED = {
    GuardrailMetric.EMPTY: (("empty",), "completions", None),
    GuardrailMetric.TRUNCATED: (("truncated",), "completions", None),
    GuardrailMetric.ERROR: (("error", "timeout"), "completions", None),
    GuardrailMetric.RETRIED: (("retried",), "completions", None),
    GuardrailMetric.SLOW: (("slow",), "completions", None),
    GuardrailMetric.NEGATIVE_FEEDBACK: (("negative",), "feedback", "feedback_units"),
}


def arm_aggregates(key: str, moments: UnitMoments | None, pairs: UnitMoments | None = None) -> ArmAggregates:
    """One arm.

    Args:
        key: the variant's key.
        moments: over UNIT_COLUMNS, of all its requests; None when nothing is counted yet.
        pairs: over PAIR_COLUMNS, of the shadow runs that compare it with the control, or None.
    """
    if moments is None or moments.units == 0:
        empty = ClusterAggregate.empty()
        return ArmAggregates(key, 0, None, empty, empty, 0, 0, Outcomes())
    completions = int(moments.total("completions"))
    return ArmAggregates(
        key=key,
        # Every unit was exposed by its first request, and every request is counted.
        exposures=moments.units,
        em=em_aggregate(moments),
        decoded_tokens=moments.aggregate("completions", *TOKENS),
        tokens_without_probes=moments.aggregate("completions", *_WITHOUT_PROBES),
        completions=completions,
        labels_due=int(moments.total("due")),
        labelled_completions=int(moments.total("labelled")),
        answered_due=int(moments.total("due_answered")),
        answered_labelled=int(moments.total("labelled_answered")),
        late_labels=int(moments.total("late")),
        corrected_labels=int(moments.total("corrected")),
        enforcement_failures=int(moments.total("unenforced")),
        outcomes=Outcomes(*(int(moments.total(name)) for name in ("answered", "error", "timeout", "cancelled"))),
        token_means=TokenMeans(*(moments.total(kind) / completions for kind in TOKENS)),
        watched=_watched(moments, pairs),
    )


def em_aggregate(moments: UnitMoments) -> ClusterAggregate | None:
    """Correct answers out of labelled ones; None without labels."""
    if not moments.total("labelled"):
        return None
    return moments.aggregate("labelled", "correct", units="labelled_units")


def _watched(moments: UnitMoments, pairs: UnitMoments | None) -> dict[GuardrailMetric, ClusterAggregate]:
    found = {
        metric: moments.aggregate(counts, *sums, units=units)
        for metric, (sums, counts, units) in WATCHED.items()
        if moments.total(counts)
    }
    if pairs is not None and pairs.total("pairs"):
        found[GuardrailMetric.DISAGREEMENT] = pairs.aggregate("pairs", "disagreements")
    return found
