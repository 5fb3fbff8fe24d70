"""Tests that depend on the order of their data: their state goes on from look to look, stored with what was counted.

They are exact where each unit has one request: outcomes are independent then. A request enters such a test when it
is labelled (EM) or counted (guardrails) for the first time, and never again; a later correction changes the estimates,
not the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from experiments.models import Experiment, Phase, ProcessState, Variant
from experiments.services.counted_requests import Batch
from experiments.statistics import codec
from experiments.statistics.columns import WATCHED
from experiments.statistics.guardrails import ABSOLUTE, Guardrail, GuardrailMetric, from_json
from experiments.statistics.safe_proportions import SafeDifference

EM = "em"


@dataclass(frozen=True, slots=True)
class ExactTests:
    """The exact tests of one treatment: of EM, and of guardrails by metric."""

    em: SafeDifference | None = None
    guardrails: Mapping[GuardrailMetric, SafeDifference] = field(default_factory=dict)


def advance(experiment: Experiment, phase: Phase, batch: Batch) -> None:
    """Carry a batch into the exact tests of its phase; nothing where units may have several requests."""
    if experiment.unit != Experiment.Unit.REQUEST or not batch.rows:
        return
    variants = {variant.key: variant for variant in experiment.variants.all() if variant.key in phase.weights}
    control = next(variant for variant in variants.values() if variant.is_control)
    for treatment in variants.values():
        if treatment != control:
            _advance_treatment(experiment, phase, control, treatment, batch)


def _advance_treatment(
    experiment: Experiment, phase: Phase, control: Variant, treatment: Variant, batch: Batch
) -> None:
    stored = {row.name: row for row in ProcessState.objects.filter(phase=phase, variant=treatment)}
    arms = np.array([row.variant_id for row in batch.rows])
    ours = (arms == control.pk) | (arms == treatment.pk)
    for name, start, fresh, outcomes in _tests(experiment, batch):
        chosen = ours & fresh
        if not chosen.any():
            continue
        row = stored.get(name) or ProcessState(phase=phase, variant=treatment, name=name, state=codec.encode(start))
        state = codec.decode(SafeDifference, row.state)
        row.state = codec.encode(state.advance((arms[chosen] == treatment.pk).astype(int), outcomes[chosen]))
        row.save()


_Test = tuple[str, SafeDifference, NDArray[np.bool_], NDArray[np.bool_]]


def _tests(experiment: Experiment, batch: Batch) -> list[_Test]:
    """Name, first state, who enters now, and with which outcome."""
    tests: list[_Test] = [
        (EM, SafeDifference.for_interval(experiment.margin), batch.entering("labelled"), batch.column("correct") > 0)
    ]
    for guardrail in from_json(experiment.guardrails):
        if guardrail.metric not in ABSOLUTE:
            sums, counts, _ = WATCHED[guardrail.metric]
            happened = np.any([batch.column(name) > 0 for name in sums], axis=0)
            tests.append((_name(guardrail), SafeDifference.start((guardrail.bound,)), batch.entering(counts), happened))
    return tests


def load(experiment: Experiment, phase: Phase) -> dict[str, ExactTests]:
    """The exact tests of a phase by key of the treatment."""
    found: dict[str, dict[str, SafeDifference]] = {}
    for row in ProcessState.objects.filter(phase=phase).select_related("variant"):
        found.setdefault(row.variant.key, {})[row.name] = codec.decode(SafeDifference, row.state)
    declared = [item for item in from_json(experiment.guardrails) if item.metric not in ABSOLUTE]
    return {
        key: ExactTests(
            states.get(EM), {item.metric: states[_name(item)] for item in declared if _name(item) in states}
        )
        for key, states in found.items()
    }


def _name(guardrail: Guardrail) -> str:
    return f"guardrail:{guardrail.metric}"
