"""Experiments: creating them, and the rules of every change of state."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.db import transaction

from experiments import wire
from experiments.models import AuditEvent, Checkpoint, Experiment, ModelProfile, UseCase, Variant
from experiments.services import experiments as service
from experiments.services.errors import InvalidInput, WrongState
from tests.service_layer.conftest import FULL, SHORT, arms, make_draft

State = Experiment.State


def events(row: Experiment | UseCase) -> list[AuditEvent]:
    """The audit events about a row, oldest first."""
    of_row = AuditEvent.objects.filter(subject_type=row._meta.model_name, subject_id=str(row.pk))
    return list(of_row.order_by("pk"))


# -- creating ---------------------------------------------------------------------------------------


def test_a_new_experiment_is_a_draft_with_its_use_cases_bounds(use_case: UseCase) -> None:
    draft = make_draft(use_case, "  Early exit ", hypothesis=" it holds ")
    draft.refresh_from_db()
    assert (draft.state, draft.conclusion, draft.phase) == (State.DRAFT, "", None)
    assert (draft.name, draft.hypothesis) == ("Early exit", "it holds")
    assert (draft.margin, draft.min_saving, draft.alpha, draft.coverage) == (0.05, 0.2, 0.05, 1.0)
    assert draft.unit == "conversation"
    assert len(draft.salt) == 16


def test_its_own_bounds_come_before_the_use_cases(use_case: UseCase) -> None:
    draft = make_draft(use_case, margin=0.01, min_saving=-0.1, alpha=0.1, coverage=0.0, salt="s", unit="user")
    draft.refresh_from_db()
    assert (draft.margin, draft.min_saving, draft.alpha, draft.coverage) == (0.01, -0.1, 0.1, 0.0)
    assert (draft.salt, draft.unit) == ("s", "user")


def test_the_control_comes_first_and_policies_are_written_out(use_case: UseCase) -> None:
    control, treatment = arms(use_case.checkpoint)
    draft = service.create_experiment("ada", use_case, "x", [treatment, control])
    first, second = draft.variants.all()
    assert (first.key, first.is_control, second.key, second.is_control) == ("full", True, "short", False)
    assert second.policy["parameters"]["threshold"] == 0.9
    assert second.policy["parameters"]["aggregate"] == "geometric"


def test_weights_that_miss_one_by_a_rounding_become_exact_shares(use_case: UseCase) -> None:
    control, treatment = arms(use_case.checkpoint)
    thirds = [
        dataclasses.replace(control, weight=0.3333),
        dataclasses.replace(treatment, weight=0.3333),
        dataclasses.replace(treatment, key="other", weight=0.3333),
    ]
    draft = service.create_experiment("ada", use_case, "x", thirds)
    assert math.fsum(variant.weight for variant in draft.variants.all()) == pytest.approx(1, abs=1e-12)


def test_creating_is_an_audit_event(draft: Experiment) -> None:
    (event,) = events(draft)
    assert (event.actor, event.action, event.before) == ("ada", "create", None)
    assert event.after == {"state": "draft", "name": "Early exit"}


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"name": "  "}, "name", "name must not be empty"),
        ({"name": "x" * 121}, "name", "name must have at most 120 characters, got 121"),
        ({"unit": "session"}, "unit", "unit must be one of conversation, user, request, got 'session'"),
        ({"margin": 0}, "margin", "margin must be a fraction between 0 and 1, got 0"),
        ({"margin": 5.0}, "margin", "margin must be a fraction between 0 and 1, got 5"),
        ({"margin": math.nan}, "margin", "margin must be a fraction between 0 and 1, got nan"),
        ({"min_saving": -1.0}, "min_saving", "min_saving must be a fraction between -1 and 1, got -1"),
        ({"alpha": 0.5}, "alpha", "alpha must be a fraction between 0 and 0.5, got 0.5"),
        ({"coverage": 1.0000001}, "coverage", "coverage must be from 0 to 1, got 1.0000001"),
        ({"coverage": math.nan}, "coverage", "coverage must be from 0 to 1, got nan"),
        ({"tuning_units": 499}, "tuning_units", "tuning_units must be from 500 to 2147483647, got 499"),
        ({"maximum_units": 2**31}, "maximum_units", "maximum_units must be from 2 to 2147483647, got 2147483648"),
    ],
)
def test_a_bad_design_is_refused_with_field_and_bound(
    use_case: UseCase, options: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_draft(use_case, **{"name": "x", **options})
    assert (caught.value.field, str(caught.value)) == (field, message)
    assert not Experiment.objects.exists()
    assert not AuditEvent.objects.exists()


Specs = list[service.VariantSpec]


def with_key(specs: Specs, key: str) -> Specs:
    return [specs[0], dataclasses.replace(specs[1], key=key)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda specs: specs[:1], "variants must be at least 2, got 1"),
        (lambda specs: with_key(specs, "full"), "variant keys must be different, got ['full', 'full']"),
        (lambda specs: with_key(specs, ""), "variant keys must be 1 to 40 letters, digits, - and _, got ''"),
        (
            lambda specs: with_key(specs, "a\r\nb"),
            "variant keys must be 1 to 40 letters, digits, - and _, got 'a\\r\\nb'",
        ),
        (
            lambda specs: with_key(specs, "k" * 41),
            f"variant keys must be 1 to 40 letters, digits, - and _, got '{'k' * 41}'",
        ),
        (lambda specs: [specs[1], with_key(specs, "other")[1]], "exactly one variant must be the control, got 0"),
        (
            lambda specs: [specs[0], dataclasses.replace(specs[1], is_control=True)],
            "exactly one variant must be the control, got 2",
        ),
        (
            lambda specs: [dataclasses.replace(specs[0], policy=SHORT), specs[1]],
            "the control's policy must be full without a cap (the anchor), got confidence",
        ),
        (
            lambda specs: [
                dataclasses.replace(specs[0], policy={"name": "full", "parameters": {"max_thinking_tokens": 9}}),
                specs[1],
            ],
            "the control's policy must be full without a cap (the anchor), got full",
        ),
        (
            lambda specs: [specs[0], dataclasses.replace(specs[1], weight=0.0)],
            "weight of short must be in (0, 1], got 0.0",
        ),
        (
            lambda specs: [specs[0], dataclasses.replace(specs[1], weight=math.nan)],
            "weight of short must be in (0, 1], got nan",
        ),
        (lambda specs: [specs[0], dataclasses.replace(specs[1], weight=0.4)], "weights must sum to 1, got 0.9"),
    ],
)
def test_bad_variants_are_refused_with_value_and_bound(
    use_case: UseCase, change: Callable[[Specs], Specs], message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        service.create_experiment("ada", use_case, "x", change(arms(use_case.checkpoint)))
    assert (caught.value.field, str(caught.value)) == ("variants", message)
    assert not Variant.objects.exists()


def test_a_bad_policy_is_refused_with_its_variant(use_case: UseCase) -> None:
    control, treatment = arms(use_case.checkpoint)
    bad = dataclasses.replace(treatment, policy={"name": "confidence", "parameters": {"threshold": 2}})
    with pytest.raises(InvalidInput, match="threshold must be at most 1, got 2") as caught:
        service.create_experiment("ada", use_case, "x", [control, bad])
    assert caught.value.field == "variants.short.policy"


def test_a_checkpoint_of_another_model_is_refused(use_case: UseCase) -> None:
    other = ModelProfile.objects.create(name="other", max_context_tokens=9)
    foreign = Checkpoint.objects.create(model=other, name="last", path="/nowhere")
    control, treatment = arms(use_case.checkpoint)
    with pytest.raises(InvalidInput, match="checkpoint of short must belong to model tiny, got other/last"):
        service.create_experiment("ada", use_case, "x", [control, dataclasses.replace(treatment, checkpoint=foreign)])


# -- changes of state -------------------------------------------------------------------------------


def test_starting_opens_the_first_phase(draft: Experiment) -> None:
    running = service.start("ada", draft, "the data is in")
    running.refresh_from_db()
    assert running.state == State.RUNNING
    assert running.started_at is not None
    phase = running.phases.get()
    assert (phase.number, phase.weights, phase.ended_at) == (1, {"full": 0.5, "short": 0.5}, None)


def test_pausing_keeps_the_phase(running: Experiment) -> None:
    paused = service.pause("ada", running)
    assert paused.state == State.PAUSED
    assert paused.phases.count() == 1


def test_resuming_opens_a_new_phase(running: Experiment) -> None:
    resumed = service.resume("ada", service.pause("ada", running))
    assert resumed.state == State.RUNNING
    first, second = resumed.phases.all()
    assert first.ended_at is not None
    assert (second.number, second.ended_at) == (2, None)


@pytest.mark.parametrize("conclusion", ["reverted", "inconclusive"])
def test_stopping_closes_the_phase_and_changes_nothing_else(
    running: Experiment, use_case: UseCase, conclusion: str
) -> None:
    stopped = service.stop("ada", running, conclusion)
    stopped.refresh_from_db()
    assert (stopped.state, stopped.conclusion) == (State.STOPPED, conclusion)
    assert stopped.stopped_at is not None
    assert stopped.phases.get().ended_at is not None
    use_case.refresh_from_db()
    assert use_case.policy == FULL


def test_a_paused_experiment_can_be_stopped(running: Experiment) -> None:
    assert service.stop("ada", service.pause("ada", running), "reverted").state == State.STOPPED


def test_shipping_puts_policy_and_checkpoint_in_force(draft: Experiment, use_case: UseCase) -> None:
    earlier = Checkpoint.objects.create(model=use_case.checkpoint.model, name="earlier", path="/nowhere")
    draft.variants.filter(key="short").update(checkpoint=earlier)
    running = service.start("ada", draft)
    short = running.variants.get(key="short")
    stopped = service.stop("ada", running, "shipped", "it holds", ship=short)
    assert stopped.conclusion == "shipped"
    use_case.refresh_from_db()
    assert (use_case.policy, use_case.checkpoint) == (short.policy, earlier)


def test_shipping_is_an_audit_event_of_the_use_case(running: Experiment, use_case: UseCase) -> None:
    short = running.variants.get(key="short")
    service.stop("ada", running, "shipped", "it holds", ship=short)
    (event,) = events(use_case)
    assert (event.actor, event.action, event.why) == ("ada", "ship", "it holds")
    assert event.before == {"policy": FULL, "checkpoint": use_case.checkpoint_id}
    assert event.after == {"policy": short.policy, "checkpoint": short.checkpoint_id}


def test_every_change_of_state_is_an_audit_event(draft: Experiment) -> None:
    service.start("ada", draft, "go")
    service.pause("bob", draft, "wait")
    service.resume("ada", draft)
    service.stop("bob", draft, "reverted", "too costly")
    seen = [(e.actor, e.action, e.before, e.after, e.why) for e in events(draft)[1:]]
    none = {"conclusion": ""}
    assert seen == [
        ("ada", "start", {"state": "draft"}, {"state": "running"} | none, "go"),
        ("bob", "pause", {"state": "running"}, {"state": "paused"} | none, "wait"),
        ("ada", "resume", {"state": "paused"}, {"state": "running"} | none, ""),
        (
            "bob",
            "stop: reverted",
            {"state": "running"},
            {"state": "stopped", "conclusion": "reverted"},
            "too costly",
        ),
    ]


CHANGES: dict[str, Callable[[Experiment], Experiment]] = {
    "start": lambda row: service.start("ada", row),
    "pause": lambda row: service.pause("ada", row),
    "resume": lambda row: service.resume("ada", row),
    "stop": lambda row: service.stop("ada", row, "reverted"),
}
ALLOWED = {
    State.DRAFT: {"start"},
    State.RUNNING: {"pause", "stop"},
    State.PAUSED: {"resume", "stop"},
    State.STOPPED: set[str](),
}


@pytest.mark.parametrize(
    ("state", "change"), [(s, c) for s, allowed in ALLOWED.items() for c in CHANGES if c not in allowed]
)
def test_a_change_from_another_state_is_refused_and_changes_nothing(draft: Experiment, state: str, change: str) -> None:
    Experiment.objects.filter(pk=draft.pk).update(state=state)
    before = AuditEvent.objects.count()
    with pytest.raises(WrongState, match=f"experiment 'Early exit' is {state}, this needs it to be"):
        CHANGES[change](draft)
    draft.refresh_from_db()
    assert (draft.state, draft.phases.count(), AuditEvent.objects.count()) == (state, 0, before)


def test_the_stored_state_counts_and_not_the_callers_copy(draft: Experiment) -> None:
    stale = Experiment.objects.get(pk=draft.pk)
    service.start("ada", draft)
    with pytest.raises(WrongState, match="is running"):
        service.start("ada", stale)


@pytest.mark.parametrize("change", ["start", "resume"])
def test_a_use_case_runs_one_experiment_at_a_time(running: Experiment, use_case: UseCase, change: str) -> None:
    other = make_draft(use_case, "Another")
    if change == "resume":
        Experiment.objects.filter(pk=other.pk).update(state=State.PAUSED)
    with pytest.raises(WrongState, match="use case 'arithmetic' already runs an experiment"), transaction.atomic():
        CHANGES[change](other)
    other.refresh_from_db()
    assert other.state != State.RUNNING
    assert not other.phases.exists()


def test_another_may_run_once_the_first_is_paused(running: Experiment, use_case: UseCase) -> None:
    service.pause("ada", running)
    assert service.start("ada", make_draft(use_case, "Another")).state == State.RUNNING


@pytest.mark.parametrize(
    ("conclusion", "key", "field"),
    [("won", None, "conclusion"), ("", None, "conclusion"), ("shipped", None, "ship"), ("reverted", "short", "ship")],
)
def test_a_stop_that_makes_no_sense_is_refused(
    running: Experiment, conclusion: str, key: str | None, field: str
) -> None:
    ship = running.variants.get(key=key) if key else None
    with pytest.raises(InvalidInput) as caught:
        service.stop("ada", running, conclusion, ship=ship)
    assert caught.value.field == field
    running.refresh_from_db()
    assert running.state == State.RUNNING


def test_a_variant_of_another_experiment_cannot_be_shipped(running: Experiment, use_case: UseCase) -> None:
    foreign = make_draft(use_case, "Another").variants.get(key="short")
    with pytest.raises(InvalidInput, match="variant short belongs to another experiment"):
        service.stop("ada", running, "shipped", ship=foreign)


def test_a_change_raises_the_configurations_version_and_publishes_it(
    draft: Experiment,
    redis_client: redis.Redis,
    django_capture_on_commit_callbacks: Callable[..., Any],
) -> None:
    with redis_client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(wire.CONFIG_CHANNEL)
        listener.get_message(timeout=5)  # that it listens
        with django_capture_on_commit_callbacks(execute=True):
            service.start("ada", draft)
        message = listener.get_message(timeout=5)
    assert redis_client.get(wire.CONFIG_VERSION_KEY) == b"1"
    assert message is not None
    assert message["data"] == b"1"
