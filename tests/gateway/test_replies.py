"""What comes from engine hosts reaches its request in order and once, whatever is sent again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from experiments import wire
from experiments.asyncio_tasks import end_tasks
from experiments.gateway.replies import RESTARTED, Replies
from experiments.services.redis_clients import async_redis
from workers.outbox import Outbox


def text(number: int, delivery: int = 1, body: str = "") -> wire.ReplyEvent:
    return wire.ReplyEvent("a", "answer", body or f"{delivery}.{number}", number, delivery)


def taken(*events: wire.ReplyEvent) -> list[Any]:
    """What a request gets of these events."""
    replies = Replies(None, "test")
    with replies.expect("a") as queue:
        replies._dispatch(wire.pack_replies(list(events)))
        return [event.body if event.kind != "error" else event.body["message"] for event in drain(queue)]


def drain(queue: asyncio.Queue[wire.ReplyEvent]) -> list[wire.ReplyEvent]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


def test_what_is_sent_again_is_dropped() -> None:
    assert taken(text(1), text(2), text(1), text(2), text(3)) == ["1.1", "1.2", "1.3"]


def test_events_without_a_number_all_pass() -> None:
    assert taken(text(0, body="a"), text(0, body="a")) == ["a", "a"]


def test_a_first_text_of_a_second_delivery_passes() -> None:
    assert taken(text(1, delivery=2), text(2, delivery=2)) == ["2.1", "2.2"]


def test_text_of_a_second_delivery_never_follows_that_of_a_first() -> None:
    assert taken(text(1), text(1, delivery=2)) == ["1.1", RESTARTED]


def test_a_host_that_was_taken_for_dead_is_not_heard_any_more() -> None:
    assert taken(text(1, delivery=2), text(5), text(2, delivery=2)) == ["2.1", "2.2"]


class AnswerLost:
    """A Redis whose first transaction is carried out, but its answer is lost."""

    def __init__(self, client: Any) -> None:
        self._client, self.failures = client, 1

    def pipeline(self, **options: Any) -> Any:
        pipe = self._client.pipeline(**options)
        execute = pipe.execute

        async def failing() -> Any:
            answer = await execute()
            if self.failures:
                self.failures -= 1
                raise redis.exceptions.ConnectionError("the answer was lost")
            return answer

        pipe.execute = failing
        return pipe


@pytest.mark.usefixtures("redis_client")
async def test_a_flush_whose_answer_was_lost_is_written_twice_and_read_once() -> None:
    client = async_redis()
    replies = Replies(client, "test")
    outbox = Outbox(AnswerLost(client))
    tasks = [asyncio.create_task(outbox.flush_forever()), asyncio.create_task(replies.read_forever())]
    try:
        with replies.expect("a") as queue:
            outbox.put(replies.stream, text(1))
            await outbox.drained()
            outbox.put(replies.stream, text(2))
            async with asyncio.timeout(10):
                got = [(await queue.get()).body, (await queue.get()).body]
                while await client.xlen(replies.stream):
                    await asyncio.sleep(0.01)
            assert got == ["1.1", "1.2"]
            assert queue.empty()
    finally:
        await end_tasks(tasks, again_after=5.0)
        await client.aclose()
