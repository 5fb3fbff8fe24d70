"""/healthz: what load balancers and docker compose ask."""

from __future__ import annotations

import pytest
import redis
from django.conf import LazySettings
from django.test import Client

from experiments.web import health


def test_healthy_when_both_servers_answer(client: Client, db: None, redis_client: redis.Redis) -> None:
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "database": "ok", "redis": "ok"}


def test_unavailable_when_redis_does_not_answer(client: Client, db: None, settings: LazySettings) -> None:
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "database": "ok", "redis": "no answer"}


def test_unavailable_when_the_database_does_not_answer(
    client: Client, db: None, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise health.DatabaseError("connection refused")

    monkeypatch.setattr(health, "_ask_database", refuse)
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["database"] == "no answer"


def test_health_is_only_asked_for(client: Client, db: None) -> None:
    assert client.post("/healthz").status_code == 405
