"""Engines: one protocol, several ways to decode. They know policies, and nothing of Django or Celery."""

from __future__ import annotations
