"""Embedded PostgreSQL and Redis: one owner per CURTAIL_HOME, data under it, sockets in a short path.

``embedded_services`` starts what is not configured and really stops it; ``addresses`` only computes where the
servers are, for settings and for commands beside a running owner.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from curtail.servers import Server

DATABASE = ROLE = "curtail"
POSTGRES_PORT = 5432
POSTGRES_SOCKET = f".s.PGSQL.{POSTGRES_PORT}"
REDIS_SOCKET = "redis.sock"
# sun_path holds 108 bytes on Linux and 104 on macOS, with the final zero byte.
SOCKET_PATH_LIMIT = 103


class ServiceError(Exception):
    """Curtail's servers cannot run; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Services:
    """Where PostgreSQL and Redis answer.

    Attributes:
        servers: those that are our own children.
    """

    database_url: str
    redis_url: str
    servers: tuple[Server, ...] = field(default=(), compare=False)


def addresses(home: Path) -> Services:
    """Return the addresses under ``home``: those its owner wrote, else those it would use. Starts nothing."""
    try:
        stored = json.loads((home / "services.json").read_text())
        return Services(str(stored["database_url"]), str(stored["redis_url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return embedded_addresses(socket_folder(home))


def embedded_addresses(sockets: Path) -> Services:
    """Return the addresses of embedded servers whose sockets lie in ``sockets``."""
    folder = quote(str(sockets))
    return Services(
        database_url=f"postgresql://{ROLE}@/{DATABASE}?host={folder}",
        redis_url=f"unix://{folder}/{REDIS_SOCKET}?db=0",
    )


def socket_folder(home: Path) -> Path:
    """Return the folder of the sockets: ``home/run``, or one in the temp folder when that path is too long.

    Raises:
        ServiceError: if no short enough path exists.
    """
    name = f"curtail-{os.geteuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"
    candidates = [home / "run", Path(tempfile.gettempdir()) / name, Path("/tmp") / name]
    for folder in candidates:
        if len(os.fsencode(folder / POSTGRES_SOCKET)) <= SOCKET_PATH_LIMIT:
            return folder
    raise ServiceError(
        f"unix socket paths may have {SOCKET_PATH_LIMIT} bytes and {candidates[0]} is longer; "
        "set CURTAIL_HOME to a shorter path"
    )


@contextlib.contextmanager
def embedded_services(
    home: Path,
    *,
    database_url: str | None = None,
    redis_url: str | None = None,
    durable: bool = True,
) -> Iterator[Services]:
    """Run the servers that are not given, as the only owner of ``home``, until the block ends.

    Args:
        home: CURTAIL_HOME, created when missing; holds ``postgres/``, ``redis/`` and ``logs/``.
        database_url: a PostgreSQL to use instead of the embedded one.
        redis_url: a Redis to use instead of the embedded one.
        durable: False trades safety against power failure for speed, for tests.

    Raises:
        ServiceError: one clear line: another owner, no space, no permission, a server that does not start.
    """
    # Here, not above: settings import this module for the addresses only.
    from curtail import servers

    home = home.expanduser().absolute()
    with contextlib.ExitStack() as stack:
        with _one_line_errors(home):
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(_sole_owner(home))
            (home / "logs").mkdir(exist_ok=True)
            sockets = socket_folder(home)
            _make_private(sockets)
            stack.callback(_remove_sockets, sockets)
            own = embedded_addresses(sockets)
            started = []
            if database_url is None:
                started.append(stack.enter_context(servers.postgres(home, sockets, durable=durable)))
            if redis_url is None:
                started.append(stack.enter_context(servers.redis(home, sockets, durable=durable)))
            services = Services(database_url or own.database_url, redis_url or own.redis_url, tuple(started))
            stack.enter_context(_published(home / "services.json", services))
        yield services


@contextlib.contextmanager
def _one_line_errors(home: Path) -> Iterator[None]:
    """Turn what the system refuses at the start into ServiceError."""
    try:
        yield
    except OSError as error:
        raise ServiceError(describe(error, home)) from error


def describe(error: OSError, home: Path) -> str:
    """Return one line that says what the system refused, where, and what helps."""
    where = error.filename or home
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {where}: free some, or set CURTAIL_HOME to a folder on another disk"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = (error.strerror or "refused").lower()
        return f"{reason}: {where}; set CURTAIL_HOME to a folder that you may write to"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{where} is in the way: CURTAIL_HOME ({home}) must be a folder"
    if error.errno == errno.ENAMETOOLONG:
        return f"the path {where} is too long; set CURTAIL_HOME to a shorter one"
    return f"{error.strerror or error}: {where}"


def _make_private(folder: Path) -> None:
    """Create the folder of the sockets for its owner only: who may enter it may use the servers.

    Raises:
        ServiceError: if it is a link or belongs to another user (the temp folder is shared).
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = folder.lstat()
    if stat.S_ISLNK(state.st_mode) or state.st_uid != os.geteuid():
        raise ServiceError(f"{folder} is a link or belongs to another user, which is not safe; remove it")
    folder.chmod(0o700)


@contextlib.contextmanager
def _sole_owner(home: Path) -> Iterator[None]:
    """Hold the lock of ``home``; the kernel lets go of it when the owner dies, however it dies.

    Raises:
        ServiceError: if another process holds it; names its pid.
    """
    with (home / "owner.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"Curtail already runs from {home} (pid {_holder(file)}): stop it first, "
                "or set CURTAIL_HOME to another folder"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"


@contextlib.contextmanager
def _published(path: Path, services: Services) -> Iterator[None]:
    """Let other commands find the servers while they run."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.touch(mode=0o600)
    urls = {"database_url": services.database_url, "redis_url": services.redis_url}
    fresh.write_text(json.dumps(urls) + "\n")
    fresh.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _remove_sockets(folder: Path) -> None:
    """Remove a folder of sockets whose servers have ended."""
    for name in (POSTGRES_SOCKET, f"{POSTGRES_SOCKET}.lock", REDIS_SOCKET):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
