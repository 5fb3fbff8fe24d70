"""What taking in completions that were served elsewhere costs, against a plain COPY of the same rows.

    python -m benchmarks.ingest [--lines 100000] [--assignments 2000] [--repeats 3] [--out FILE]

Makes a PostgreSQL and a Redis of its own in a temporary folder. First it times POST /api/v1/assignments, one after the
other. Then, interleaved, so often each: POST /api/v1/completions with all lines as JSONL (their admissions are in the
database, as labels and counting have it), and COPY of the resulting rows into an indexed copy of the table.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform as machine
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.installation import temporary_installation


def main(arguments: list[str]) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--assignments", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    with temporary_installation(durable=True, CURTAIL_ALLOWED_HOSTS="testserver", CURTAIL_LOG_LEVEL="ERROR"):
        text = _measure(options.lines, options.assignments, options.repeats)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


def _measure(lines: int, assignments: int, repeats: int) -> str:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    client, use_case = _installation()
    rate = _assignment_rate(client, assignments)
    posts, copies = [], []
    for number in range(repeats):
        body = _admitted_lines(use_case, lines)
        posts.append(_post(client, body, lines))
        copies.append(_copy())
        print(f"round {number + 1} of {repeats}: post {posts[-1]:.2f} s, COPY {copies[-1]:.2f} s", file=sys.stderr)
    return _table(lines, len(body), rate, posts, copies)


def _installation() -> tuple[Any, Any]:
    """A client with a key, and its use case, which has a running experiment."""
    from django.test import Client

    from experiments.models import Checkpoint, ModelProfile, UseCase
    from experiments.services.experiments import VariantSpec, create_experiment, start
    from experiments.services.registry import issue_api_key

    model = ModelProfile.objects.create(name="elsewhere", engine="scripted", max_context_tokens=4096)
    checkpoint = Checkpoint.objects.create(model=model, name="v1", path="/nowhere")
    full = {"name": "full"}
    use_case = UseCase.objects.create(slug="bench", name="Bench", checkpoint=checkpoint, policy=full)
    arms = [
        VariantSpec("full", full, checkpoint, 0.5, is_control=True),
        VariantSpec("short", {"name": "confidence", "parameters": {"threshold": 0.9}}, checkpoint, 0.5),
    ]
    start("bench", create_experiment("bench", use_case, "Bench", arms))
    token = issue_api_key("bench", "bench", use_case, ["serve"]).token
    return Client(headers={"authorization": f"Bearer {token}"}), use_case


def _assignment_rate(client: Any, count: int) -> float:
    """Assignments per second, one after the other."""
    started = time.perf_counter()
    for number in range(count):
        answer = client.post("/api/v1/assignments", {"conversation": str(number)}, content_type="application/json")
        assert answer.status_code == 201, answer.content
    return count / (time.perf_counter() - started)


def _admitted_lines(use_case: Any, count: int) -> bytes:
    """Completions of as many assigned requests, whose admissions are in the database."""
    from experiments.routing import assign
    from experiments.services.admissions import record_admission
    from experiments.services.assigned_ids import make_id
    from experiments.services.ledger import ingest
    from experiments.services.routing import load_routing

    route, now = load_routing(0).routes[use_case.slug], time.time()
    ids: list[str] = []
    while len(ids) < count:
        records = []
        for _ in range(min(10_000, count - len(ids))):
            unit = str(len(ids))
            assignment = assign(route, {"conversation": unit})
            ids.append(make_id(use_case.pk, assignment.arm.checkpoint_id, now))
            records.append(
                record_admission(
                    ids[-1],
                    route,
                    assignment,
                    admitted_at=now,
                    deadline_at=now + 3600,
                    reference=None,
                    segment="",
                    prompt_characters=100,
                    sampling={},
                )
            )
        ingest(records, [])
        print(f"{len(ids)} of {count} admissions", end="\r", file=sys.stderr)
    return b"\n".join(map(_line, ids))


def _line(number: str) -> bytes:
    fields = {
        "id": number,
        "outcome": "answered",
        "thinking_tokens": 900,
        "answer_tokens": 20,
        "probe_tokens": 40,
        "exit_reason": "confident",
        "decision_step": 900,
        "applied_step": 901,
        "text": "The answer is 42, as the sum of the two numbers says.",
        "latency_seconds": 3.25,
    }
    return json.dumps(fields).encode()


def _post(client: Any, body: bytes, lines: int) -> float:
    started = time.perf_counter()
    answer = client.post("/api/v1/completions", body, content_type="application/x-ndjson")
    seconds = time.perf_counter() - started
    assert answer.json() == {"accepted": lines, "duplicates": 0, "refused": 0, "errors": []}, answer.content[:500]
    return seconds


def _copy() -> float:
    """Seconds of a COPY of all rows into a copy of the table with its index; then both are emptied."""
    from django.db import connection, transaction

    names = "outcome, finish_reason, exit_reason, decision_step, applied_step, thinking_tokens, answer_tokens, "
    names = f"id, {names}probe_tokens, text, answer, latency_seconds, completed_at"
    with connection.cursor() as cursor:
        rows = io.StringIO()
        cursor.copy_expert(f"COPY experiments_completion ({names}) TO STDOUT", rows)
        cursor.execute(f"CREATE TABLE plain_copy AS SELECT {names} FROM experiments_completion WITH NO DATA")
        cursor.execute("ALTER TABLE plain_copy ADD PRIMARY KEY (id)")
        rows.seek(0)
        started = time.perf_counter()
        with transaction.atomic():
            cursor.copy_expert(f"COPY plain_copy ({names}) FROM STDIN", rows)
        seconds = time.perf_counter() - started
        cursor.execute("DROP TABLE plain_copy")
        cursor.execute("TRUNCATE experiments_completion")
    return seconds


def _table(lines: int, size: int, rate: float, posts: list[float], copies: list[float]) -> str:
    post, copy = statistics.median(posts), statistics.median(copies)
    ratio = statistics.median(mine / plain for mine, plain in zip(posts, copies, strict=True))
    return "\n".join(
        (
            f"{lines} lines, {size / 2**20:.1f} MiB; {len(posts)} rounds, medians; {os.cpu_count()} cores, "
            f"{machine.machine()}, Python {machine.python_version()}",
            "",
            "| what | seconds | rows/s | against COPY |",
            "| --- | --- | --- | --- |",
            f"| POST /api/v1/completions | {post:.2f} | {lines / post:,.0f} | {ratio:.1f} |",
            f"| plain COPY of the rows | {copy:.2f} | {lines / copy:,.0f} | 1 |",
            "",
            f"POST /api/v1/assignments, one after the other: {rate:,.0f} a second.",
        )
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
