"""Starting, pausing, resuming, stopping and looking from the page."""

from __future__ import annotations

import pytest
import redis
from django.conf import LazySettings
from django.test import Client
from django.urls import reverse

from experiments.models import AuditEvent, Experiment, UseCase
from experiments.services import experiments as service
from tests.web.conftest import CONSERVATIVE, make_experiment

ACTIONS = ["start", "pause", "resume", "stop", "look"]


def press(pages: Client, experiment: Experiment, action: str, **data: str) -> str:
    """Post one action; the text of the page that follows."""
    response = pages.post(reverse(action, args=[experiment.pk]), data, follow=True)
    assert response.redirect_chain
    experiment.refresh_from_db()
    return response.content.decode()


def test_start_runs_a_draft_in_the_persons_name(pages: Client, draft: Experiment) -> None:
    press(pages, draft, "start")
    assert draft.state == "running"
    assert AuditEvent.objects.filter(action="start", actor="ada", subject_id=str(draft.pk)).exists()


def test_pause_and_resume(pages: Client, running: Experiment) -> None:
    press(pages, running, "pause")
    assert running.state == "paused"
    press(pages, running, "resume")
    assert running.state == "running"
    assert running.phases.count() == 2


def test_stop_keeps_the_reason_in_the_history(pages: Client, running: Experiment) -> None:
    text = press(pages, running, "stop", confirm="stop", end="inconclusive", why="The season is over.")
    assert (running.state, running.conclusion) == ("stopped", "inconclusive")
    assert "The season is over." in text


def test_stop_needs_its_confirmation(pages: Client, running: Experiment) -> None:
    text = press(pages, running, "stop", end="reverted")
    assert "Nothing was changed" in text
    assert running.state == "running"


def test_ship_puts_the_treatment_in_force(pages: Client, running: Experiment, use_case: UseCase) -> None:
    press(pages, running, "stop", confirm="stop", end="ship:conservative")
    use_case.refresh_from_db()
    assert running.conclusion == "shipped"
    assert use_case.policy["name"] == CONSERVATIVE["name"]


@pytest.mark.parametrize("end", ["ship:full", "ship:nobody", "shipped", "whatever", ""])
def test_stop_with_an_unknown_end_changes_nothing(pages: Client, running: Experiment, end: str) -> None:
    text = press(pages, running, "stop", confirm="stop", end=end)
    assert "Nothing was changed" in text
    assert running.state == "running"


@pytest.mark.parametrize("action", ["start", "resume"])
def test_wrong_state_is_said_in_words(pages: Client, running: Experiment, action: str) -> None:
    text = press(pages, running, action)
    assert "Nothing was changed: experiment" in text
    assert running.state == "running"


def test_second_experiment_of_a_use_case_does_not_start(pages: Client, running: Experiment, use_case: UseCase) -> None:
    second = make_experiment(use_case, "Second")
    assert "already runs an experiment" in press(pages, second, "start")
    assert second.state == "draft"


def test_look_is_put_into_the_background_queue(
    pages: Client, running: Experiment, redis_client: redis.Redis, settings: LazySettings
) -> None:
    response = pages.post(reverse("look", args=[running.pk]))
    assert response.headers["Location"] == f"/experiments/{running.pk}/?looking=1"
    assert redis_client.llen(settings.CELERY_TASK_DEFAULT_QUEUE) == 1


def test_look_at_a_draft_is_refused(pages: Client, draft: Experiment) -> None:
    assert "a draft has nothing to look at" in press(pages, draft, "look")


@pytest.mark.parametrize("action", ACTIONS)
def test_action_is_never_a_get(pages: Client, running: Experiment, action: str) -> None:
    assert pages.get(reverse(action, args=[running.pk])).status_code == 405


@pytest.mark.parametrize("action", ACTIONS)
def test_action_on_nothing_is_not_found(pages: Client, action: str) -> None:
    assert pages.post(reverse(action, args=[404])).status_code == 404


def test_stopped_experiment_offers_no_stop(pages: Client, running: Experiment) -> None:
    service.stop("ada", running, "reverted")
    text = pages.get(reverse("experiment", args=[running.pk])).content.decode()
    assert "Stop the experiment" not in text
    assert "Look again" in text
