"""No engine process outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from workers.engines.vllm_engine import lifeline

# An owner that starts one engine process, which holds on to it and says that it is there.
OWNER = """
import subprocess, sys
from workers.engines.vllm_engine import lifeline
engine = '''
import sys, threading
from workers.engines.vllm_engine import lifeline
lifeline.hold()
print("here", flush=True)
threading.Event().wait()
'''
if sys.argv[1] != "holds":
    engine = engine.replace("lifeline.hold()", "")
with lifeline.owning():
    child = subprocess.Popen([sys.executable, "-c", engine], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """An owner and its engine process; the parameter says whether that one holds on to it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, request.param], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    engine = psutil.Process(int(process.stdout.readline()))
    yield process, engine
    for left in (process, engine):
        try:
            left.kill()
            left.wait()
        except psutil.Error:
            continue
    process.stdout.close()


@pytest.mark.parametrize("owner", ["holds"], indirect=True)
def test_an_engine_process_ends_when_its_owner_is_killed(owner: tuple[subprocess.Popen[str], psutil.Process]) -> None:
    process, engine = owner
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs([engine], timeout=10)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("owner", ["loads"], indirect=True)
def test_what_a_killed_owner_left_is_reaped_and_what_a_living_one_has_is_not(
    owner: tuple[subprocess.Popen[str], psutil.Process],
) -> None:
    process, engine = owner
    assert engine.pid not in lifeline.reap_orphans()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert engine.pid in lifeline.reap_orphans()


def test_a_process_without_an_owner_holds_on_to_nobody() -> None:
    lifeline.hold()
    assert not lifeline._held.locked()
