"""Whatever a client sends or leaves undone, /v1 has no 5xx and keeps nothing of it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.durability.audit import settle
from benchmarks.durability.register import MODEL
from experiments import wire
from tests.faults.conftest import SETTLED_WITHIN_SECONDS, World

EXAMPLES = 60
# A first round fills caches and pools; what a second one of the same size adds would be a leak.
MEGABYTES_ALLOWED = 8.0
DESCRIPTORS_ALLOWED = 2

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    *("model", "messages", "stream", "stream_options", "stop", "max_tokens", "max_completion_tokens", "temperature"),
    *("top_p", "seed", "n", "tools", "logprobs", "response_format", "reasoning_effort", "user", "metadata"),
)
fields = st.sampled_from(NAMES) | st.text(max_size=12)
changes = st.dictionaries(fields, values, min_size=1, max_size=3)
names = st.sampled_from(
    [b"content-length", b"transfer-encoding", b"authorization", b"x-request-id", b"expect", b"host"]
)
headers = st.lists(st.tuples(names | st.binary(max_size=12), st.binary(max_size=24)), max_size=4)


@dataclass(frozen=True)
class Kept:
    """What an idle gateway holds."""

    open_requests: float
    in_flight: float
    streams: int
    started: int
    descriptors: int
    megabytes: float


def kept(world: World) -> Kept:
    """Measure once everything has ended."""
    installation = world.installation
    deadline = time.monotonic() + SETTLED_WITHIN_SECONDS
    while _metric(world, "curtail_open_requests"):
        assert time.monotonic() < deadline, "requests stay open"
        time.sleep(0.1)
    settle(installation, SETTLED_WITHIN_SECONDS)
    with installation.redis() as client:
        keys = [*client.scan_iter("curtail:requests:*"), *client.scan_iter("curtail:replies:*")]
        web = installation.part("web")
        return Kept(
            _metric(world, "curtail_open_requests"),
            _metric(world, "curtail_in_flight"),
            sum(client.xlen(key) for key in keys),
            len(list(client.scan_iter(wire.started_key("*")))),
            web.num_fds(),
            web.memory_full_info().uss / 2**20,
        )


def _metric(world: World, name: str) -> float:
    text = httpx.get(f"{world.installation.url}/metrics", trust_env=False).text
    found = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(value) for value in found)


def body(**changed: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "?"}], "max_tokens": 3, **changed}


def head(world: World, length: int, extra: bytes = b"") -> bytes:
    lines = [
        b"POST /v1/chat/completions HTTP/1.1",
        b"host: fuzz",
        b"authorization: Bearer " + world.installation.token.encode(),
        b"content-type: application/json",
        b"content-length: %d" % length,
    ]
    return b"\r\n".join(lines) + b"\r\n" + extra + b"connection: close\r\n\r\n"


def talk(world: World, sent: bytes, *, read: int | None = None, shut: bool = False) -> bytes:
    """Send bytes; what comes back, or so much of it. The connection is then closed at once."""
    with socket.create_connection(("127.0.0.1", world.installation.port), timeout=5) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(sent)
            if shut:
                connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(OSError):
            while (read is None or len(received) < read) and (part := connection.recv(4096)):
                received += part
        return received


def status(answer: bytes) -> int | None:
    """The status of an answer; None without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def is_fine(answer: bytes) -> bool:
    """No 5xx, and no stream that broke off inside."""
    code = status(answer)
    return (code is None or code < 500) and b"internal_error" not in answer


@pytest.fixture
def idle(world: World) -> World:
    """The installation with nothing in hand, its gateway warm."""
    assert httpx.post(
        f"{world.installation.url}/v1/chat/completions",
        json=body(),
        headers={"authorization": f"Bearer {world.installation.token}"},
        trust_env=False,
    ).is_success
    return world


def assert_nothing_is_kept(world: World, fuzz: Any) -> None:
    """Two rounds of the same: the second leaves nothing behind."""
    fuzz()
    before = kept(world)
    fuzz()
    after = kept(world)
    assert (after.open_requests, after.in_flight) == (0, 0)
    # A gateway that was killed leaves a reply stream behind, until it expires.
    assert (after.streams, after.started) == (before.streams, before.started)
    assert after.descriptors <= before.descriptors + DESCRIPTORS_ALLOWED
    assert after.megabytes <= before.megabytes + MEGABYTES_ALLOWED


def test_no_field_of_any_value_is_too_much(idle: World) -> None:
    @fuzzed
    @given(changes)
    def fuzz(changed: dict[str, Any]) -> None:
        payload = json.dumps(body(**changed)).encode("utf-8", "surrogatepass")
        answer = talk(idle, head(idle, len(payload)) + payload)
        assert status(answer) is not None
        assert is_fine(answer), answer

    assert_nothing_is_kept(idle, fuzz)


def test_no_bytes_are_too_much(idle: World) -> None:
    @fuzzed
    @given(st.binary(max_size=200), headers)
    def fuzz(payload: bytes, sent: list[tuple[bytes, bytes]]) -> None:
        extra = b"".join(name + b": " + value + b"\r\n" for name, value in sent)
        assert is_fine(talk(idle, head(idle, len(payload), extra) + payload, shut=True))

    assert_nothing_is_kept(idle, fuzz)


def test_requests_that_break_off_leave_nothing(idle: World) -> None:
    @fuzzed
    @given(st.floats(0, 1))
    def fuzz(share: float) -> None:
        payload = json.dumps(body(stream=True)).encode()
        whole = head(idle, len(payload)) + payload
        assert is_fine(talk(idle, whole[: int(share * len(whole))], shut=True))

    assert_nothing_is_kept(idle, fuzz)


def test_clients_that_leave_in_mid_answer_leave_nothing(idle: World) -> None:
    @fuzzed
    @given(st.integers(0, 3000), st.booleans())
    def fuzz(read: int, stream: bool) -> None:
        payload = json.dumps(body(stream=stream)).encode()
        assert is_fine(talk(idle, head(idle, len(payload)) + payload, read=read))

    assert_nothing_is_kept(idle, fuzz)
