"""Reading experiments over the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.utils import timezone

from experiments.models import Experiment, Snapshot, UseCase
from experiments.services import experiments as service
from experiments.services.declarations import DEFAULT_GUARDRAILS
from experiments.statistics.guardrails import to_json
from tests.api.conftest import Call


def make(use_case: UseCase, name: str = "Early exit") -> Experiment:
    arms = [
        service.VariantSpec("full", {"name": "full"}, use_case.checkpoint, 0.5, is_control=True),
        service.VariantSpec("short", {"name": "confidence"}, use_case.checkpoint, 0.5),
    ]
    return service.create_experiment("ada", use_case, name, arms, hypothesis="it holds", margin=0.05)


def get(call: Call, path: str, status: int = 200) -> Any:
    answer = call("GET", path, scopes=["manage"])
    assert answer.status_code == status
    return json.loads(answer.content)


def test_an_experiment_is_shown_with_its_arms(call: Call, use_case: UseCase) -> None:
    experiment = make(use_case)
    body = get(call, f"/experiments/{experiment.pk}")
    variants = body.pop("variants")
    assert body == {
        "id": experiment.pk,
        "name": "Early exit",
        "hypothesis": "it holds",
        "state": "draft",
        "conclusion": "",
        "use_case": "arithmetic",
        "unit": "conversation",
        "coverage": 1.0,
        "ramp": [],
        "ramp_status": None,
        "layer": "",
        "layer_range": [0, 10_000],
        "margin": 0.05,
        "min_saving": 0.05,
        "alpha": 0.05,
        "maximum_units": 100_000,
        "maximum_days": None,
        "automatic": True,
        "false_revert_alpha": 0.05,
        "guardrails": to_json(DEFAULT_GUARDRAILS),
        "segments": [],
        "estimand_source": "reference",
        "audit_every": 0,
        "proxy_source": "",
        "shadow_share": 0.0,
        "label_window_seconds": 0,
        "owner_email": "",
    }
    assert [(v["key"], v["is_control"], v["checkpoint"], v["weight"]) for v in variants] == [
        ("full", True, "tiny/last", 0.5),
        ("short", False, "tiny/last", 0.5),
    ]
    assert variants[1]["policy"]["name"] == "confidence"


def test_all_experiments_are_listed_the_newest_first(call: Call, use_case: UseCase) -> None:
    for name in ("first", "second"):
        make(use_case, name)
    assert [row["name"] for row in get(call, "/experiments")] == ["second", "first"]


def test_no_experiment_is_an_empty_list(call: Call) -> None:
    assert get(call, "/experiments") == []


@pytest.mark.parametrize("path", ["/experiments/999", "/experiments/999/snapshot", f"/experiments/{10**30}"])
def test_an_unknown_experiment_is_not_found(call: Call, path: str) -> None:
    assert "detail" in get(call, path, status=404)


def test_before_the_first_look_there_is_no_snapshot(call: Call, use_case: UseCase) -> None:
    experiment = service.start("ada", make(use_case))
    body = get(call, f"/experiments/{experiment.pk}/snapshot", status=404)
    assert body["detail"] == f"experiment {experiment.pk} has not been looked at yet"


def test_the_newest_snapshot_of_the_newest_phase_is_shown(call: Call, use_case: UseCase) -> None:
    experiment = service.start("ada", make(use_case))
    phase = experiment.phase
    assert phase is not None
    moments = [timezone.now(), timezone.now()]
    for number, moment in enumerate(moments):
        Snapshot.objects.create(phase=phase, taken_at=moment, data={"look": number})
    body = get(call, f"/experiments/{experiment.pk}/snapshot")
    assert body == {"taken_at": moments[1].isoformat(), "look": 1}
    service.resume("ada", service.pause("ada", experiment))
    get(call, f"/experiments/{experiment.pk}/snapshot", status=404)


@pytest.mark.parametrize("path", ["/experiments", "/experiments/1", "/experiments/1/snapshot"])
@pytest.mark.parametrize(("scopes", "status"), [(["serve", "label"], 403), (None, 401)])
def test_reading_needs_the_scope_manage(call: Call, path: str, scopes: list[str] | None, status: int) -> None:
    assert call("GET", path, scopes=scopes).status_code == status
