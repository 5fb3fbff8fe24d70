"""Database reads from event loops: in a borrowed thread, whose connection is given back at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import connections

P = ParamSpec("P")
T = TypeVar("T")


def off_thread(read: Callable[P, T]) -> Callable[P, T]:
    """``read`` for use with ``asyncio.to_thread``: the thread's database connection is closed afterwards.

    Pool threads come and go; a connection left in one would stay open for as long as the process.
    """

    @functools.wraps(read)
    def closing(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        finally:
            connections.close_all()

    return closing
