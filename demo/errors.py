"""What can go wrong in the demo beyond servers that do not start."""

from __future__ import annotations


class DemoError(Exception):
    """The demo did not do what it is there to show; the message is one line."""
