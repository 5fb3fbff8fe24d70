"""Telling gateways and engine hosts that their in-memory view is old."""

from __future__ import annotations

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
