"""Shadow runs: who gets one, what is asked for, and what becomes of the pairs."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from django.utils import timezone

from experiments import wire
from experiments.models import Checkpoint, Experiment, Label, Phase, ShadowRun, UseCase
from experiments.services import experiments as service
from experiments.services import shadow
from experiments.services.accumulators import PAIRS, count_until
from experiments.services.labels import NewLabel, submit_labels
from experiments.services.ledger import ingest
from experiments.services.looks import look
from tests.service_layer.conftest import SHORT, Admit, answered, make_draft
from tests.service_layer.test_accumulators import count, moments

MESSAGES = [{"role": "user", "content": "6*7"}]
pytestmark = pytest.mark.usefixtures("redis_client")


def admitted(admit: Admit, phase: Phase, name: str, key: str, **options: Any) -> None:
    now = time.time()
    fields = {"shadowed": True, "admitted_at": now, "deadline_at": now + 60, "reference": "42"} | options
    ingest([admit(name, phase=phase, variant=key, unit=f"u-{name}", **fields)], [])


def ends(name: str, answer: str = "42", reason: str = "confident", **options: Any) -> None:
    options = {"messages": MESSAGES, "thinking": "hm", "exit_reason": reason, "thinking_tokens": 20} | options
    ingest([], [answered(name, answer, **options)])


def queued(client: redis.Redis, phase: Phase) -> list[wire.ShadowRequest]:
    checkpoint = phase.experiment.use_case.checkpoint_id
    entries = client.xrange(wire.shadow_stream(checkpoint))
    return [wire.ShadowRequest.decode(fields[wire.PAYLOAD]) for _, fields in entries]


@pytest.mark.django_db(transaction=True)
class TestQueue:
    """Queueing needs commits: requests leave for Redis after them."""

    def test_a_treated_request_is_continued_without_its_policy(
        self, admit: Admit, phase: Phase, redis_client: redis.Redis
    ) -> None:
        admitted(admit, phase, "a", "short")
        ends("a")
        assert shadow.queue_due() == 1
        (request,) = queued(redis_client, phase)
        assert (request.policy["name"], request.thinking, request.ended) == ("full", "hm", False)
        assert ShadowRun.objects.get().kind == "continue"

    def test_a_control_request_is_probed_with_the_treatments_policy(
        self, admit: Admit, phase: Phase, redis_client: redis.Redis
    ) -> None:
        admitted(admit, phase, "a", "full")
        ends("a", reason="end_of_thinking", answer_tokens=2)
        shadow.queue_due()
        (request,) = queued(redis_client, phase)
        assert (request.policy["name"], request.ended) == (SHORT["name"], True)
        run = ShadowRun.objects.get()
        assert (run.kind, run.treatment.key) == ("probe", "short")

    def test_nothing_is_queued_twice(self, admit: Admit, phase: Phase, redis_client: redis.Redis) -> None:
        admitted(admit, phase, "a", "short")
        ends("a")
        assert (shadow.queue_due(), shadow.queue_due()) == (1, 0)
        assert len(queued(redis_client, phase)) == 1

    def test_a_treated_request_that_thought_to_its_end_is_its_own_pair(
        self, admit: Admit, phase: Phase, redis_client: redis.Redis
    ) -> None:
        admitted(admit, phase, "a", "short")
        ends("a", reason="end_of_thinking")
        shadow.queue_due()
        run = ShadowRun.objects.get()
        assert (run.state, run.agrees, run.correct, run.forced_tokens) == ("answered", True, True, 20)
        assert queued(redis_client, phase) == []

    def test_a_request_that_is_its_own_pair_is_counted_even_if_it_was_counted_before(
        self, admit: Admit, phase: Phase
    ) -> None:
        admitted(admit, phase, "a", "short")
        ends("a", reason="end_of_thinking")
        now = timezone.now()
        count_until(phase.experiment, phase, now, now)
        shadow.queue_due()
        count_until(phase.experiment, phase, now, now)
        assert moments(phase, "short", PAIRS).total("pairs") == 1

    @pytest.mark.parametrize("reason", ["length", "client_cap"])
    def test_what_its_policy_did_not_stop_is_its_own_pair(
        self, admit: Admit, phase: Phase, redis_client: redis.Redis, reason: str
    ) -> None:
        admitted(admit, phase, "a", "short")
        ends("a", reason=reason)
        shadow.queue_due()
        assert ShadowRun.objects.get().state == "answered"
        assert queued(redis_client, phase) == []

    def test_a_run_is_sampled_as_its_request_was(self, admit: Admit, phase: Phase, redis_client: redis.Redis) -> None:
        sampling = {"temperature": 0.6, "top_p": 0.9, "max_tokens": 300}
        admitted(admit, phase, "a", "short", sampling=sampling)
        ends("a")
        shadow.queue_due()
        (request,) = queued(redis_client, phase)
        assert (request.temperature, request.top_p, request.max_tokens) == (0.6, 0.9, 300)

    def test_a_thought_in_which_decoding_ended_is_not_closed(
        self, admit: Admit, phase: Phase, redis_client: redis.Redis
    ) -> None:
        admitted(admit, phase, "a", "full")
        ends("a", "", reason="end_of_thinking", answer_tokens=0)
        shadow.queue_due()
        (request,) = queued(redis_client, phase)
        assert not request.ended

    def test_requests_that_have_no_pair_do_not_hold_up_the_others(
        self, admit: Admit, phase: Phase, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shadow, "MAX_AT_ONCE", 1)
        for name, messages in (("a", None), ("b", MESSAGES)):
            admitted(admit, phase, name, "short")
            ends(name, messages=messages)
        assert (shadow.queue_due(), shadow.queue_due()) == (0, 1)

    def test_another_checkpoint_shares_no_thought(self, admit: Admit, phase: Phase) -> None:
        model = phase.experiment.use_case.checkpoint.model
        other = Checkpoint.objects.create(model=model, name="earlier", path="/nowhere")
        phase.experiment.variants.filter(key="short").update(checkpoint=other)
        for name, key in (("a", "short"), ("b", "full")):
            admitted(admit, phase, name, key)
            ends(name)
        assert shadow.queue_due() == 0

    @pytest.mark.parametrize("change", [{"shadowed": False}, {"admitted_at": time.time() - 7 * 3600}])
    def test_who_was_not_drawn_or_is_too_old_gets_none(
        self, admit: Admit, phase: Phase, change: dict[str, Any]
    ) -> None:
        admitted(admit, phase, "a", "short", **change)
        ends("a")
        assert shadow.queue_due() == 0

    def test_a_request_without_an_answer_gets_none(self, admit: Admit, phase: Phase) -> None:
        admitted(admit, phase, "a", "short")
        assert shadow.queue_due() == 0

    def test_a_stopped_experiment_gets_none(self, admit: Admit, phase: Phase) -> None:
        admitted(admit, phase, "a", "short")
        ends("a")
        service.stop("ada", phase.experiment, "inconclusive")
        assert shadow.queue_due() == 0


def run_of(name: str, phase: Phase, kind: str = "continue", treatment: str = "short") -> str:
    variant = phase.experiment.variants.get(key=treatment)
    ShadowRun.objects.create(
        id=f"s-{name}", admission_id=name, treatment=variant, kind=kind, queued_at=phase.started_at
    )
    return f"s-{name}"


def past(admit: Admit, phase: Phase, name: str, key: str, answer: str, **options: Any) -> None:
    """An answered request of long ago, so that it is counted."""
    ingest([admit(name, phase=phase, variant=key, unit=f"u-{name}", **options)], [])
    ends(name, answer)


def test_an_ended_run_is_graded_against_its_request(admit: Admit, phase: Phase) -> None:
    past(admit, phase, "a", "short", "43", reference="42")
    ingest([], [], [wire.ShadowRecord(run_of("a", phase), time.time(), answer="42", thinking_tokens=30)])
    run = ShadowRun.objects.get()
    assert (run.state, run.agrees, run.correct) == ("answered", False, True)


def test_agreement_becomes_a_label_that_predicts(admit: Admit, phase: Phase) -> None:
    for name, answer in (("a", "42"), ("b", "43")):
        past(admit, phase, name, "short", answer)
        ingest([], [], [wire.ShadowRecord(run_of(name, phase), time.time(), answer="42")])
    found = Label.objects.filter(source="agreement").values_list("admission_id", "score", "correct")
    assert set(found) == {("a", 100, None), ("b", 0, None)}


def test_a_run_ends_once(admit: Admit, phase: Phase) -> None:
    past(admit, phase, "a", "short", "42")
    name = run_of("a", phase)
    ingest([], [], [wire.ShadowRecord(name, time.time(), answer="42")])
    ingest([], [], [wire.ShadowRecord(name, time.time(), answer="43")])
    assert ShadowRun.objects.get().answer == "42"


def test_a_failed_run_is_no_pair(admit: Admit, phase: Phase) -> None:
    past(admit, phase, "a", "short", "42")
    ingest([], [], [wire.ShadowRecord(run_of("a", phase), time.time(), error="out of memory")])
    count(phase)
    variant = phase.experiment.variants.get(key="short")
    from experiments.services.accumulators import load_moments

    assert (variant.pk, PAIRS) not in load_moments(phase)


def test_a_late_reference_grades_the_run_too(admit: Admit, phase: Phase) -> None:
    past(admit, phase, "a", "short", "43")
    ingest([], [], [wire.ShadowRecord(run_of("a", phase), time.time(), answer="42")])
    assert ShadowRun.objects.get().correct is None
    submit_labels([NewLabel("a", "42")])
    assert ShadowRun.objects.get().correct is True


def test_both_kinds_make_pairs_of_the_treatment(admit: Admit, phase: Phase) -> None:
    """Continued: the full run was right where the exit was wrong. Probed: the exit would have been right as well."""
    past(admit, phase, "a", "short", "43", reference="42")
    past(admit, phase, "b", "full", "42", reference="42")
    count(phase)
    records = [
        wire.ShadowRecord(run_of("a", phase), time.time(), answer="42", forced_tokens=20, thinking_tokens=30),
        wire.ShadowRecord(run_of("b", phase, "probe"), time.time(), answer="42", forced_tokens=5, probe_tokens=3),
    ]
    ingest([], [], records)
    count(phase)
    pairs = moments(phase, "short", PAIRS)
    names = ("pairs", "disagreements", "graded", "both_right", "only_control", "only_treatment")
    assert [pairs.total(name) for name in names] == [2, 1, 2, 1, 1, 0]
    assert (pairs.total("control_tokens"), pairs.total("treatment_tokens")) == (50 + 20, 20 + 8)


def test_pairs_reach_the_snapshot(use_case: UseCase, admit: Admit) -> None:
    experiment: Experiment = service.start("ada", make_draft(use_case))
    phase = experiment.phase
    assert phase is not None
    for i in range(12):
        past(admit, phase, f"a{i}", "short", "42", reference="42")
        ingest([], [], [wire.ShadowRecord(run_of(f"a{i}", phase), time.time(), answer="42" if i else "41")])
    stored = look(experiment.pk)
    assert stored is not None
    pairs = stored.data["details"][0]["pairs"]
    assert (pairs["pairs"], pairs["table"]["both_right"], pairs["table"]["only_treatment"]) == (12, 11, 1)
    assert pairs["agreement"] == pytest.approx(11 / 12)


def test_a_pair_is_graded_by_the_labels_that_its_experiment_measures_em_by(admit: Admit, phase: Phase) -> None:
    """The audit says 42, the supplied reference 41, and both sides answer 42."""
    Experiment.objects.update(estimand_source="audit", audit_every=1)
    phase.refresh_from_db()
    past(admit, phase, "a", "short", "42", reference="41", audited=True)
    ingest([], [], [wire.ShadowRecord(run_of("a", phase), time.time(), answer="42")])
    assert ShadowRun.objects.get().correct is None
    submit_labels([NewLabel("a", source="audit", reference="42")])
    assert ShadowRun.objects.get().correct is True
    count(phase)
    pairs = moments(phase, "short", PAIRS)
    assert [pairs.total(name) for name in ("graded", "both_right")] == [1, 1]
