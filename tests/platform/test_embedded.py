"""The embedded servers: start, stop, restart after every kind of death, one clear line when they cannot."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from curtail import children, embedded, servers
from curtail.embedded import ServiceError, Services, embedded_services

OWNER = """
import signal, sys, time
from pathlib import Path
from curtail.embedded import embedded_services
from curtail.processes import terminate_as_exit
# Tests that run in the background inherit an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
with terminate_as_exit(), embedded_services(Path(sys.argv[1]), durable=False):
    print("ready", flush=True)
    while True:  # pause() could miss a signal that comes just before it
        time.sleep(0.05)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def owner(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns ``home`` and its two servers, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(embedded.__file__).parents[1])},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
        _wait_for(lambda: not server_pids(home))


def server_pids(home: Path) -> list[int]:
    """The processes that work in a data folder of ``home``; a zombie has no folder and does not count."""
    folders = {str((home / name).resolve()) for name in ("postgres", "redis")}
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() in folders:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def _wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def query(services: Services, sql: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(services.database_url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_data_survives_a_restart(home: Path) -> None:
    with embedded_services(home) as services:
        query(services, "CREATE TABLE kept AS SELECT 7 AS number")
        with redis.Redis.from_url(services.redis_url) as client:
            client.set("kept", 7)
    with embedded_services(home) as services:
        assert query(services, "SELECT number FROM kept") == [(7,)]
        with redis.Redis.from_url(services.redis_url) as client:
            assert client.get("kept") == b"7"


def test_servers_listen_on_private_sockets_only_and_leave_nothing_behind(home: Path) -> None:
    with embedded_services(home, durable=False) as services:
        pids = server_pids(home)
        assert pids
        assert [psutil.Process(pid).net_connections("inet") for pid in pids] == [[]] * len(pids)
        assert (home / "run").stat().st_mode & 0o777 == 0o700
        assert embedded.addresses(home) == services
    assert server_pids(home) == []
    assert not (home / "run").exists()
    assert not (home / "services.json").exists()


def test_a_second_owner_is_refused_with_the_pid_of_the_first(home: Path, owner: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(ServiceError, match=rf"already runs from .* \(pid {owner.pid}\)") as caught,
        embedded_services(home),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert server_pids(home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_stops_everything(
    home: Path, owner: subprocess.Popen[str], number: signal.Signals
) -> None:
    os.killpg(owner.pid, number)
    owner.wait(30)
    assert server_pids(home) == []
    assert not (home / "run").exists()


def test_servers_end_when_their_owner_is_killed_and_start_again(home: Path, owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()
    with embedded_services(home, durable=False) as services:
        assert query(services, "SELECT 1") == [(1,)]


def test_a_stale_postmaster_pid_does_not_matter(home: Path, owner: subprocess.Popen[str]) -> None:
    for pid in [owner.pid, *server_pids(home)]:
        # A backend ends by itself when it sees that its postmaster is gone.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    owner.wait()
    _wait_for(lambda: not server_pids(home))
    assert (home / "postgres" / "postmaster.pid").exists()
    with embedded_services(home, durable=False) as services:
        assert query(services, "SELECT 1") == [(1,)]


def test_backends_that_lost_their_postmaster_are_ended_before_the_start(
    home: Path, owner: subprocess.Popen[str]
) -> None:
    postmaster = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
    connection = psycopg2.connect(embedded.addresses(home).database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            row = cursor.fetchone()
        assert row is not None
        # A stopped backend cannot notice that its postmaster is gone.
        os.kill(row[0], signal.SIGSTOP)
        os.kill(postmaster, signal.SIGKILL)
        owner.kill()
        owner.wait()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(servers, "STOP_GRACE_S", 0.2)
            servers._end_orphans(home / "postgres" / "postmaster.pid", "postgres", signal.SIGINT)
        assert [pid for pid in server_pids(home) if psutil.Process(pid).name() == "postgres"] == []
    finally:
        connection.close()


def test_a_pid_file_that_names_another_program_does_no_harm(home: Path) -> None:
    with embedded_services(home, durable=False):
        lines = (home / "postgres" / "postmaster.pid").read_text().splitlines()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        (home / "postgres" / "postmaster.pid").write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        (home / "redis" / "redis.pid").write_text(f"{bystander.pid}\n")
        with embedded_services(home, durable=False) as services:
            assert query(services, "SELECT 1") == [(1,)]
        assert bystander.poll() is None
        bystander.kill()


def test_an_orphaned_server_is_ended_before_the_start(home: Path) -> None:
    data = home / "redis"
    data.mkdir(parents=True)
    argv = [servers._redis_program(), "--port", "0", "--unixsocket", data / "old.sock", "--dir", data]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as orphan:
        (data / "redis.pid").write_text(f"{orphan.pid}\n")
        _wait_for((data / "old.sock").exists)
        with embedded_services(home, database_url="postgresql:///not-used", durable=False):
            assert orphan.wait(5) == 0


def test_an_interrupted_creation_is_repeated(home: Path) -> None:
    (home / "postgres.new" / "base").mkdir(parents=True)
    with embedded_services(home, redis_url="redis://not-used", durable=False) as services:
        assert query(services, "SELECT 1") == [(1,)]
    assert not (home / "postgres.new").exists()


def test_a_long_path_gets_short_sockets(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    with embedded_services(home, durable=False) as services:
        assert embedded.addresses(home) == services
        folder = embedded.socket_folder(home)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(folder / embedded.POSTGRES_SOCKET)) <= embedded.SOCKET_PATH_LIMIT
        assert query(services, "SELECT 1") == [(1,)]
    assert not folder.exists()


def test_the_folder_of_the_sockets_must_be_ours(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    folder = embedded.socket_folder(home)
    folder.symlink_to(tmp_path)
    try:
        with (
            pytest.raises(ServiceError, match="is a link or belongs to another user"),
            embedded_services(home),
        ):
            pass
    finally:
        folder.unlink()


def test_given_addresses_start_nothing(home: Path) -> None:
    with embedded_services(home, database_url="postgresql:///elsewhere", redis_url="redis://there") as services:
        assert services == Services("postgresql:///elsewhere", "redis://there")
        assert server_pids(home) == []


def test_a_server_that_cannot_start_says_why_in_one_line(home: Path) -> None:
    with embedded_services(home, redis_url="redis://not-used", durable=False):
        pass
    with (home / "postgres" / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = lots\n")
    with (
        pytest.raises(ServiceError, match=r"PostgreSQL ended at its start .*postgresql.conf") as caught,
        embedded_services(home),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert server_pids(home) == []


def test_a_full_disk_in_a_servers_log_is_named(tmp_path: Path) -> None:
    log = tmp_path / "home" / "logs" / "postgres.log"
    log.parent.mkdir(parents=True)
    log.write_text('FATAL: could not write to file "pg_wal/x": No space left on device\nLOG: shutting down\n')
    assert servers._reason(log).startswith(f"no space left for {tmp_path / 'home'}")


def test_a_foreign_folder_is_not_overwritten(home: Path) -> None:
    (home / "postgres").mkdir(parents=True)
    (home / "postgres" / "letter.txt").write_text("mine")
    with (
        pytest.raises(ServiceError, match="holds no PostgreSQL database and is not empty"),
        embedded_services(home),
    ):
        pass
    assert (home / "postgres" / "letter.txt").read_text() == "mine"


def test_a_root_without_capabilities_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(servers, "_unprivileged", lambda: children.Identity(65_534, 65_534))
    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ServiceError, match="this root may not act as another user"), embedded_services(home):
        pass


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("")
    with (
        pytest.raises(ServiceError, match=r"file is in the way: CURTAIL_HOME .* must be a folder"),
        embedded_services(home),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left for /x/y: free some"),
        (errno.EACCES, "permission denied: /x/y; set CURTAIL_HOME"),
        (errno.EROFS, "read-only file system: /x/y; set CURTAIL_HOME"),
        (errno.ENAMETOOLONG, "the path /x/y is too long"),
        (errno.EIO, "Input/output error: /x/y"),
    ],
)
def test_what_the_system_refuses_is_one_line(number: int, words: str) -> None:
    message = embedded.describe(OSError(number, os.strerror(number), "/x/y"), Path("/x"))
    assert message.startswith(words)
    assert "\n" not in message


def test_an_error_of_the_caller_passes_unchanged(home: Path) -> None:
    with (
        pytest.raises(FileNotFoundError),
        embedded_services(home, database_url="postgresql:///a", redis_url="redis://b"),
    ):
        raise FileNotFoundError(errno.ENOENT, "mine")
