"""References after the fact."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection, connections, transaction

from experiments.models import Label
from experiments.services.errors import InvalidInput
from experiments.services.labels import LabelReport, NewLabel, submit_labels
from experiments.services.ledger import ingest
from experiments.wire import CompletionRecord
from tests.service_layer.conftest import NOON, Admit, answered


def submit(*pairs: tuple[str, str]) -> LabelReport:
    return submit_labels([NewLabel(*pair) for pair in pairs])


def correctness() -> dict[str, bool | None]:
    return dict(Label.objects.values_list("admission_id", "correct"))


def test_a_reference_after_the_completion_is_graded_at_once(admit: Admit) -> None:
    ingest([admit("a"), admit("b")], [answered("a"), answered("b")])
    assert submit(("a", "42"), ("b", "43")) == LabelReport(stored=2, graded=2)
    assert correctness() == {"a": True, "b": False}


def test_a_reference_before_the_completion_waits_for_it(admit: Admit) -> None:
    ingest([admit("a")], [])
    assert submit(("a", "42")) == LabelReport(stored=1, graded=0)
    assert correctness() == {"a": None}
    ingest([], [answered("a")])
    assert correctness() == {"a": True}


def test_a_second_reference_corrects_the_first(admit: Admit) -> None:
    ingest([admit("a")], [answered("a")])
    submit(("a", "43"))
    first = Label.objects.get()
    submit(("a", "42"))
    label = Label.objects.get()
    assert (label.pk, label.reference, label.correct) == (first.pk, "42", True)
    assert label.updated_at > first.updated_at


def test_a_reference_corrects_the_one_that_came_with_the_request(admit: Admit) -> None:
    record = admit("a", reference="43")
    ingest([record], [answered("a")])
    submit(("a", "42"))
    ingest([record], [])
    assert correctness() == {"a": True}
    assert Label.objects.get().reference == "42"


def test_a_correction_before_the_completion_waits_again(admit: Admit) -> None:
    ingest([admit("a", reference="43")], [])
    assert submit(("a", "42")) == LabelReport(stored=1, graded=0)
    ingest([], [answered("a")])
    assert correctness() == {"a": True}


def test_the_last_of_several_for_one_completion_holds(admit: Admit) -> None:
    ingest([admit("a")], [answered("a")])
    assert submit(("a", "41"), ("a", "42")) == LabelReport(stored=1, graded=1)
    assert correctness() == {"a": True}


@pytest.mark.parametrize("outcome", ["error", "timeout", "cancelled"])
def test_what_was_not_answered_is_incorrect(admit: Admit, outcome: str) -> None:
    ingest([admit("a")], [CompletionRecord("a", outcome, NOON, answer="42")])
    submit(("a", "42"))
    assert correctness() == {"a": False}


@pytest.mark.parametrize(
    ("pair", "field", "message"),
    [
        (("b", ""), "reference", "labels[2].reference must not be empty, got ''"),
        (("b", " . "), "reference", "labels[2].reference must not be empty, got ' . '"),
        (("b", "x" * 10_001), "reference", "labels[2].reference must have at most 10000 characters, got 10001"),
        (("b", "4\x002"), "reference", "labels[2].reference must not hold the character NUL (U+0000)"),
        (("b\x00", "42"), "completion_id", "labels[2].completion_id must not hold the character NUL (U+0000)"),
        (("c", "42"), "completion_id", "completion_id 'c' is unknown (1 of 2 are)"),
    ],
)
def test_one_bad_label_keeps_all_out(admit: Admit, pair: tuple[str, str], field: str, message: str) -> None:
    ingest([admit("a"), admit("b")], [answered("a")])
    with pytest.raises(InvalidInput) as caught:
        submit(("a", "42"), pair)
    assert caught.value.field == field
    assert str(caught.value).startswith(message)
    assert not Label.objects.exists()


def test_no_label_is_nothing(db: None) -> None:
    assert submit() == LabelReport(0, 0)


@pytest.mark.django_db(transaction=True)
def test_a_label_and_its_completion_stored_at_the_same_time_find_each_other(admit: Admit) -> None:
    """Neither transaction sees the other's rows; one has to wait for the other to grade."""
    ingest([admit("a")], [])
    stored = threading.Event()
    failures: list[BaseException] = []

    def write_completion() -> None:
        try:
            ingest([], [answered("a")])
        except BaseException as error:
            failures.append(error)
        finally:
            stored.set()
            connections.close_all()

    writer = threading.Thread(target=write_completion)
    with transaction.atomic():
        submit(("a", "42"))
        writer.start()
        while not (stored.wait(0.01) or _somebody_waits()):
            pass
    writer.join()
    assert failures == []
    assert correctness() == {"a": True}


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory')")
        row: tuple[Any, ...] = cursor.fetchone()
    return bool(row[0])


def test_an_audit_label_for_a_request_that_was_not_drawn_is_refused_by_name(admit: Admit) -> None:
    ingest([admit("a", audited=True), admit("b")], [answered("a"), answered("b")])
    labels = [NewLabel(name, source="audit", correct=True) for name in "ab"]
    with pytest.raises(InvalidInput, match=r"completion_id 'b' was not drawn for the audit \(1 of 2") as caught:
        submit_labels(labels)
    assert caught.value.field == "completion_id"
    assert not Label.objects.exists()
