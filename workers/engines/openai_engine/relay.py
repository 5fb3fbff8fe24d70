"""Requests in which nothing is to be decided: what the server sends is passed on as it comes.

A driver splits, counts and watches every piece; under `full` there is nothing to watch, and a server whose usage tells
the reasoning's share has counted. Such a request costs a gateway next to nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from experiments.grading import extract_answer
from experiments.policies import Exit, ExitReason
from experiments.remote_capabilities import effective_cap
from experiments.remote_server import Continues, RemoteServer, Tokens, Usage
from workers.engines.base import (
    Delta,
    DeltaKind,
    EngineError,
    Finished,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    ThinkingProfile,
    TokenCounts,
)
from workers.engines.openai_engine.accounting import Streamed, accounted
from workers.engines.openai_engine.bodies import finish_of
from workers.engines.openai_engine.client import Client
from workers.engines.openai_engine.http_client import Leash

_PATH = "/chat/completions"


def can_relay(server: RemoteServer, request: GenerationRequest) -> bool:
    """Whether a server can be left alone with a request, and tells afterwards what the request cost."""
    return (
        server.reasoning_usage
        and server.reasoning_fields
        and server.tokens is Tokens.TEXT
        and server.continues is not Continues.COMPLETIONS
        and not request.policy.signals
        and effective_cap(request.policy, request.client_cap) is None
        and not request.has_record
        and not request.stop  # the server would look for them in the thought too
    )


class Relay:
    """One request on its way through.

    Args:
        client: of the server.
        server: its description.
        request: the request.
        profile: how the model thinks.
    """

    def __init__(
        self, client: Client, server: RemoteServer, request: GenerationRequest, profile: ThinkingProfile
    ) -> None:
        self._client = client
        self._server = server
        self._request = request
        self._profile = profile
        self._leash = Leash()
        self._streamed = Streamed()
        self._thoughts: list[str] = []
        self._texts: list[str] = []
        self._pieces = [0, 0]  # of thoughts, of other text
        self._finish: str | None = None
        self._choices: tuple[Mapping[str, Any], ...] = ()

    def cancel(self) -> None:
        """End here; what has come counts."""
        self._leash.pull()

    async def run(self) -> AsyncIterator[Delta | Finished]:
        """The events of the request. Raises EngineError."""
        try:
            if self._request.stream:
                async with aclosing(self._stream()) as deltas:  # type: ignore[type-var]
                    async for delta in deltas:
                        yield delta
            else:
                event = await self._client.whole(_PATH, self._body(), self._leash)
                self._take(event, "message")
            self._streamed.ended = self._finish is not None
            if not self._streamed.ended:
                raise EngineError("the model's server ended its answer in the middle", code="upstream_cut")
        except EngineError:
            if not self._leash.pulled:
                raise
        yield Finished(self._result())

    async def _stream(self) -> AsyncIterator[Delta]:
        async with aclosing(self._client.events(_PATH, self._body(), self._leash)) as events:
            async for event in events:
                for delta in self._take(event, "delta"):
                    yield delta

    def _body(self) -> dict[str, Any]:
        sampling = self._request.sampling
        body: dict[str, Any] = {
            **self._request.extra_sampling,
            "model": self._server.model,
            "messages": list(self._request.messages),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.max_tokens is not None:
            body[self._server.max_tokens_field] = sampling.max_tokens
        if self._request.stream:
            body["stream"] = True
            if self._server.usage is not Usage.NONE:
                body["stream_options"] = {"include_usage": True}
        return body

    def _take(self, event: Mapping[str, Any], name: str) -> list[Delta]:
        """What came with an event, or with a whole answer."""
        deltas: list[Delta] = []
        for choice in event["choices"][:1]:
            source = choice.get(name) or {}
            thought = source.get("reasoning") or source.get("reasoning_content")
            said = source.get("content")
            if thought:
                self._add(deltas, DeltaKind.THINKING, thought)
            if said:
                self._add(deltas, DeltaKind.ANSWER, said)
            self._finish = finish_of(choice) or self._finish
        if usage := event.get("usage"):
            self._streamed.hear(usage)
        return deltas

    def _add(self, deltas: list[Delta], kind: DeltaKind, text: Any) -> None:
        if not isinstance(text, str):
            raise EngineError("the model's server sent something else than text", code="upstream_protocol")
        said = kind is DeltaKind.ANSWER
        (self._texts if said else self._thoughts).append(text)
        self._pieces[said] += 1
        deltas.append(Delta(kind, text))

    def _result(self) -> GenerationResult:
        thinking, text = "".join(self._thoughts), "".join(self._texts)
        thoughts, others = self._pieces
        finish = FinishReason.CANCELLED if self._finish is None else FinishReason(self._finish)
        ended = bool(text) or finish not in (FinishReason.CANCELLED, FinishReason.LENGTH)
        # Until the server's usage says better, a piece is a token; so are the end of thinking and that of the answer.
        inside = thoughts + (ended and bool(thinking))
        left = None
        if ended:
            left = Exit(ExitReason.END_OF_THINKING, inside)
        elif finish is FinishReason.LENGTH:
            left = Exit(ExitReason.LENGTH, inside, "decoding ended inside the think phase")
        result = GenerationResult(
            finish_reason=finish,
            thinking=thinking,
            text=text,
            answer=extract_answer(text, self._profile.answer_pattern),
            exit=left,
            applied_step=inside if left else None,
            tokens=TokenCounts(thinking=inside, answer=others + (finish is FinishReason.STOP)),
            probes=0,
            queued_seconds=0.0,
            choices=self._choices,
        )
        self._streamed.exact = False
        return accounted(result, [self._streamed], prompt_known=False, closing_known=True)
