"""A checkpoint as whoever serves it needs it."""

from __future__ import annotations

from dataclasses import dataclass

from workers.engines.base import ThinkingProfile


@dataclass(frozen=True, slots=True)
class ServedCheckpoint:
    """A checkpoint with its engine and how its model thinks."""

    id: int
    name: str
    path: str
    engine: str
    profile: ThinkingProfile
