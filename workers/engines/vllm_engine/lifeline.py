"""No process of an engine outlives the worker that started it.

vLLM decodes in child processes. A worker that shuts down ends them; one that is killed cannot. So the sampler's process
watches the worker and ends with it, and a starting worker looks for what a killed one left while it was still loading.

psutil is imported where it is needed: in somebody else's server :func:`hold` does nothing and needs nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Iterator

logger = logging.getLogger(__name__)

OWNER = "CURTAIL_ENGINE_OWNER"
# vLLM gives its processes titles, and setproctitle writes them over the environment that others can read unless told.
_KEEP_ENVIRONMENT = "SPT_NOENV"
_held = threading.Lock()


@contextlib.contextmanager
def owning() -> Iterator[None]:
    """Mark the processes that are started meanwhile as engine processes of this one."""
    import psutil

    me = psutil.Process()
    marks = {OWNER: f"{me.pid}:{me.create_time():.2f}", _KEEP_ENVIRONMENT: "1"}
    before = {name: os.environ.get(name) for name in marks}
    os.environ.update(marks)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def hold() -> None:
    """Let this process, and its parent where that is an engine process too, end by SIGKILL when their owner does."""
    owner = os.environ.get(OWNER)
    if owner is None:
        return  # in somebody else's server
    if not _held.acquire(blocking=False):
        return  # already
    threading.Thread(target=_watch, args=(owner,), name="curtail-lifeline", daemon=True).start()


def _watch(owner: str) -> None:
    import psutil

    with contextlib.suppress(OSError):  # it has ended already
        watched = os.pidfd_open(int(owner.partition(":")[0]))
        if _lives(owner):
            poll = select.poll()
            poll.register(watched, select.POLLIN)
            poll.poll()
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process().parent()
        if parent is not None and parent.environ().get(OWNER) == owner:
            parent.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def reap_orphans() -> list[int]:
    """Kill engine processes whose owner is gone; return their process ids."""
    import psutil

    reaped = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            owner = process.environ().get(OWNER)
            if owner is None or process.pid == os.getpid() or _lives(owner):
                continue
            process.kill()
            reaped.append(process.pid)
    if reaped:
        logger.warning("killed %d engine processes whose worker is gone: %s", len(reaped), reaped)
    return reaped


def _lives(owner: str) -> bool:
    import psutil

    pid, _, started = owner.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == started
    except (psutil.Error, ValueError):
        return False
