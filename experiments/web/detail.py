"""The page of one experiment: verdict, results, health, settings, history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.utils.timesince import timesince
from django.views.decorators.http import require_safe

from experiments.models import AuditEvent, Experiment, Exposure, Phase, Variant
from experiments.services.looks import newest_snapshot
from experiments.statistics.phases import alpha_in_phase
from experiments.statistics.snapshot import Snapshot
from experiments.statistics.verdict import Decision
from experiments.web.definitions import DEFINITIONS
from experiments.web.home import read_snapshot
from experiments.web.pages import page
from experiments.web.plots import forest_panels
from experiments.web.report import build_report
from experiments.web.wording import (
    STATE_TONES,
    guardrail_words,
    number,
    percent,
    plain,
    points,
    policy_words,
    saving,
    state_words,
)

HISTORY_LENGTH = 100


@dataclass(frozen=True, slots=True)
class ArmSetting:
    """One arm as it was declared."""

    key: str
    is_control: bool
    policy: str
    checkpoint: str
    weight: str
    reverted_at: datetime | None


@dataclass(frozen=True, slots=True)
class ShipChoice:
    """A treatment that a person may ship; ``chosen`` is the one that the verdict names.

    ``shown_in`` is the number of the earlier phase whose last verdict was to ship it.
    """

    key: str
    supported: bool
    chosen: bool
    shown_in: int | None
    shown_at: datetime | None


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """One audit event in words."""

    event: AuditEvent
    change: str


@page
@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One experiment."""
    experiment = get_object_or_404(Experiment.objects.select_related("use_case"), pk=pk)
    context = results_context(experiment) | {
        "awaits_look": "looking" in request.GET,
        "history": _history(experiment),
        "look_every": settings.LOOK_EVERY_SECONDS,
    }
    return render(request, "experiments/detail.html", context)


def results_context(experiment: Experiment) -> dict[str, Any]:
    """What the results and the settings of an experiment are shown from."""
    variants = list(
        experiment.variants.select_related("checkpoint__model", "ship_snapshot__phase").defer("ship_snapshot__data")
    )
    phase = experiment.phase
    stored = newest_snapshot(experiment)
    snapshot = read_snapshot(stored, variants)
    context: dict[str, Any] = {
        "experiment": experiment,
        "state": state_words(experiment),
        "state_tone": STATE_TONES[experiment.state],
        "phase": phase,
        "stored": stored,
        "newest_id": stored.pk if stored else 0,
        "arms": [_arm(variant) for variant in variants],
        "choices": _ship_choices(variants, snapshot, phase),
        "settings_list": _settings(experiment, phase),
        "define": DEFINITIONS,
    }
    if stored and snapshot:
        context |= {
            "report": build_report(snapshot, variants),
            "panels": forest_panels(snapshot),
            "age": _age(stored.taken_at),
            "progress": _progress(snapshot.total_units, experiment.maximum_units),
        }
    elif phase:
        context["exposed"] = number(_exposed(phase))
    return context


@page
@require_safe
def newest(request: HttpRequest, pk: int) -> JsonResponse:
    """Which snapshot is the newest: the page asks while it waits for a look."""
    stored = newest_snapshot(get_object_or_404(Experiment, pk=pk))
    return JsonResponse({"snapshot": stored.pk if stored else 0})


def _age(taken_at: datetime) -> str:
    seconds = (timezone.now() - taken_at).total_seconds()
    return "just now" if seconds < 60 else f"{timesince(taken_at)} ago"


def _exposed(phase: Phase) -> int:
    return Exposure.objects.filter(phase=phase).count()


def _arm(variant: Variant) -> ArmSetting:
    return ArmSetting(
        key=variant.key,
        is_control=variant.is_control,
        policy=policy_words(variant.policy),
        checkpoint=str(variant.checkpoint),
        weight=f"{plain(round(100 * variant.weight, 2))}%",
        reverted_at=variant.reverted_at,
    )


def _ship_choices(variants: list[Variant], snapshot: Snapshot | None, phase: Phase | None) -> list[ShipChoice]:
    verdict = snapshot.verdict if snapshot else None
    supported = {item.treatment for item in (verdict.treatments if verdict else ()) if item.decision is Decision.SHIP}
    winner = verdict.winner if verdict else None
    found = []
    for variant in variants:
        if variant.is_control or variant.reverted_at is not None:
            continue
        shown = variant.ship_snapshot
        earlier = shown if shown and shown.phase != phase else None
        number, at = (earlier.phase.number, earlier.taken_at) if earlier else (None, None)
        found.append(ShipChoice(variant.key, variant.key in supported, variant.key == winner, number, at))
    return found


def _settings(experiment: Experiment, phase: Phase | None) -> list[tuple[str, str, str]]:
    """Term, value in words, meaning."""
    units = {"conversation": "conversations", "user": "users", "request": "requests"}[experiment.unit]
    maximum = number(experiment.maximum_units)
    return [
        ("Margin", f"an EM loss of {points(experiment.margin)} is too much", DEFINITIONS["margin"].meaning),
        (
            "Minimum saving",
            f"{saving(experiment.min_saving)} decoded tokens",
            DEFINITIONS["min_saving"].meaning,
        ),
        ("Alpha", _alpha(experiment, phase), DEFINITIONS["alpha"].meaning),
        ("Unit", f"{units}; each stays in its arm", "What is assigned to an arm, by a hash of its id."),
        (
            "Maximum",
            f"{maximum} {units} over all arms and phases",
            "Reached without a decision, the experiment is inconclusive.",
        ),
        (
            "Coverage",
            f"{percent(experiment.coverage, 0)} of the {units}",
            "The share that takes part at all.",
        ),
        (
            "Texts",
            experiment.use_case.get_retention_display().lower(),
            "What becomes of prompts, thinking, answers and references of the use case.",
        ),
        (
            "Guardrails",
            guardrail_words(experiment.guardrails),
            "An arm that is shown to be beyond one of them leaves the experiment by itself, if it is automatic.",
        ),
        (
            "Automatic",
            "yes: looks revert arms and end it at its maximum" if experiment.automatic else "no: a person decides",
            "Whether a look's verdict takes effect by itself. Shipping is always a person's decision.",
        ),
        (
            "EM is measured by",
            "a random audit" if experiment.estimand_source == "audit" else "references",
            "The labels that decide; predictions of a judge or of users only sharpen them.",
        ),
    ]


def _alpha(experiment: Experiment, phase: Phase | None) -> str:
    number = phase.number if phase else 1
    return f"{percent(experiment.alpha)}; {100 * alpha_in_phase(experiment.alpha, number):.3g}% in phase {number}"


def _history(experiment: Experiment) -> list[HistoryItem]:
    events = AuditEvent.objects.filter(subject_type="experiment", subject_id=str(experiment.pk))[:HISTORY_LENGTH]
    return [HistoryItem(event, _change(event.before or {}, event.after or {})) for event in events]


def _change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What moved: "draft → running"."""
    if "variant" in after:
        return str(after["variant"])
    old, new = before.get("state"), after.get("state")
    return f"{old} → {new}" if old and new else str(new or "")


def _progress(units: int, maximum: int) -> str:
    share = percent(min(1.0, units / maximum), 0) if 100 * units >= maximum else "under 1%"
    return f"{number(units)} of at most {number(maximum)} units ({share})"
