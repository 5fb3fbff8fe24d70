"""Snapshots for other programs: schema, CSV, course, and what waits for an audit."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import jsonschema
import pytest

from experiments.models import Experiment, UseCase
from experiments.policies import POLICIES
from experiments.services import experiments as service
from experiments.services.labels import NewLabel, submit_labels
from experiments.services.ledger import ingest
from experiments.services.looks import look
from experiments.wire import AdmissionRecord, CompletionRecord
from tests.api.conftest import Call
from tests.api.test_experiments import get, make

NOON = 1_750_000_000.0


def as_json(body: str) -> dict[str, str]:
    """A JSON body for the test client."""
    return {"data": body, "content_type": "application/json"}


pytestmark = pytest.mark.usefixtures("redis_client")


@pytest.fixture
def running(use_case: UseCase) -> Experiment:
    """A running experiment with 40 answered requests an arm, every second drawn for an audit."""
    experiment = service.start("ada", make(use_case))
    phase = experiment.phase
    assert phase is not None
    admissions, completions = [], []
    for variant in experiment.variants.all():
        for i in range(40):
            name = f"{variant.key}-{i}"
            admissions.append(
                AdmissionRecord(
                    id=name,
                    use_case_id=use_case.pk,
                    checkpoint_id=use_case.checkpoint_id,
                    phase_id=phase.pk,
                    variant_id=variant.pk,
                    unit_hash=name,
                    policy={},
                    policy_version="v1",
                    reference="42",
                    admitted_at=NOON + i,
                    deadline_at=NOON + 60,
                    audited=i % 2 == 0,
                )
            )
            completions.append(
                CompletionRecord(name, "answered", NOON + 90, answer="42" if i % 5 else "43", thinking_tokens=50 + i)
            )
    ingest(admissions, completions)
    return experiment


def test_a_snapshot_fits_the_published_schema(call: Call, running: Experiment) -> None:
    look(running.pk)
    schema = get(call, "/schemas/snapshot")
    snapshot = get(call, f"/experiments/{running.pk}/snapshot")
    assert snapshot.pop("taken_at")
    jsonschema.Draft202012Validator(schema).validate(snapshot)
    assert schema["$defs"]["Snapshot"]["properties"]["schema_version"] == {"const": 2}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(snapshot | {"extra": 1})


def test_stored_policies_fit_the_published_schema(call: Call, running: Experiment) -> None:
    validator = jsonschema.Draft202012Validator(get(call, "/schemas/policies"))
    variants = get(call, f"/experiments/{running.pk}")["variants"]
    assert variants
    for variant in variants:
        validator.validate(variant["policy"])
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"name": "confidence", "parameters": {"threshold": 2}})


def test_the_apis_own_description_shows_every_policy(call: Call) -> None:
    described = get(call, "/openapi.json")["components"]["schemas"]["VariantOut"]["properties"]["policy"]
    names = {one["properties"]["name"]["const"] for one in described["oneOf"]}
    assert names == set(POLICIES)


def test_the_csv_holds_every_number_of_the_snapshot(call: Call, running: Experiment) -> None:
    look(running.pk)
    answer = call("GET", f"/experiments/{running.pk}/snapshot.csv", scopes=["manage"])
    assert answer["content-type"] == "text/csv; charset=utf-8"
    rows = {
        (row["subject"], row["quantity"]): row["value"] for row in csv.DictReader(io.StringIO(answer.content.decode()))
    }
    assert rows["full", "arm.em.value"] == "0.8"
    assert float(rows["short", "comparisons.em.difference.value"]) == 0.0
    assert rows["short", "verdict.decision"] == "keep_running"
    snapshot = get(call, f"/experiments/{running.pk}/snapshot")
    assert rows["experiment", "srm.p_value"] == str(snapshot["srm"]["p_value"])


def test_the_course_has_a_point_for_each_look(call: Call, running: Experiment) -> None:
    for _ in range(3):
        look(running.pk)
    points = get(call, f"/experiments/{running.pk}/snapshots")
    assert [point["total_units"] for point in points] == [80, 80, 80]
    assert points == sorted(points, key=lambda point: point["taken_at"])
    assert points[0]["treatments"][0]["em"]["difference"]["interval"]["level"] == 0.95
    assert len(get(call, f"/experiments/{running.pk}/snapshots?limit=1")) == 1


def test_a_limit_out_of_bounds_is_refused(call: Call, running: Experiment) -> None:
    assert "limit must be from 1" in get(call, f"/experiments/{running.pk}/snapshots?limit=0", 422)["detail"]


def test_the_audit_lists_what_was_drawn_until_it_is_labelled(call: Call, running: Experiment) -> None:
    waiting = get(call, f"/experiments/{running.pk}/audit")
    assert len(waiting) == 40
    submit_labels([NewLabel(waiting[0], source="audit", correct=True)])
    assert len(get(call, f"/experiments/{running.pk}/audit")) == 39


def test_a_draft_is_changed_over_the_api(call: Call, use_case: UseCase) -> None:
    experiment = make(use_case)
    body = json.dumps({"segments": ["batch"], "maximum_days": 7})
    answer = call("PATCH", f"/experiments/{experiment.pk}", scopes=["manage"], **as_json(body))
    assert answer.status_code == 200
    changed = json.loads(answer.content)
    assert (changed["segments"], changed["maximum_days"]) == (["batch"], 7)


def test_a_bad_change_names_its_field(call: Call, use_case: UseCase) -> None:
    experiment = make(use_case)
    body = json.dumps({"maximum_days": 0})
    answer = call("PATCH", f"/experiments/{experiment.pk}", scopes=["manage"], **as_json(body))
    found: dict[str, Any] = json.loads(answer.content)
    assert (answer.status_code, found["field"]) == (422, "maximum_days")


@pytest.mark.parametrize("path", ["snapshot", "snapshot.csv"])
def test_before_the_first_look_there_is_nothing_to_export(call: Call, use_case: UseCase, path: str) -> None:
    get(call, f"/experiments/{make(use_case).pk}/{path}", 404)
