"""Who may see and do what."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from experiments.models import Experiment
from tests.web.conftest import PASSWORD


@pytest.mark.parametrize("path", ["/", "/experiments/new/", "/experiments/1/", "/experiments/1/newest/"])
def test_page_needs_a_login(client: Client, db: None, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 302
    assert response.headers["Location"] == f"/login/?next={path}"


@pytest.mark.parametrize("action", ["start", "pause", "resume", "stop", "look"])
def test_nobody_acts_without_a_login(client: Client, running: Experiment, action: str) -> None:
    response = client.post(reverse(action, args=[running.pk]), {"confirm": "stop", "end": "reverted"})
    assert response.headers["Location"].startswith("/login/")
    running.refresh_from_db()
    assert running.state == "running"


def test_nobody_creates_without_a_login(client: Client, db: None) -> None:
    assert client.post("/experiments/new/", {"name": "x"}).headers["Location"].startswith("/login/")
    assert not Experiment.objects.exists()


def test_action_needs_the_csrf_token(person: User, running: Experiment) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(person)
    assert strict.post(reverse("pause", args=[running.pk])).status_code == 403
    running.refresh_from_db()
    assert running.state == "running"


def test_login_leads_to_the_page_asked_for(client: Client, person: User) -> None:
    response = client.post("/login/", {"username": "ada", "password": PASSWORD, "next": "/experiments/new/"})
    assert response.headers["Location"] == "/experiments/new/"


def test_login_never_leads_to_a_foreign_page(client: Client, person: User) -> None:
    data = {"username": "ada", "password": PASSWORD, "next": "https://elsewhere.example/"}
    assert client.post("/login/", data).headers["Location"] == "/"


def test_wrong_password_is_said_in_words(client: Client, person: User) -> None:
    response = client.post("/login/", {"username": "ada", "password": "wrong"})
    assert "do not match" in response.content.decode()


def test_logout_ends_the_session(pages: Client) -> None:
    assert pages.post("/logout/").headers["Location"] == "/login/"
    assert pages.get("/").status_code == 302


@pytest.mark.parametrize("path", ["/login/", "/", "/experiments/new/"])
def test_page_allows_only_its_own_files(client: Client, db: None, path: str) -> None:
    policy = client.get(path).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
