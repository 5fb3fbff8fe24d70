"""What a draft declares."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.models import AuditEvent, Experiment
from experiments.services import experiments as service
from experiments.services.declarations import declare
from experiments.services.errors import InvalidInput, WrongState

RAIL = {"metric": "empty", "bound": 0.05, "action": "revert", "seconds": None}


def test_a_draft_starts_with_guardrails_that_need_no_label(draft: Experiment) -> None:
    assert {item["metric"] for item in draft.guardrails} == {"empty", "truncated", "error"}


def test_what_is_declared_is_stored_and_audited(draft: Experiment) -> None:
    changed = declare("ada", draft, {"guardrails": [{"metric": "empty", "bound": 0.05}], "segments": ["batch"]})
    assert (changed.guardrails, changed.segments) == ([RAIL], ["batch"])
    event = AuditEvent.objects.get(action="declare")
    assert event.after == {"guardrails": [RAIL], "segments": ["batch"]}


def test_a_running_experiment_declares_nothing_more(running: Experiment) -> None:
    with pytest.raises(WrongState, match="is running, this needs it to be draft"):
        declare("ada", running, {"segments": []})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": 3}, "margin must be one of audit_every"),
        ({"guardrails": [{"metric": "empty", "bound": 5}]}, r"guardrails.empty.bound must be in \(0, 1\), got 5"),
        ({"guardrails": [{"metric": "empty", "bound": "much"}]}, "guardrails.empty.bound must be a number"),
        ({"segments": ["a", "a"]}, "segments must be at most 20 different names"),
        ({"segments": ["a b"]}, "segments must be a list of"),
        ({"false_revert_alpha": 0.5}, r"false_revert_alpha must be in \(0, 0.5\), got 0.5"),
        ({"estimand_source": "judge"}, "estimand_source must be one of 'reference', 'audit', got 'judge'"),
        ({"estimand_source": "audit"}, "audit_every must be at least 1 where EM is measured by the audit"),
        ({"audit_every": -1}, "audit_every must be a whole number from 0 to 1000000, got -1"),
        ({"proxy_source": "reference"}, "proxy_source must be one of"),
        ({"maximum_days": 0}, "maximum_days must be a whole number from 1 to 3650, got 0"),
        ({"owner_email": "nobody"}, "owner_email must be an e-mail address, got 'nobody'"),
        ({"automatic": 1}, "automatic must be true or false, got 1"),
    ],
)
def test_a_bad_value_changes_nothing(draft: Experiment, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        declare("ada", draft, {"segments": ["kept-out"]} | changes)
    draft.refresh_from_db()
    assert draft.segments == []


def test_the_started_experiment_has_what_was_declared(draft: Experiment) -> None:
    declare("ada", draft, {"maximum_days": 14})
    assert service.start("ada", draft).maximum_days == 14
