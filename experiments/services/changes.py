"""Telling gateways and engine hosts that their in-memory view is old."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from experiments import wire
from experiments.services.redis_clients import sync_redis


def announce_change() -> None:
    """After the current transaction: raise the configuration's version and publish it.

    The version makes a missed message noticeable: whoever polls it sees that it moved.
    """

    def publish() -> None:
        version = sync_redis().incr(wire.CONFIG_VERSION_KEY)
        sync_redis().publish(wire.CONFIG_CHANNEL, version)

    transaction.on_commit(publish)


def note_look(experiment_id: int, taken_at: datetime) -> None:
    """Tell the gateways that an experiment has been looked at: without looks they serve the control."""
    sync_redis().set(wire.looked_key(experiment_id), taken_at.timestamp())
