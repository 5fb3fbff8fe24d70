"""What is not kept is nowhere in the tables, and is graded all the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.db import connection

from experiments.models import Admission, AuditEvent, Completion, Label, ModelProfile, Phase, UseCase
from experiments.services import experiments as service
from experiments.services import isolated_grading
from experiments.services.errors import InvalidInput
from experiments.services.isolated_grading import grade_waiting
from experiments.services.judging import Judgement, JudgePool, Task
from experiments.services.labels import NewLabel, submit_labels
from experiments.services.ledger import ingest
from experiments.services.private_rows import settle_lost
from experiments.services.registry import change_retention
from experiments.services.retention import message_payload
from experiments.services.sealing import is_sealed, seal, seal_text, unseal, unseal_text
from experiments.wire import AdmissionRecord, CompletionRecord, ServeRequest
from tests.service_layer.conftest import NOON, Admit, make_draft
from tests.service_layer.test_accumulators import count, moments

MARK = "Xylophon"
# Fields of a completion's record that hold no word of prompt, thinking or answer. A new field is in neither set.
WORDLESS = {
    "id",
    "outcome",
    "completed_at",
    "finish_reason",
    "exit_reason",
    "decision_step",
    "applied_step",
    "prompt_tokens",
    "thinking_tokens",
    "answer_tokens",
    "probe_tokens",
    "overrun_tokens",
    "prefill_tokens",
    "probes",
    "enforcement_failures",
    "estimated_counts",
    "queue_seconds",
    "latency_seconds",
    "deliveries",
    "retention",
}
WORDS = {"messages", "thinking", "text", "answer", "error", "exit_detail"}


def marked(number: str, retention: str = "keep", answer: str = MARK, **options: Any) -> CompletionRecord:
    """A completion with the mark in all its texts."""
    values: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"say {MARK}"}],
        "thinking": f"{MARK}?",
        "text": f"It is {MARK}.",
        "answer": answer,
        "exit_detail": MARK,
        "error": f"bad {MARK}",
    }
    return CompletionRecord(number, "answered", NOON + 1, retention=retention, **values | options)


def places(mark: str = MARK) -> list[str]:
    """The tables of the database in any column of which the mark stands."""
    with connection.cursor() as cursor:
        found = []
        for table in connection.introspection.table_names(cursor):
            if table.startswith("stage_"):  # temporary, and in use until the test's transaction ends
                continue
            cursor.execute(f'SELECT count(*) FROM "{table}" t WHERE t::text ILIKE %s', [f"%{mark}%"])
            if cursor.fetchone()[0]:
                found.append(table)
        return found


def set_retention(use_case: UseCase, retention: str) -> None:
    change_retention("ada", use_case, retention)


def test_every_field_of_a_completion_is_known_to_hold_words_or_none() -> None:
    assert {field.name for field in dataclasses.fields(CompletionRecord)} == WORDLESS | WORDS


def test_kept_texts_are_kept(admit: Admit) -> None:
    ingest([admit("a", reference=MARK)], [marked("a")])
    assert set(places()) == {"experiments_admission", "experiments_completion", "experiments_label"}


@pytest.mark.parametrize("order", ["together", "admission first", "completion first"])
@pytest.mark.parametrize(("reference", "correct"), [(MARK, True), ("Glockenspiel", False)])
@pytest.mark.parametrize("retention", ["hash", "drop"])
def test_a_reference_is_graded_and_leaves_no_word(
    admit: Admit, retention: str, reference: str, correct: bool, order: str
) -> None:
    admission = admit("a", reference=reference, retention=retention)
    completion = marked("a", retention)
    batches: dict[str, list[tuple[list[AdmissionRecord], list[CompletionRecord]]]] = {
        "together": [([admission], [completion])],
        "admission first": [([admission], []), ([], [completion])],
        "completion first": [([], [completion]), ([admission], [])],
    }
    for batch in batches[order]:
        ingest(*batch)
        assert (places(), places("Glockenspiel")) == ([], [])
    assert Label.objects.get().correct is correct
    assert places("sealed:") == []


@pytest.mark.parametrize("source", ["admission", "completion", "use case"])
def test_the_strictest_of_record_and_use_case_holds(admit: Admit, use_case: UseCase, source: str) -> None:
    if source == "use case":
        set_retention(use_case, "drop")
    ingest([admit("a", reference=MARK, retention="drop" if source == "admission" else "keep")], [])
    ingest([], [marked("a", "drop" if source == "completion" else "keep")])
    assert "experiments_completion" not in places()
    assert (places() == []) is (source != "completion")


def test_hashes_are_keyed_and_equal_where_the_texts_are(admit: Admit) -> None:
    ingest([admit("a", reference=f" {MARK} ", retention="hash")], [marked("a", "hash")])
    ingest([admit("b", retention="hash")], [marked("b", "hash", text="other")])
    first, second = Completion.objects.order_by("pk")
    assert first.answer == second.answer == Label.objects.get().reference == Admission.objects.get(pk="a").reference
    assert first.messages == second.messages
    assert first.messages[0]["role"] == "user"
    assert first.text != second.text
    assert first.thinking.startswith("hmac-sha256:")


@pytest.mark.parametrize("retention", ["keep", "hash", "drop"])
def test_an_answer_that_is_not_kept_does_not_count_as_empty(admit: Admit, phase: Phase, retention: str) -> None:
    options = {"phase": phase, "variant": "full", "retention": retention}
    ingest([admit("a", unit="0f", **options)], [marked("a", retention)])
    ingest([admit("b", unit="1f", **options)], [marked("b", retention, answer="")])
    count(phase)
    found = moments(phase)
    assert found.sums[found.columns.index("empty")] == 1


def test_an_isolated_grader_reads_the_answer_and_then_it_goes(
    admit: Admit, model: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[Task] = []

    class Strict(JudgePool):
        def judge(self, given: Any, *, within: float | None = None) -> list[Judgement | None]:
            tasks.extend(given)
            return [Judgement(None, "judge", f"cannot read {MARK}") for _ in given]

    pool = Strict(1)
    monkeypatch.setattr(isolated_grading, "judges", lambda: pool)
    model.grader = "math_verify"
    model.save()
    ingest([admit("a", reference=MARK, retention="drop")], [marked("a", "drop")])
    assert places() == []
    assert is_sealed(Completion.objects.get().answer)
    grade_waiting(within=10)
    assert [(task.answer, task.reference) for task in tasks] == [(MARK, MARK)]
    assert (places(), places("sealed:")) == ([], [])
    assert Label.objects.get().failure == "judge"


def test_a_reference_of_a_lost_request_is_forgotten(admit: Admit) -> None:
    ingest([admit("a", reference=MARK, retention="drop"), admit("b", reference=MARK)], [])
    assert settle_lost() == 1
    assert places("sealed:") == []
    assert (Label.objects.get(admission="a").reference, Label.objects.get(admission="b").reference) == ("", MARK)


def test_a_late_reference_is_refused_with_the_reason(admit: Admit) -> None:
    ingest([admit("a", retention="hash")], [marked("a", "hash")])
    with pytest.raises(InvalidInput, match=r"keeps no answer .*retention hash.*metadata.reference"):
        submit_labels([NewLabel("a", MARK)])
    assert submit_labels([NewLabel("a", source="judge", score=0.9)]).stored == 1


@pytest.mark.parametrize("change", ["start", "resume"])
def test_shadow_runs_are_refused_where_the_thinking_is_not_kept(use_case: UseCase, change: str) -> None:
    experiment = make_draft(use_case)
    if change == "resume":
        experiment = service.pause("ada", service.start("ada", experiment))
    set_retention(use_case, "drop")
    experiment.shadow_share = 0.5
    experiment.save()
    with pytest.raises(InvalidInput, match=r"shadow_share must be 0, got 0.5: .*'arithmetic' .*retention drop"):
        getattr(service, change)("ada", experiment)


def test_a_change_of_retention_is_an_audit_event(use_case: UseCase) -> None:
    set_retention(use_case, "hash")
    event = AuditEvent.objects.get()
    assert (event.action, event.before, event.after) == (
        "change retention",
        {"retention": "keep"},
        {"retention": "hash"},
    )


def test_an_unknown_retention_is_refused(use_case: UseCase) -> None:
    with pytest.raises(InvalidInput, match=r"retention.*'forget'"):
        set_retention(use_case, "forget")


# -- sealing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("retention", ["hash", "drop"])
def test_messages_of_private_use_cases_are_sealed_on_their_way(admit: Admit, retention: str) -> None:
    request = ServeRequest(
        "a", "r", [{"role": "user", "content": MARK}], {}, False, 0.0, 1.0, None, None, 0.0, 0.0, retention=retention
    )
    for message in (request, admit("a", reference=MARK, retention=retention), marked("a", retention)):
        payload = message_payload(message)
        assert MARK.encode() not in payload
        assert type(message).decode(unseal(payload)).id == "a"
    sent = CompletionRecord.decode(unseal(message_payload(marked("a", retention))))
    assert MARK not in f"{sent.messages}{sent.thinking}{sent.text}"


def test_the_same_is_never_sealed_alike() -> None:
    assert seal(b"x") != seal(b"x")


def test_what_was_changed_is_not_unsealed() -> None:
    with pytest.raises(ValueError, match="SECRET_KEY"):
        unseal(seal(b"x")[:-1] + b"\x00")


def test_a_text_that_only_looks_sealed_is_a_text() -> None:
    assert unseal_text("sealed:1:AQ==") == "sealed:1:AQ=="
    assert not is_sealed("sealed:1:no base64")
    assert unseal_text(seal_text("\ud800 \x00")) == "\ud800 \x00"
