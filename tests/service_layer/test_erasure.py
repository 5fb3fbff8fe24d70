"""Erasing a unit: its words are gone wherever they were, and no figure changes."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

from experiments import wire
from experiments.models import AuditEvent, Completion, Label, Phase, ShadowRun, UseCase
from experiments.services import accumulators, shadow
from experiments.services import experiments as service
from experiments.services.erasure import Erased, erase_unit
from experiments.services.errors import InvalidInput
from experiments.services.labels import NewLabel, submit_labels
from experiments.services.ledger import ingest
from experiments.services.looks import look
from experiments.services.secrets import unit_digest
from experiments.wire import ShadowRecord
from tests.service_layer.conftest import Admit, make_draft
from tests.service_layer.test_accumulators import LATER, contents, count
from tests.service_layer.test_retention import MARK, marked, places

pytestmark = [pytest.mark.usefixtures("redis_client")]
NOTHING = Erased(0, 0, 0, 0)


def of(user: str = "", conversation: str = "") -> dict[str, str]:
    """The hashes that an admission carries."""
    return {
        "user_hash": unit_digest(user) if user else "",
        "conversation_hash": unit_digest(conversation) if conversation else "",
    }


@pytest.mark.parametrize("unit", ["ann", "talk", "a"])
def test_a_user_a_conversation_or_a_request_is_erased(admit: Admit, use_case: UseCase, unit: str) -> None:
    ingest([admit("a", reference=MARK, **of("ann", "talk"))], [marked("a")])
    assert erase_unit("ada", use_case, unit) == Erased(1, 0, 0, 0)
    assert places() == []
    assert Label.objects.get().correct is True


def test_the_exposed_unit_is_erased(admit: Admit, phase: Phase, use_case: UseCase) -> None:
    ingest([admit("a", phase=phase, variant="full", unit=unit_digest("ann"))], [marked("a")])
    assert erase_unit("ada", use_case, "ann").completions == 1


def test_others_keep_their_texts(admit: Admit, use_case: UseCase) -> None:
    ingest([admit("a", **of("ann")), admit("b", **of("bob")), admit("c")], [marked(n) for n in "abc"])
    erase_unit("ada", use_case, "ann")
    assert set(Completion.objects.exclude(text="").values_list("pk", flat=True)) == {"b", "c"}


def test_a_second_time_changes_nothing(admit: Admit, use_case: UseCase) -> None:
    ingest([admit("a", reference=MARK, **of("ann"))], [marked("a")])
    erase_unit("ada", use_case, "ann")
    before = list(Completion.objects.values())
    assert erase_unit("ada", use_case, "ann") == NOTHING
    assert list(Completion.objects.values()) == before


def test_hashes_of_the_unit_go_as_well(admit: Admit, use_case: UseCase) -> None:
    ingest([admit("a", reference=MARK, retention="hash", **of("ann"))], [marked("a", "hash")])
    assert places("hmac-sha256") != []
    erase_unit("ada", use_case, "ann")
    assert places("hmac-sha256") == []


def test_another_use_case_is_left_alone(admit: Admit, use_case: UseCase) -> None:
    other = UseCase.objects.create(slug="o", name="O", checkpoint=use_case.checkpoint, policy=use_case.policy)
    ingest([admit("a", **of("ann"))], [marked("a")])
    assert erase_unit("ada", other, "ann") == NOTHING
    assert Completion.objects.get().text


def test_labels_that_wait_are_dropped_and_others_stay(admit: Admit, model: Any, use_case: UseCase) -> None:
    ingest([admit("a", reference=MARK, **of("ann"))], [marked("a")])
    model.grader = "math_verify"
    model.save()
    ingest([admit("b", reference=MARK, **of("ann"))], [marked("b")])
    assert erase_unit("ada", use_case, "ann") == Erased(2, 1, 0, 0)
    assert dict(Label.objects.values_list("admission_id", "correct")) == {"a": True}


def test_no_figure_of_the_experiment_changes(admit: Admit, phase: Phase, use_case: UseCase) -> None:
    for number in range(6):
        unit = {"phase": phase, "variant": "short" if number % 2 else "full", "unit": f"{number:032x}"}
        reference = MARK if number else "other"
        ingest([admit(f"r{number}", reference=reference, **unit, **of("ann"))], [])
        if number < 5:  # one is lost
            ingest([], [marked(f"r{number}", answer="" if number == 1 else MARK)])
    count(phase)
    before = contents(phase)
    erase_unit("ada", use_case, "ann")
    assert places() == []
    count(phase)
    assert contents(phase) == before
    accumulators.rebuild(phase.experiment, phase, LATER)
    count(phase)
    assert contents(phase) == before


def test_what_arrives_later_is_erased(admit: Admit, use_case: UseCase) -> None:
    erase_unit("ada", use_case, "ann")
    ingest([admit("a", reference=MARK, **of("ann"))], [])
    ingest([], [marked("a")])
    assert places() == []


def test_a_completion_of_an_erased_admission_is_erased(admit: Admit, use_case: UseCase) -> None:
    ingest([admit("a", reference=MARK, **of("ann"))], [])
    erase_unit("ada", use_case, "ann")
    ingest([], [marked("a")])
    assert places() == []
    assert Label.objects.get().correct is None


def test_requests_after_the_erasure_are_kept(admit: Admit, use_case: UseCase) -> None:
    erase_unit("ada", use_case, "ann")
    ingest([admit("a", admitted_at=time.time() + 5, **of("ann"))], [marked("a")])
    assert places() == ["experiments_completion"]


def test_a_late_reference_for_an_erased_completion_is_refused(admit: Admit, use_case: UseCase) -> None:
    ingest([admit("a", **of("ann"))], [marked("a")])
    erase_unit("ada", use_case, "ann")
    with pytest.raises(InvalidInput, match="keeps no answer"):
        submit_labels([NewLabel("a", MARK)])


def test_dead_letters_of_the_unit_are_removed(admit: Admit, use_case: UseCase, redis_client: redis.Redis) -> None:
    records = [
        ("admission", admit("a", reference=MARK, **of("ann"))),
        ("completion", marked("a")),
        ("completion", marked("b")),
        ("completion", wire.CompletionRecord("c", "answered", 0.0)),
    ]
    for kind, record in records:
        redis_client.xadd(wire.LEDGER_DEAD_STREAM, {wire.KIND: kind, wire.PAYLOAD: record.encode()})
    redis_client.xadd(wire.LEDGER_DEAD_STREAM, {wire.KIND: "completion", wire.PAYLOAD: b"no JSON"})
    assert erase_unit("ada", use_case, "ann").dead_letters == 2
    assert redis_client.xlen(wire.LEDGER_DEAD_STREAM) == 3


def test_the_audit_event_does_not_name_the_unit(admit: Admit, use_case: UseCase) -> None:
    ingest([admit("a", **of("ann-who-left"))], [marked("a")])
    erase_unit("ada", use_case, "ann-who-left")
    event = AuditEvent.objects.get(action="erase unit")
    assert (event.actor, event.after) == ("ada", {"completions": 1, "labels": 0, "shadow_runs": 0})
    assert places("ann-who-left") == []


@pytest.mark.parametrize("unit", ["", "x" * 513, "a\x00"])
def test_a_unit_that_cannot_be_one_is_refused(use_case: UseCase, unit: str) -> None:
    with pytest.raises(InvalidInput, match="unit must"):
        erase_unit("ada", use_case, unit)


def test_the_command_says_how_many(admit: Admit, use_case: UseCase, capsys: pytest.CaptureFixture[str]) -> None:
    ingest([admit("a", **of("ann"))], [marked("a")])
    call_command("erase_unit", "arithmetic", "ann")
    assert "erased the texts of 1 completions" in capsys.readouterr().out
    with pytest.raises(CommandError, match="'nothing'"):
        call_command("erase_unit", "nothing", "ann")


@pytest.mark.django_db(transaction=True)
class TestShadowRuns:
    """Queueing needs commits."""

    def _queued(self, admit: Admit, use_case: UseCase) -> Phase:
        draft = make_draft(use_case)
        phase = service.start("ada", draft).phase
        assert phase is not None
        now = time.time()
        options = {"shadowed": True, "admitted_at": now, "deadline_at": now + 60, "reference": MARK, **of("ann")}
        ingest([admit("a", phase=phase, variant="short", unit="0f", **options)], [])
        ingest([], [marked("a", exit_reason="confident", thinking_tokens=5)])
        assert shadow.queue_due() == 1
        return phase

    def test_a_queued_run_leaves_its_stream(self, admit: Admit, use_case: UseCase, redis_client: redis.Redis) -> None:
        self._queued(admit, use_case)
        stream = wire.shadow_stream(use_case.checkpoint_id)
        assert MARK.encode() in redis_client.xrange(stream)[0][1][wire.PAYLOAD]
        erase_unit("ada", use_case, "ann")
        assert redis_client.xlen(stream) == 0
        run = ShadowRun.objects.get()
        assert (run.state, run.error) == ("failed", "erased")
        ingest([], [], [ShadowRecord(run.pk, time.time(), answer=MARK)])
        assert places() == []

    def test_an_ended_run_loses_its_answer_and_keeps_what_it_says(self, admit: Admit, use_case: UseCase) -> None:
        self._queued(admit, use_case)
        ingest([], [], [ShadowRecord(ShadowRun.objects.get().pk, time.time(), answer="other")])
        assert erase_unit("ada", use_case, "ann") == Erased(1, 0, 1, 0)
        submit_labels([NewLabel("a", source="feedback", score=1.0)])  # would grade the run again
        run = ShadowRun.objects.get()
        assert (run.answer, run.agrees, run.correct) == ("", False, False)


def test_a_look_gives_the_same_snapshot(admit: Admit, phase: Phase, use_case: UseCase) -> None:
    for number in range(4):
        unit = {"phase": phase, "variant": "short" if number % 2 else "full", "unit": f"{number:032x}"}
        now = phase.started_at.timestamp() - 7200
        times = {"admitted_at": now, "deadline_at": now + 60}
        ingest([admit(f"r{number}", reference=MARK, **unit, **times, **of("ann"))], [marked(f"r{number}")])
    first = look(phase.experiment_id)
    erase_unit("ada", use_case, "ann")
    second = look(phase.experiment_id)
    assert first is not None
    assert second is not None
    assert first.data["total_units"] == 4
    assert second.data == first.data
