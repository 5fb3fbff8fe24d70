"""The list of experiments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from django.db.models import OuterRef, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from experiments import models
from experiments.models import Experiment
from experiments.statistics.snapshot import Snapshot
from experiments.web.definitions import DEFINITIONS
from experiments.web.pages import page
from experiments.web.report import Figure, change_figure, em_figure
from experiments.web.wording import DECISION_TONES, DECISIONS, STATE_TONES, decision_words, state_words


@dataclass(frozen=True, slots=True)
class TreatmentLine:
    """One treatment in the list."""

    key: str
    verdict: str
    tone: str
    em: Figure
    change: Figure


@dataclass(frozen=True, slots=True)
class ExperimentLine:
    """One experiment in the list; without a readable snapshot there is no verdict and no treatment line."""

    experiment: Experiment
    state: str
    state_tone: str
    verdict: str
    tone: str
    treatments: tuple[TreatmentLine, ...]


@page
@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """All experiments, the newest first."""
    context = {"lines": experiment_lines(), "define": DEFINITIONS}
    return render(request, "experiments/list.html", context)


def experiment_lines() -> list[ExperimentLine]:
    """All experiments with the newest snapshot of their newest phase, in three queries."""
    newest_phase = models.Phase.objects.filter(experiment=OuterRef("pk")).order_by("-number")
    newest_snapshot = models.Snapshot.objects.filter(phase=OuterRef("newest_phase"))
    rows = list(
        Experiment.objects.select_related("use_case")
        .prefetch_related("variants")
        .annotate(newest_phase=Subquery(newest_phase.values("pk")[:1]))
        .annotate(newest_snapshot=Subquery(newest_snapshot.values("pk")[:1]))
    )
    stored = models.Snapshot.objects.in_bulk([row.newest_snapshot for row in rows if row.newest_snapshot])
    return [_line(row, stored.get(row.newest_snapshot)) for row in rows]


def read_snapshot(stored: models.Snapshot | None, variants: Iterable[models.Variant]) -> Snapshot | None:
    """The snapshot as values, its arms in the order in which they were declared.

    None where there is none, or one that another version stored.
    """
    if stored is None:
        return None
    try:
        snapshot = Snapshot.from_dict(stored.data)
    except ValueError:
        return None
    place = {variant.key: variant.position for variant in variants}
    last = len(place)
    return replace(
        snapshot,
        arms=tuple(sorted(snapshot.arms, key=lambda arm: place.get(arm.key, last))),
        comparisons=tuple(sorted(snapshot.comparisons, key=lambda item: place.get(item.treatment, last))),
        verdict=replace(
            snapshot.verdict,
            treatments=tuple(sorted(snapshot.verdict.treatments, key=lambda item: place.get(item.treatment, last))),
        ),
    )


def _line(experiment: Experiment, stored: models.Snapshot | None) -> ExperimentLine:
    snapshot = read_snapshot(stored, experiment.variants.all())
    verdict = snapshot.verdict if snapshot else None
    return ExperimentLine(
        experiment=experiment,
        state=state_words(experiment),
        state_tone=STATE_TONES[experiment.state],
        verdict=decision_words(verdict.decision, verdict.winner) if verdict else "",
        tone=DECISION_TONES[verdict.decision] if verdict else "plain",
        treatments=_treatments(snapshot) if snapshot else (),
    )


def _treatments(snapshot: Snapshot) -> tuple[TreatmentLine, ...]:
    decisions = {item.treatment: item.decision for item in snapshot.verdict.treatments}
    return tuple(
        TreatmentLine(
            key=comparison.treatment,
            verdict=DECISIONS[decisions[comparison.treatment]],
            tone=DECISION_TONES[decisions[comparison.treatment]],
            em=em_figure(comparison),
            change=change_figure(comparison.decoded_tokens),
        )
        for comparison in snapshot.comparisons
    )
