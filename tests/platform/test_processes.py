"""The supervisor of child processes, and the choice of ports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from curtail import children
from curtail.embedded import ServiceError
from curtail.processes import (
    ProcessError,
    Supervisor,
    choose_port,
    http_ready,
    log_ready,
    port_is_free,
    terminate_as_exit,
)

SLEEPER = [sys.executable, "-uc", "import time; print('up'); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-uc",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)",
]
WITH_GRANDCHILD = [
    sys.executable,
    "-uc",
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print('grandchild', p.pid, 'up'); p.wait()",
]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "logs", grace_s=10) as running:
        yield running


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_start_returns_when_the_log_says_ready(supervisor: Supervisor) -> None:
    child = supervisor.start("sleeper", SLEEPER, ready=log_ready("up"))
    assert child.process.poll() is None
    assert child.log.read_text() == "up\n"


def test_a_child_leads_a_session_of_its_own(supervisor: Supervisor) -> None:
    child = supervisor.start("sleeper", SLEEPER, ready=log_ready("up"))
    assert os.getsid(child.process.pid) == child.process.pid


def test_an_early_death_shows_the_end_of_the_log(supervisor: Supervisor) -> None:
    argv = [sys.executable, "-c", "import sys; sys.exit('no such table')"]
    with pytest.raises(ProcessError, match=r"web ended unexpectedly \(status 1\): no such table") as caught:
        supervisor.start("web", argv, ready=lambda child: False)
    assert "\n" not in str(caught.value)


def test_a_later_death_is_noticed_while_waiting(supervisor: Supervisor) -> None:
    child = supervisor.start("sleeper", SLEEPER, ready=log_ready("up"))
    child.process.kill()
    with pytest.raises(ProcessError, match=r"sleeper ended unexpectedly \(signal SIGKILL\): up"):
        supervisor.wait()


def test_wait_ends_with_its_condition(supervisor: Supervisor) -> None:
    supervisor.start("sleeper", SLEEPER)
    answers = iter([False, True])
    supervisor.wait(lambda: next(answers))


def test_a_child_that_does_not_get_ready_is_named(supervisor: Supervisor) -> None:
    with pytest.raises(ProcessError, match=r"sleeper was not ready after 0.2 s"):
        supervisor.start("sleeper", SLEEPER, ready=lambda child: False, deadline_s=0.2)


def test_a_missing_program_is_named(supervisor: Supervisor) -> None:
    with pytest.raises(ProcessError, match=r"web cannot be started: No such file or directory: .*no-such"):
        supervisor.start("web", ["/no-such-program"])


def test_children_stop_in_reverse_order(supervisor: Supervisor, tmp_path: Path) -> None:
    script = (
        "import signal, sys\n"
        "def leave(*_):\n"
        "    open(sys.argv[1], 'a').write(sys.argv[2]); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\nprint('up')\nsignal.pause()"
    )
    for name in ("a", "b", "c"):
        argv = [sys.executable, "-uc", script, str(tmp_path / "order"), name]
        supervisor.start(name, argv, ready=log_ready("up"))
    supervisor.stop()
    assert (tmp_path / "order").read_text() == "cba"
    assert supervisor.children == ()


def test_a_stubborn_child_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, grace_s=0.2)
    child = supervisor.start("stubborn", STUBBORN, ready=log_ready("up"))
    supervisor.stop()
    assert child.process.returncode == -signal.SIGKILL


def test_what_a_child_started_itself_goes_with_it(supervisor: Supervisor) -> None:
    child = supervisor.start("parent", WITH_GRANDCHILD, ready=log_ready("up"))
    grandchild = int(child.log.read_text().split()[1])
    supervisor.stop()
    _wait_for(lambda: _gone(grandchild))


def test_children_stop_when_the_block_fails(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), Supervisor(tmp_path) as supervisor:
        child = supervisor.start("sleeper", SLEEPER, ready=log_ready("up"))
        raise RuntimeError
    assert child.process.poll() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, signal\nfrom pathlib import Path\nfrom curtail.processes import Supervisor, log_ready\n"
        "s = Supervisor(Path(sys.argv[1]))\n"
        f"c = s.start('sleeper', {SLEEPER!r}, ready=log_ready('up'))\n"
        "print(c.process.pid, flush=True)\nsignal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(children.__file__).parents[1])}
    argv = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not _gone(pid)
        parent.kill()
    _wait_for(lambda: _gone(pid))


def test_termination_becomes_an_exit_that_cleans_up() -> None:
    with terminate_as_exit(), pytest.raises(SystemExit) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM


def test_http_ready_asks_the_address(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "healthz").write_text("ok")
    port = choose_port(None)
    argv = [
        sys.executable,
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "--directory",
        str(tmp_path),
    ]
    child = supervisor.start("web", argv, ready=http_ready(f"http://127.0.0.1:{port}/healthz"))
    assert http_ready(f"http://127.0.0.1:{port}/nothing")(child) is False


def test_a_requested_port_in_use_is_refused(busy_port: int) -> None:
    with pytest.raises(ServiceError, match=f"port {busy_port} on 127.0.0.1 is in use"):
        choose_port(busy_port)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_a_requested_port_has_bounds(port: int) -> None:
    with pytest.raises(ServiceError, match=rf"port must be in \[1, 65535\], got {port}"):
        choose_port(port)


def test_a_preferred_port_in_use_is_replaced(busy_port: int) -> None:
    port = choose_port(None, preferred=busy_port)
    assert port != busy_port
    assert port_is_free(port)
