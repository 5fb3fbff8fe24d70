"""What is learned of one request on /v1 while it is served: the source of metrics, access lines and spans."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from experiments import wire

_CLIENT_ID = re.compile(r"[-.:\w]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


@dataclass(slots=True, eq=False)
class Observation:
    """One request. It changes while the request is served, in the event loop alone; prompts and answers stay out.

    Attributes:
        started: by ``time.perf_counter``.
        began_at: seconds since the epoch.
        key: the API key as sent, to count what is open per key; never written anywhere.
        client_request_id: the client's own x-request-id, "" when it sent none or none of a sane form.
        traceparent: the client's W3C trace context, later that of our span; "" without.
        id: ours; empty until somebody needs it.
        code: of the error that it was refused with, else "".
        record: of its completion, without messages, once it has ended well.
        error: body of the error event it ended with.
        left: whether its client went away.
        give_up_at: when its body has to be there, later when its answer has to be taken, in seconds since the epoch.
        stalled: whether its client has let that time pass.
        task: that serves it.
        ended_here: whether the gateway gave up on it while somebody may still be decoding.
    """

    started: float
    began_at: float
    method: str = ""
    path: str = ""
    content_length: int | None = None
    key: str = ""
    client_request_id: str = ""
    traceparent: str = ""
    id: str = ""
    model: str = ""
    use_case: str = ""
    variant: str = ""
    policy: str = ""
    admitted: bool = False
    stream: bool = False
    status: int = 0
    code: str = ""
    first_event: float | None = None
    record: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    left: bool = False
    give_up_at: float = 0.0
    stalled: bool = False
    task: asyncio.Task[Any] | None = None
    ended_here: bool = False
    span: Any = None

    @property
    def outcome(self) -> str:
        """answered, error, timeout, cancelled; refused when it was never admitted; ok for what needs no admission."""
        if self.record is not None:
            return "answered"
        if self.error is not None:
            code = self.error.get("code")
            return code if code in ("timeout", "cancelled") else "error"
        if self.left:
            return "cancelled"
        if self.admitted:
            return "cancelled" if self.stalled else "error"
        return "refused" if self.code or not self.status else "ok"

    @property
    def is_orphaned(self) -> bool:
        """Whether somebody may still decode what nobody waits for, without having been told."""
        return self.admitted and (self.ended_here or (self.record is None and self.error is None))

    def own_id(self) -> str:
        """Our id of the request; made up for one that was never admitted."""
        if not self.id:
            self.id = f"req-{uuid.uuid4().hex}"
        return self.id


_current: ContextVar[Observation | None] = ContextVar("curtail_request", default=None)


def current() -> Observation | None:
    """The request that is being served here, if any."""
    return _current.get()


def begin(scope: Mapping[str, Any]) -> Observation:
    """Start to observe a request; tasks that it starts see the same observation."""
    seen = Observation(time.perf_counter(), time.time(), scope["method"], scope["path"])
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            seen.content_length = int(value[:20])
        elif name == b"authorization":
            seen.key = value.decode("latin-1").partition(" ")[2].strip()
        elif name == b"x-request-id" and _CLIENT_ID.fullmatch(text := value.decode("latin-1")):
            seen.client_request_id = text
        elif name == b"traceparent" and _TRACEPARENT.fullmatch(text := value.decode("latin-1")):
            seen.traceparent = text
    _current.set(seen)
    return seen


def note_event(event: wire.ReplyEvent, *, ended_here: bool = False) -> None:
    """An event of the request's answer has come.

    Args:
        event: the event.
        give_up_at: when its body has to be there, later when its answer has to be taken, in seconds since the epoch.
        stalled: whether its client has let that time pass.
        task: that serves it.
        ended_here: whether the gateway made it up because nobody else said a word in time.
    """
    seen = _current.get()
    if seen is None:
        return
    if seen.first_event is None:
        seen.first_event = time.perf_counter()
    if event.kind == "finished":
        seen.record = event.body
    elif event.kind == "error":
        seen.error = event.body
        seen.ended_here = ended_here or event.body.get("code") == "draining"
