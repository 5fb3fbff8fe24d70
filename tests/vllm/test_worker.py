"""vLLM inside a Celery worker: it serves, ends with the worker, and does not outlive a killed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from demo.scenario import FULL, MODEL_PROFILE
from demo.tiny_reasoner.checkpoints import read_index
from experiments import wire
from experiments.models import Checkpoint
from experiments.services.registry import register_checkpoint, register_model
from tests.tiny_reasoner import PROMPTS
from workers.engines.vllm_engine.lifeline import OWNER

CONFIDENT = {"name": "confidence", "parameters": {"threshold": 0.9, "patience": 2, "probe_every": 32}}
REPLIES = "curtail:replies:test"
START_SECONDS = 180.0


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """Poll until the condition is true; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds:g} s"
        time.sleep(0.05)
    return value


@dataclass
class Worker:
    """A Celery worker that hosts vLLM."""

    process: subprocess.Popen[bytes]
    checkpoint: Checkpoint
    redis: redis.Redis
    log: Path

    def ask(self, name: str, policy: dict[str, Any]) -> dict[str, Any]:
        """The record of one request, sent as a gateway sends it."""
        now = time.time()
        request = wire.ServeRequest(
            name,
            REPLIES,
            [{"role": "user", "content": PROMPTS[0]}],
            policy,
            False,
            0.0,
            1.0,
            None,
            None,
            now,
            now + 200,
        )
        self.redis.xadd(wire.request_stream(self.checkpoint.pk), {wire.PAYLOAD: request.encode()})
        return dict(wait_for(lambda: self._ending(name), START_SECONDS))

    def _ending(self, name: str) -> Any:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        for _, fields in self.redis.xrange(REPLIES):
            for event in wire.unpack_replies(fields[wire.PAYLOAD]):
                if event.request_id == name and event.kind in ("finished", "error"):
                    return event.body
        return None

    def engine_processes(self) -> list[psutil.Process]:
        """What vLLM started for this worker."""
        return [p for p in psutil.process_iter() if _owner(p).startswith(f"{self.process.pid}:")]

    def engine_cores(self) -> list[psutil.Process]:
        """Those among them that decode."""
        return [p for p in self.engine_processes() if "EngineCore" in p.name()]


def _owner(process: psutil.Process) -> str:
    try:
        return process.environ().get(OWNER, "")
    except psutil.Error:
        return ""


@pytest.fixture
def worker(
    transactional_db: None, redis_client: redis.Redis, child_environment: dict[str, str], tmp_path: Path
) -> Iterator[Worker]:
    model = register_model("test", **{**MODEL_PROFILE, "engine": "vllm"})
    path = f"demo/checkpoints/{read_index()[-1].path.name}"
    checkpoint = register_checkpoint("test", model, "last", path)
    environment = child_environment | {"CURTAIL_VLLM_DTYPE": "float32", "CURTAIL_ENGINE_MAX_CONCURRENCY": "8"}
    command = [sys.executable, "-m", "celery", "-A", "curtail.celery_app", "worker", "-P", "threads", "-c", "1"]
    command += ["-Q", "inference", "-n", "inference@test", "-l", "INFO", "--engine-host"]
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    running = Worker(process, checkpoint, redis_client, log)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for left in running.engine_processes():
            left.kill()


@pytest.mark.django_db(transaction=True)
def test_a_worker_serves_and_leaves_nothing_behind_when_it_is_stopped(worker: Worker) -> None:
    full = worker.ask("full", FULL)
    early = worker.ask("early", CONFIDENT)
    assert (full["outcome"], early["outcome"]) == ("answered", "answered")
    assert early["exit_reason"] == "confident"
    assert early["thinking_tokens"] < full["thinking_tokens"]
    assert early["probe_tokens"] >= early["probes"] > 0
    assert early["answer"] == full["answer"] != ""
    engines = worker.engine_processes()
    assert worker.engine_cores()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0
    wait_for(lambda: not worker.engine_processes(), 10)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in engines)


@pytest.mark.django_db(transaction=True)
def test_an_engine_that_died_is_started_anew(worker: Worker) -> None:
    assert worker.ask("one", FULL)["outcome"] == "answered"
    (core,) = worker.engine_cores()
    core.kill()
    # What was in flight would end with an error; what comes later waits for the new engine.
    wait_for(lambda: [p for p in worker.engine_cores() if p.pid != core.pid], START_SECONDS)
    assert worker.ask("two", FULL)["outcome"] == "answered"


@pytest.mark.django_db(transaction=True)
def test_a_killed_worker_leaves_nothing_behind(worker: Worker) -> None:
    assert worker.ask("one", FULL)["outcome"] == "answered"
    engines = worker.engine_processes()
    assert worker.engine_cores()
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    wait_for(lambda: not worker.engine_processes(), 10)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in engines)
