"""Automatic revert: from a breach in the traffic to an arm that is gone, an audit event and a message."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from experiments.models import AuditEvent, Experiment, Notification, Phase, Snapshot, UseCase
from experiments.services import experiments as service
from experiments.services.errors import InvalidInput
from experiments.services.ledger import ingest
from experiments.services.looks import look
from experiments.services.routing import load_routing
from experiments.statistics.guardrails import Guardrail, GuardrailMetric, to_json
from tests.service_layer.conftest import FULL, SHORT, Admit, answered, make_draft

pytestmark = pytest.mark.usefixtures("redis_client")


def run(use_case: UseCase, third: bool = False, **changes: Any) -> Phase:
    """A running experiment with settings of its own."""
    if third:
        checkpoint = use_case.checkpoint
        arms = [
            service.VariantSpec("full", FULL, checkpoint, 0.4, is_control=True),
            service.VariantSpec("short", SHORT, checkpoint, 0.4),
            service.VariantSpec("shorter", SHORT, checkpoint, 0.2),
        ]
        draft = service.create_experiment("ada", use_case, "Three arms", arms)
    else:
        draft = make_draft(use_case)
    Experiment.objects.filter(pk=draft.pk).update(**changes)
    phase = service.start("ada", Experiment.objects.get(pk=draft.pk)).phase
    assert phase is not None
    return phase


def traffic(admit: Admit, phase: Phase, n: int = 150, **answers: dict[str, Any]) -> None:
    """n answered requests of n units for each arm; `answers` has what an arm's completions are like."""
    records, endings = [], []
    for key in phase.weights:
        for i in range(n):
            name = f"{phase.pk}-{key}-{i}"
            records.append(admit(name, phase=phase, variant=key, unit=name, reference="42"))
            endings.append(answered(name, **{"answer": "42", "thinking_tokens": 100 + i % 7} | answers.get(key, {})))
    ingest(records, endings)


EMPTY = {"answer": ""}
RAIL = to_json([Guardrail(GuardrailMetric.EMPTY, 0.1)])


def test_a_breached_guardrail_ends_the_experiment_when_it_was_the_last_treatment(
    use_case: UseCase, admit: Admit
) -> None:
    phase = run(use_case, guardrails=RAIL, margin=0.99)
    traffic(admit, phase, short=EMPTY)
    look(phase.experiment_id)
    experiment = Experiment.objects.get()
    assert (experiment.state, experiment.conclusion) == ("stopped", "reverted")
    variant = experiment.variants.get(key="short")
    assert variant.reverted_at is not None
    assert variant.reverted_why.startswith("Empty answers of short: 100.00% against 0.00%")


def test_the_other_arms_go_on_in_a_new_phase_and_keep_their_units(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, third=True, guardrails=RAIL)
    (before,) = load_routing(1).routes["arithmetic"].experiments
    traffic(admit, phase, short=EMPTY)
    look(phase.experiment_id)
    experiment = Experiment.objects.get()
    newest = experiment.phase
    assert experiment.state == "running"
    assert newest is not None
    assert newest.number == 2
    assert newest.weights == pytest.approx({"full": 2 / 3, "shorter": 1 / 3})
    (after,) = load_routing(2).routes["arithmetic"].experiments
    assert before is not None
    assert after is not None
    kept = dict(zip([arm.variant_key for arm in after.arms], after.ranges, strict=True))
    all_ranges = dict(zip([arm.variant_key for arm in before.arms], before.ranges, strict=True))
    assert kept == {key: all_ranges[key] for key in ("full", "shorter")}


def test_a_reverted_arm_stays_in_the_family_of_tests(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, third=True, guardrails=RAIL)
    traffic(admit, phase, short=EMPTY)
    look(phase.experiment_id)
    newest = Experiment.objects.get().phase
    assert newest is not None
    traffic(admit, newest)
    look(phase.experiment_id)
    verdicts = Snapshot.objects.filter(phase=newest).get().data["verdict"]["treatments"]
    assert {item["treatment"]: item["decision"] for item in verdicts}["short"] == "revert"


def test_em_beyond_the_margin_reverts(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case)
    traffic(admit, phase, short={"answer": "43"})
    look(phase.experiment_id)
    assert Experiment.objects.get().conclusion == "reverted"


def test_a_revert_leaves_an_audit_event_that_says_why(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, third=True, guardrails=RAIL, margin=0.99)
    traffic(admit, phase, short=EMPTY)
    look(phase.experiment_id)
    event = AuditEvent.objects.get(action="revert")
    assert (event.actor, event.after["reasons"]) == ("guardrail", ["guardrail_breached", "saving_not_shown"])
    assert "Empty answers of short" in event.why


def test_the_owner_and_the_webhook_are_told(use_case: UseCase, admit: Admit, settings: Any) -> None:
    settings.WEBHOOK_URL = "http://hooks.example/curtail"
    phase = run(use_case, third=True, guardrails=RAIL, owner_email="ada@example.org")
    traffic(admit, phase, short=EMPTY)
    look(phase.experiment_id)
    assert set(Notification.objects.values_list("channel", "recipient")) == {
        ("email", "ada@example.org"),
        ("webhook", "http://hooks.example/curtail"),
    }
    assert Notification.objects.filter(payload__event="arm_reverted").count() == 2


def test_a_reverted_variant_cannot_be_shipped(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, third=True, guardrails=RAIL)
    traffic(admit, phase, short=EMPTY)
    look(phase.experiment_id)
    experiment = Experiment.objects.get()
    with pytest.raises(InvalidInput, match="variant short was reverted"):
        service.stop("ada", experiment, "shipped", ship=experiment.variants.get(key="short"))


def test_a_look_at_an_experiment_that_was_paused_meanwhile_reverts_nothing(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, third=True, guardrails=RAIL)
    traffic(admit, phase, short=EMPTY)
    service.pause("ada", phase.experiment)
    look(phase.experiment_id)
    assert not AuditEvent.objects.filter(action="revert").exists()


def test_healthy_arms_are_left_alone(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, guardrails=RAIL)
    traffic(admit, phase)
    look(phase.experiment_id)
    assert Experiment.objects.get().state == "running"
    assert not Notification.objects.exists()


def test_the_declared_maximum_without_a_decision_ends_it_as_inconclusive(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, maximum_units=40, owner_email="ada@example.org")
    traffic(admit, phase, n=20)
    look(phase.experiment_id)
    assert Experiment.objects.get().conclusion == "inconclusive"
    assert Notification.objects.get().payload["event"] == "inconclusive"


def test_harm_in_a_declared_segment_reverts(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, segments=["batch"], margin=0.3)
    for segment, answer in (("batch", "43"), ("", "42")):
        records, endings = [], []
        for key in phase.weights:
            for i in range(120 if segment else 600):
                name = f"{segment}-{key}-{i}"
                records.append(admit(name, phase=phase, variant=key, unit=name, reference="42", segment=segment))
                endings.append(answered(name, answer if key == "short" else "42", thinking_tokens=100 + i % 7))
        ingest(records, endings)
    look(phase.experiment_id)
    reasons = AuditEvent.objects.get(action="revert").after["reasons"]
    assert reasons[0] == "segment_harmed"


def test_an_experiment_that_leaves_decisions_to_people_is_left_alone(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, guardrails=RAIL, automatic=False)
    traffic(admit, phase, short=EMPTY)
    snapshot = look(phase.experiment_id)
    assert snapshot is not None
    assert snapshot.data["verdict"]["decision"] == "revert"
    assert Experiment.objects.get().state == "running"


def test_each_phase_tests_at_its_share_of_the_declared_alphas(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, alpha=0.04, false_revert_alpha=0.08)
    found = []
    for _ in range(2):
        stored = look(phase.experiment_id)
        assert stored is not None
        found.append([stored.data["design"][name] for name in ("alpha", "false_revert_alpha")])
        service.pause("ada", Experiment.objects.get())
        service.resume("ada", Experiment.objects.get())
    assert found == [pytest.approx([0.03, 0.06]), pytest.approx([0.0075, 0.015])]


def test_the_maximum_counts_the_units_of_all_phases(use_case: UseCase, admit: Admit) -> None:
    experiment = run(use_case, maximum_units=100).experiment
    for _ in range(2):
        newest = Experiment.objects.get().phase
        assert newest is not None
        traffic(admit, newest, n=30)
        assert Experiment.objects.get().state == "running"
        look(experiment.pk)
        if Experiment.objects.get().state == "running":
            service.resume("ada", service.pause("ada", experiment))
    assert Experiment.objects.get().conclusion == "inconclusive"
    assert Snapshot.objects.first().data["total_units"] == 120  # type: ignore[union-attr]


def test_the_units_of_a_phase_that_ended_long_ago_are_counted_once(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case)
    traffic(admit, phase, n=10)
    service.resume("ada", service.pause("ada", phase.experiment))
    look(phase.experiment_id)
    assert Phase.objects.get(pk=phase.pk).exposures is None
    Phase.objects.filter(pk=phase.pk).update(ended_at=timezone.now() - timedelta(hours=2))
    look(phase.experiment_id)
    assert Phase.objects.get(pk=phase.pk).exposures == 20


CHEAP = {"thinking_tokens": 40}


def test_a_breach_reverts_its_arm_also_when_the_maximum_ends_the_experiment(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case, third=True, guardrails=RAIL, margin=0.99, maximum_units=450, owner_email="ada@example.org")
    traffic(admit, phase, shorter=EMPTY)
    look(phase.experiment_id)
    experiment = Experiment.objects.get()
    assert experiment.conclusion == "inconclusive"
    assert experiment.variants.get(key="shorter").reverted_at is not None
    assert AuditEvent.objects.get(action="revert").after["variant"] == "shorter"
    messages = {item.payload["event"]: item.payload["message"] for item in Notification.objects.all()}
    assert messages["inconclusive"].startswith("The declared maximum of 450 units")


class TestShippable:
    """A treatment that may be shipped, whose sibling is reverted at the same look."""

    @pytest.fixture
    def experiment(self, use_case: UseCase, admit: Admit) -> Experiment:
        """One in its second phase: the first has shown that ``short`` may be shipped, and reverted ``shorter``."""
        phase = run(use_case, third=True, guardrails=RAIL, owner_email="ada@example.org")
        traffic(admit, phase, n=400, short=CHEAP, shorter=EMPTY)
        look(phase.experiment_id)
        experiment = Experiment.objects.get()
        assert experiment.phase is not None
        assert experiment.phase.number == 2
        return experiment

    def shown(self, experiment: Experiment) -> Snapshot | None:
        return experiment.variants.get(key="short").ship_snapshot

    def test_keeps_its_evidence_in_the_next_phase(self, experiment: Experiment) -> None:
        look(experiment.pk)
        shown = self.shown(experiment)
        assert shown is not None
        assert (shown.phase.number, shown.data["verdict"]["winner"]) == (1, "short")

    def test_is_told_to_the_owner_once(self, experiment: Experiment, admit: Admit) -> None:
        assert experiment.phase is not None
        traffic(admit, experiment.phase, n=400, short=CHEAP)
        look(experiment.pk)
        shown = self.shown(experiment)
        assert shown is not None
        assert shown.phase.number == 2
        message = Notification.objects.get(payload__event="ship_ready")
        assert message.payload["details"]["variant"] == "short"

    def test_can_be_shipped_from_the_next_phase(self, experiment: Experiment) -> None:
        variant = experiment.variants.get(key="short")
        service.stop("ada", experiment, "shipped", ship=variant)
        assert UseCase.objects.get().policy == variant.policy

    def test_is_not_ended_as_inconclusive_at_the_maximum(self, experiment: Experiment) -> None:
        Experiment.objects.update(maximum_units=1_200)
        stored = look(experiment.pk)
        assert stored is not None
        assert stored.data["verdict"]["decision"] == "inconclusive"
        assert Experiment.objects.get().state == "running"

    def test_loses_its_evidence_with_a_revert(self, experiment: Experiment, admit: Admit) -> None:
        assert experiment.phase is not None
        traffic(admit, experiment.phase, short=EMPTY)
        look(experiment.pk)
        assert Experiment.objects.get().conclusion == "reverted"
        assert self.shown(experiment) is None


def test_within_a_phase_the_newest_look_says_what_may_be_shipped(use_case: UseCase, admit: Admit) -> None:
    phase = run(use_case)
    traffic(admit, phase, n=400, short=CHEAP)
    look(phase.experiment_id)
    variant = phase.experiment.variants.get(key="short")
    assert variant.ship_snapshot is not None
    admitted = admit("broken", phase=phase, variant="short", unit="broken", reference="42")
    ingest([admitted], [answered("broken", enforcement_failures="exit_missed")])
    look(phase.experiment_id)
    variant.refresh_from_db()
    assert variant.ship_snapshot is None
