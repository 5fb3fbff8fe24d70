"""The design that the engine host replaces: a Celery task for each request, whose result the caller waits for.

    python -m benchmarks.gateway.celery_task BROKER_URL SCRIPT_FOLDER CONNECTIONS SECONDS

Starts a worker with threads, asks it from as many threads as there are connections, and prints a JSON object like the
load generator's. A task plays the same script on the same engine as the engine host; it writes no records, and no
gateway stands before it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from functools import cache

from celery import Celery

from experiments.policies import Full
from workers.engines.base import Finished, GenerationRequest, ThinkingProfile
from workers.engines.scripted_engine import ScriptedEngine, read_scripts

QUEUE = "curtail-benchmark"
app = Celery("benchmark", broker=os.environ.get("BROKER"), backend=os.environ.get("BROKER"))
app.conf.task_default_queue = QUEUE
app.conf.broker_connection_retry_on_startup = True


@app.task(name="benchmark.answer")  # type: ignore[untyped-decorator]
def answer(prompt: str) -> str:
    """Answer a prompt."""
    return asyncio.run_coroutine_threadsafe(_decode(prompt), _loop()).result(30)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The worker's event loop, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


@cache
def _engine() -> ScriptedEngine:
    return ScriptedEngine(read_scripts(os.environ["SCRIPT_FOLDER"]), ThinkingProfile())


async def _decode(prompt: str) -> str:
    engine = _engine()
    if _started.acquire(blocking=False):
        await engine.start()
    request = GenerationRequest(uuid.uuid4().hex, [{"role": "user", "content": prompt}], Full())
    async for event in engine.generate(request):
        if isinstance(event, Finished):
            return event.result.text
    raise AssertionError("an engine ends with a result")


_started = threading.Semaphore(1)


def main(broker: str, folder: str, connections: int, seconds: float) -> None:
    """Measure."""
    os.environ |= {"BROKER": broker, "SCRIPT_FOLDER": folder}
    app.conf.broker_url = app.conf.result_backend = broker
    argv = [sys.executable, "-m", "celery", "-A", "benchmarks.gateway.celery_task", "worker", "-Q", QUEUE]
    options = ["-P", "threads", "-c", "8", "--without-gossip", "--without-mingle", "-l", "ERROR"]
    worker = subprocess.Popen([*argv, *options], stdout=subprocess.DEVNULL)
    try:
        answer.delay("warm up").get(timeout=60)
        print(json.dumps(_measure(connections, seconds)))
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait()


def _measure(connections: int, seconds: float) -> dict[str, object]:
    ends = time.monotonic() + seconds
    times: list[float] = []

    def ask() -> None:
        while (began := time.monotonic()) < ends:
            answer.delay("What is 3+4?").get(timeout=30)
            times.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cuts = statistics.quantiles(times, n=100)
    whole = {"count": len(times), "p50": cuts[49] * 1e6, "p90": cuts[89] * 1e6, "p99": cuts[98] * 1e6}
    return {"answers": len(times), "errors": 0, "per_second": len(times) / seconds, "whole": whole, "first": {}}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
