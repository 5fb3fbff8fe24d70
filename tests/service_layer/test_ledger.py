"""From records to tables: each once, whatever comes how often and in which order."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from django.db import Error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.models import Admission, Completion, Exposure, Label, Phase
from experiments.services.ledger import Ingested, ingest
from experiments.wire import CompletionRecord
from tests.service_layer.conftest import FULL, NOON, Admit, answered


def test_an_admission_and_its_completion_are_stored_field_by_field(admit: Admit, phase: Phase) -> None:
    admission = admit("a", phase=phase, variant="short", unit="0f")
    completion = CompletionRecord(
        "a",
        "answered",
        NOON + 1.25,
        finish_reason="stop",
        exit_reason="confident",
        exit_detail="sure",
        decision_step=30,
        applied_step=31,
        prompt_tokens=5,
        thinking_tokens=30,
        answer_tokens=4,
        probe_tokens=6,
        overrun_tokens=1,
        probes=3,
        messages=[{"role": "user", "content": "2+2"}],
        thinking="so",
        text=" 4",
        answer="4",
        queue_seconds=0.125,
        latency_seconds=1.25,
    )
    assert ingest([admission], [completion]) == Ingested(1, 1)
    row = Completion.objects.get()
    plain = {field.name: getattr(row, field.name) for field in dataclasses.fields(CompletionRecord)}
    plain["completed_at"] = plain["completed_at"].timestamp()
    assert CompletionRecord(**plain) == completion
    assert row.decoded_tokens == 41
    stored = Admission.objects.get()
    assert (stored.phase, stored.variant.key if stored.variant else None) == (phase, "short")
    assert (stored.unit_hash, stored.policy, stored.policy_version) == ("0f", FULL, "v1")
    assert stored.admitted_at == datetime.fromtimestamp(NOON, UTC)
    assert stored.deadline_at == datetime.fromtimestamp(NOON + 60, UTC)


def test_an_empty_batch_is_nothing(admit: Admit) -> None:
    assert ingest([], []) == Ingested(0, 0)


def test_a_record_twice_in_a_batch_is_stored_once(admit: Admit) -> None:
    assert ingest([admit("a"), admit("a")], [answered("a"), answered("a")]) == Ingested(1, 1)


def test_redelivery_changes_nothing(admit: Admit, phase: Phase) -> None:
    batch = ([admit("a", phase=phase, variant="full", unit="0f", reference="42")], [answered("a")])
    ingest(*batch)
    before = [list(table.objects.values()) for table in (Admission, Exposure, Completion, Label)]
    changed = (
        [dataclasses.replace(batch[0][0], reference="43", policy_version="v2")],
        [dataclasses.replace(batch[1][0], answer="43")],
    )
    assert ingest(*batch) == Ingested(0, 0)
    assert ingest(*changed) == Ingested(0, 0)
    assert [list(table.objects.values()) for table in (Admission, Exposure, Completion, Label)] == before


@pytest.mark.django_db(transaction=True)
def test_batches_in_transactions_of_their_own_do_not_see_each_others_stage(admit: Admit, phase: Phase) -> None:
    ingest([admit("a", phase=phase, variant="full", unit="0f")], [])
    assert ingest([admit("b", phase=phase, variant="full", unit="1f")], [answered("a")]) == Ingested(1, 1)
    assert ingest([], [answered("b")]) == Ingested(0, 1)
    assert Exposure.objects.count() == 2


def test_a_record_that_does_not_fit_keeps_the_whole_batch_out(admit: Admit) -> None:
    with pytest.raises(Error):
        ingest([admit("a"), admit("b", checkpoint_id=None)], [answered("a")])
    assert not Admission.objects.exists()
    assert not Completion.objects.exists()


# -- exposures --------------------------------------------------------------------------------------


def test_a_units_first_admission_is_its_exposure(admit: Admit, phase: Phase) -> None:
    late = admit("late", phase=phase, variant="short", unit="0f", admitted_at=NOON + 9)
    early = admit("early", phase=phase, variant="short", unit="0f", admitted_at=NOON)
    ingest([late, early], [])
    exposure = Exposure.objects.get()
    assert (exposure.admission_id, exposure.unit_hash, exposure.variant.key) == ("early", "0f", "short")
    assert exposure.exposed_at == datetime.fromtimestamp(NOON, UTC)


def test_a_unit_that_comes_back_is_not_exposed_again(admit: Admit, phase: Phase) -> None:
    ingest([admit("a", phase=phase, variant="short", unit="0f")], [])
    ingest([admit("b", phase=phase, variant="short", unit="0f", admitted_at=NOON + 9)], [])
    assert Exposure.objects.get().admission_id == "a"


def test_units_are_exposed_one_by_one(admit: Admit, phase: Phase) -> None:
    ingest([admit(n, phase=phase, variant="full", unit=unit) for n, unit in (("a", "0f"), ("b", "1f"))], [])
    assert sorted(Exposure.objects.values_list("unit_hash", flat=True)) == ["0f", "1f"]


def test_an_admission_outside_experiments_exposes_nobody(admit: Admit) -> None:
    ingest([admit("a")], [])
    assert not Exposure.objects.exists()


def test_exposure_does_not_wait_for_the_completion(admit: Admit, phase: Phase) -> None:
    ingest([admit("a", phase=phase, variant="full", unit="0f")], [])
    assert (Exposure.objects.count(), Completion.objects.count()) == (1, 0)


# -- text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "tab\there",
        "line\nend\r\nagain\r",
        "back\\slash \\n \\N \\. \\t",
        "\\N",
        "\\.",
        "",
        "\u00e9 \U0001f600 \u4e2d \u2028 \x0b\x0c\x1c\x85",
        '"quotes", {braces}, $1, %s',
        "the escape \\u0000 in text",
    ],
)
def test_text_survives_the_way_into_every_kind_of_column(admit: Admit, text: str) -> None:
    messages = [{"role": "user", "content": text}]
    ingest([admit("a", reference=text or None)], [answered("a", text, thinking=text, messages=messages)])
    row = Completion.objects.get()
    assert (row.text, row.thinking, row.messages) == (text, text, messages)
    assert Admission.objects.get().reference == (text or None)


def test_nul_which_postgresql_cannot_hold_becomes_the_replacement_character(admit: Admit) -> None:
    messages = [{"role": "user", "content": "a\x00b \\u0000"}]
    policy = {"name": "full", "parameters": {"a\x00": ["\x00", 1, None]}}
    ingest([admit("a", policy=policy)], [answered("a", "x\x00y", messages=messages)])
    row = Completion.objects.get()
    assert row.text == "x\ufffdy"
    assert row.messages == [{"role": "user", "content": "a\ufffdb \\u0000"}]
    assert Admission.objects.get().policy == {"name": "full", "parameters": {"a\ufffd": ["\ufffd", 1, None]}}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_survives_but_for_nul(admit: Admit, text: str) -> None:
    number = str(Completion.objects.count())
    ingest([], [answered(number, text, messages=[{"content": text}])])
    row = Completion.objects.get(pk=number)
    expected = text.replace("\x00", "\ufffd")
    assert (row.text, row.messages) == (expected, [{"content": expected}])


# -- labels of references that came along ----------------------------------------------------------


@pytest.mark.parametrize("order", ["together", "admission first", "completion first"])
@pytest.mark.parametrize(("reference", "correct"), [("42", True), ("43", False)])
def test_a_reference_is_graded_whichever_record_comes_first(
    admit: Admit, order: str, reference: str, correct: bool
) -> None:
    admission, completion = admit("a", reference=reference), answered("a")
    if order == "together":
        ingest([admission], [completion])
    elif order == "admission first":
        ingest([admission], [])
        assert Label.objects.get().correct is None
        ingest([], [completion])
    else:
        ingest([], [completion])
        ingest([admission], [])
    label = Label.objects.get()
    assert (label.source, label.grader, label.grader_version) == ("reference", "exact_match", 1)
    assert (label.reference, label.correct) == (reference, correct)


def test_without_a_reference_there_is_no_label(admit: Admit) -> None:
    ingest([admit("a")], [answered("a")])
    assert not Label.objects.exists()


@pytest.mark.parametrize("outcome", ["error", "timeout", "cancelled"])
def test_what_was_not_answered_is_incorrect(admit: Admit, outcome: str) -> None:
    ingest([admit("a", reference="42")], [CompletionRecord("a", outcome, NOON, text="42", answer="42")])
    assert Label.objects.get().correct is False
