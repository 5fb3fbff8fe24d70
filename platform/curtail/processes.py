"""A small supervisor of our own processes: start ready, notice a death, stop in reverse order.

It is what ``make demo`` uses for the web server and the Celery workers. In production an init system or a
container engine has this job.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from curtail import children
from curtail.embedded import ServiceError

POLL_S = 0.05


class ProcessError(ServiceError):
    """A child process died or did not get ready; the message is one line with the end of its log."""


@dataclass(slots=True)
class Child:
    """One supervised process, its name in messages and its log.

    Attributes:
        spawn: starts it, the first time and again.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    spawn: Callable[[], subprocess.Popen[bytes]]

    def death(self) -> str | None:
        """How the process has ended; None while it runs."""
        code = self.process.poll()
        return None if code is None else children.how_it_ended(code)

    def fail_if_dead(self) -> None:
        """Raise ProcessError with the end of the log when the process has ended."""
        how = self.death()
        if how is not None:
            last = children.tail(self.log) or "it wrote nothing"
            raise ProcessError(f"{self.name} ended unexpectedly ({how}): {last} (log: {self.log})")

    def start_again(self) -> None:
        """Start it anew, without what the dead one has left running; does not wait until it is ready."""
        children.stop_group(self.process, first=signal.SIGTERM, grace_s=0.0)
        self.process = self.spawn()


class Supervisor:
    """Owns child processes from their start to their end; use it as a context manager.

    Start children from the main thread: on Linux they are signalled when their starting thread ends.
    """

    def __init__(self, log_dir: Path, *, grace_s: float = 20.0) -> None:
        """Keep logs in ``log_dir``; give each child ``grace_s`` seconds to end before it is killed."""
        self._log_dir = log_dir
        self._grace_s = grace_s
        self._children: list[Child] = []

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def children(self) -> tuple[Child, ...]:
        """The children that were started and not yet stopped, oldest first."""
        return tuple(self._children)

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        ready: Callable[[Child], bool] | None = None,
        deadline_s: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Child:
        """Start a child and wait until ``ready`` says so.

        Args:
            name: its name in messages; its log is ``<log_dir>/<name>.log``, begun anew.
            argv: program and arguments.
            ready: asked repeatedly, see ``http_ready`` and ``log_ready``; None does not wait.
            deadline_s: seconds until a child that is not ready counts as failed.
            env: the whole environment; None hands on ours.
            cwd: working directory; None keeps ours.

        Raises:
            ProcessError: if it cannot be started, ends early, or is not ready in time.
        """
        log = self._log_dir / f"{name}.log"
        try:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            log.unlink(missing_ok=True)
            spawn = partial(children.spawn, argv, log=log, env=env, cwd=cwd)
            process = spawn()
        except OSError as error:
            raise ProcessError(f"{name} cannot be started: {error.strerror}: {error.filename}") from error
        child = Child(name, process, log, spawn)
        self._children.append(child)
        if ready is not None:
            self._wait_until_ready(child, ready, deadline_s)
        return child

    def _wait_until_ready(self, child: Child, ready: Callable[[Child], bool], deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        while not ready(child):
            self.check()
            if time.monotonic() > deadline:
                last = children.tail(child.log) or "it wrote nothing"
                raise ProcessError(f"{child.name} was not ready after {deadline_s:g} s: {last} (log: {child.log})")
            time.sleep(POLL_S)
        # Ready may have been said by another process that answers at the same address.
        child.fail_if_dead()

    def check(self) -> None:
        """Raise ProcessError if any child has ended; call it while waiting for something else."""
        for child in self._children:
            child.fail_if_dead()

    def wait(self, until: Callable[[], bool] | None = None) -> None:
        """Return when ``until`` says so (None: never); raise ProcessError as soon as a child ends."""
        while until is None or not until():
            self.check()
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End all children, the last started first; a Ctrl-C during that does not leave any behind."""
        with _signals_ignored():
            while self._children:
                child = self._children.pop()
                children.stop_group(child.process, first=signal.SIGTERM, grace_s=self._grace_s)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def terminate_as_exit() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit while the block runs, so that ``finally`` blocks clean up."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def http_ready(url: str, *, timeout_s: float = 5.0) -> Callable[[Child], bool]:
    """Return a readiness condition: GET ``url`` answers with a 2xx status."""

    # Never through a proxy of the environment: the address is ours.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ready(child: Child) -> bool:
        try:
            with opener.open(url, timeout=timeout_s) as answer:
                return 200 <= int(answer.status) < 300
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False

    return ready


def log_ready(text: str) -> Callable[[Child], bool]:
    """Return a readiness condition: the child's log contains ``text``."""

    def ready(child: Child) -> bool:
        return text in child.log.read_text(errors="replace")

    return ready


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server could listen on the TCP port now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do: connections of an earlier one that are still winding down do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose_port(requested: int | None, *, preferred: int = 8000, host: str = "127.0.0.1") -> int:
    """Return the requested port, else the preferred one, else any that is free.

    Raises:
        ServiceError: if a port was requested and is in use or out of range.
    """
    if requested is not None:
        if not 1 <= requested <= 65_535:
            raise ServiceError(f"port must be in [1, 65535], got {requested}")
        if not port_is_free(requested, host):
            raise ServiceError(f"port {requested} on {host} is in use: stop what listens there, or choose another")
        return requested
    if port_is_free(preferred, host):
        return preferred
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
