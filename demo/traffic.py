"""Real requests through the traffic-split endpoint, sent with the official client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import openai
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from demo.scenario import MODEL
from demo.seed import SeededExperiment
from demo.tiny_reasoner.task import Problem

IN_FLIGHT = 80


def send(console: Console, base_url: str, demo: SeededExperiment, check: Callable[[], None]) -> frozenset[str]:
    """Send all requests of a demo experiment; return the ids of the completions.

    Args:
        console: where the progress bar goes.
        base_url: the endpoint, with /v1.
        demo: the experiment.
        check: raises if a process of the demo has died; called all along.

    Raises:
        openai.APIError: a request ended with an error.
    """
    # One log line a request would tear the progress bar apart.
    for name in ("httpx", "httpx2", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(demo.scenario.name, total=demo.scenario.requests)

        def step() -> None:
            progress.advance(bar)
            check()

        return asyncio.run(_send_all(base_url, demo, step))


async def _send_all(base_url: str, demo: SeededExperiment, step: Callable[[], None]) -> frozenset[str]:
    ids: list[str] = []
    work = enumerate(demo.scenario.problems())
    # No retries: a request that was repeated behind the scenes would be admitted twice.
    async with openai.AsyncOpenAI(api_key=demo.token, base_url=base_url, max_retries=0, timeout=180) as client:

        async def sender(problems: Iterator[tuple[int, Problem]]) -> None:
            for number, problem in problems:
                ids.append(await _ask(client, f"{demo.scenario.salt}-{number}", problem))
                step()

        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(sender(work))
    return frozenset(ids)


async def _ask(client: openai.AsyncOpenAI, conversation: str, problem: Problem) -> str:
    completion = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": problem.prompt}],
        metadata={"conversation_id": conversation, "reference": problem.answer},
    )
    return completion.id
