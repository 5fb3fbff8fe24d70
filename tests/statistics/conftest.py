"""Property tests here have no deadline: a loaded machine is no error of a formula."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
