"""Statistics of an experiment: pure functions of aggregates, results as frozen values.

The way in is `analyse(LookInputs) -> Snapshot`; everything it is made of can be used alone. Nothing here
knows of Django, Celery, tables or clocks. A number that cannot be had is a `NotEstimable` with the reason,
never NaN.
"""

from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.arms import ArmAggregates, Outcomes, TokenMeans
from experiments.statistics.comparison import Comparison, EMContrast, TokenContrast, compare
from experiments.statistics.design import Design
from experiments.statistics.health import Health, HealthCheck, HealthCode
from experiments.statistics.results import Estimate, Interval, NotEstimable
from experiments.statistics.snapshot import ArmSummary, LookInputs, Snapshot, analyse
from experiments.statistics.srm import SequentialSRM
from experiments.statistics.verdict import (
    Decision,
    Reason,
    ReasonCode,
    TreatmentVerdict,
    Verdict,
    VerdictInputs,
)

__all__ = [
    "ArmAggregates",
    "ArmSummary",
    "ClusterAggregate",
    "Comparison",
    "Decision",
    "Design",
    "EMContrast",
    "Estimate",
    "Health",
    "HealthCheck",
    "HealthCode",
    "Interval",
    "LookInputs",
    "NotEstimable",
    "Outcomes",
    "Reason",
    "ReasonCode",
    "SequentialSRM",
    "Snapshot",
    "TokenContrast",
    "TokenMeans",
    "TreatmentVerdict",
    "Verdict",
    "VerdictInputs",
    "analyse",
    "compare",
]
