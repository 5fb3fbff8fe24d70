"""`manage.py serve` in a process of its own, with a home of its own, whose parts can be found and killed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg2
import redis

from curtail import children
from curtail.embedded import Services, addresses
from curtail.processes import choose_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0
# How each process is told from the others: all its command line has to match.
PARTS = {
    "web": r"curtail\.web_server",
    "inference worker": r"--engine-host",
    "background worker": r"--ledger-writer",
    "beat": r"curtail\.celery_app beat",
    "PostgreSQL": r"bin/postgres .*-D",
    "Redis": r"redis-server",
}


@dataclass(frozen=True)
class Installation:
    """A running installation.

    Attributes:
        process: of `manage.py serve`, parent of all the others.
        token: an API key with all scopes.
    """

    process: subprocess.Popen[bytes]
    home: Path
    port: int
    token: str = ""

    @property
    def url(self) -> str:
        """Where the web server listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def services(self) -> Services:
        """Where PostgreSQL and Redis answer."""
        return addresses(self.home)

    def part(self, name: str) -> psutil.Process:
        """The process of a part.

        Raises:
            LookupError: it does not run now.
        """
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if child.status() != psutil.STATUS_ZOMBIE and re.search(PARTS[name], " ".join(child.cmdline())):
                    return child
        raise LookupError(f"{name} does not run")

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a part a signal; the pid that had it."""
        process = self.part(name)
        process.send_signal(number)
        return process.pid

    def wait_until_dead(self, name: str) -> None:
        """Returns when a part that was killed is gone."""
        with contextlib.suppress(LookupError):
            while True:
                self.part(name)
                threading.Event().wait(0.01)

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of one SQL statement."""
        with (
            contextlib.closing(psycopg2.connect(self.services.database_url)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, values)
            return cursor.fetchall()

    def redis(self) -> redis.Redis:
        """A new client; its user closes it."""
        return redis.Redis.from_url(self.services.redis_url)

    def is_ready(self) -> bool:
        """Whether the gateway says that it can serve."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        return False

    def wait_until_ready(self) -> None:
        """Returns when the gateway can serve.

        Raises:
            RuntimeError: it can't within some minutes, or everything has ended.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the installation is not ready: {children.tail(self.home / 'serve.log', 20)}")
            threading.Event().wait(0.05)


@contextlib.contextmanager
def installed(deadline_seconds: float, settings: Mapping[str, str]) -> Iterator[Installation]:
    """An installation that serves the scripted model in an experiment, until the block ends; nothing stays of it.

    Args:
        deadline_seconds: of each request.
        settings: environment variables.
    """
    home = Path(tempfile.mkdtemp(prefix="curtail-load-"))
    own = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment |= {
        "CURTAIL_HOME": str(home),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
        "DJANGO_SETTINGS_MODULE": "curtail.settings",
        **settings,
    }
    port = choose_port(None, preferred=18_000)
    argv = [sys.executable, "manage.py", "serve", "--port", str(port)]
    process = children.spawn(argv, log=home / "serve.log", env=environment, cwd=ROOT)
    try:
        started = Installation(process, home, port)
        _wait_for_web(started)
        token = _register(home, deadline_seconds, environment)
        ready = Installation(process, home, port, token)
        ready.wait_until_ready()
        yield ready
    finally:
        children.stop_group(process, first=signal.SIGTERM, grace_s=60.0)
        shutil.rmtree(home, ignore_errors=True)


def _wait_for_web(started: Installation) -> None:
    """Everything that serve starts has been started once it says where it serves."""
    deadline = time.monotonic() + START_SECONDS
    while "endpoint" not in (text := (started.home / "serve.log").read_text()):
        if started.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the installation did not start: {text[-2000:]}")
        threading.Event().wait(0.05)


def _register(home: Path, deadline_seconds: float, environment: Mapping[str, str]) -> str:
    argv = [sys.executable, "-m", "benchmarks.durability.register", str(home / "scripted"), str(deadline_seconds)]
    done = subprocess.run(argv, env=dict(environment), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the model could not be registered: {done.stderr[-2000:]}")
    return done.stdout.split()[-1]
