"""Ending asyncio tasks for good. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


async def end_tasks(tasks: Iterable[asyncio.Task[Any]], again_after: float = 0.5) -> None:
    """Cancel tasks and wait until they have ended.

    A task that is cancelled just as what it waits for completes may never see the cancellation
    (``asyncio.wait_for`` before Python 3.12, and code that turns it into an error of its own); it is
    cancelled again every ``again_after`` seconds.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_after)
