"""A server that takes and gives token ids, as a driver sees it: every count is exact.

Written against vLLM 0.32: ``/v1/completions`` with a prompt of ids and ``return_token_ids``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from experiments.policies import Exit, ExitReason, Observation, Signal, Step
from experiments.remote_server import RemoteServer
from workers.engines.base import EngineError, GenerationRequest, ThinkingProfile
from workers.engines.driver import Ask, Notes, Piece
from workers.engines.openai_engine.bodies import cached_tokens, finish_of, native_fields, sampling_fields
from workers.engines.openai_engine.client import Client
from workers.engines.transcript import Stage, Transcript
from workers.engines.vocabulary import Vocabulary

# Rounding in the server's figures; a margin above it was not the likeliest token's.
_MARGIN_NOISE = 1e-4


@dataclass(frozen=True, slots=True)
class _Read:
    """A token of the request and how far it was from the likeliest one, nats."""

    token: int
    margin: float


class TokenDecoder:
    """Decodes one request on a server.

    Args:
        client: of the server.
        server: its description.
        request: the request.
        vocabulary: of the model.
        profile: how the model thinks.
    """

    def __init__(
        self,
        client: Client,
        server: RemoteServer,
        request: GenerationRequest,
        vocabulary: Vocabulary,
        profile: ThinkingProfile,
    ) -> None:
        self._client = client
        self._server = server
        self._request = request
        self._vocabulary = vocabulary
        self._profile = profile
        self._reads_margins = Signal.END_MARGIN in request.policy.signals
        self._read: list[_Read] = []

    async def decode(self, ask: Ask) -> AsyncIterator[Piece]:
        last: Piece | None = None
        cached: int | None = None
        async with aclosing(self._client.events("/completions", self._body(ask))) as events:
            async for event in events:
                cached = cached_tokens(event, cached)
                for choice in event["choices"][:1]:
                    piece = self._piece(choice, ask)
                    # The last piece waits for the figures that come behind it.
                    if finish_of(choice) is not None:
                        last = piece
                    elif piece.tokens:
                        yield piece
        if last is not None:
            yield replace(last, cached=cached)

    async def end_thinking(self, key: str) -> None:
        raise AssertionError("a server cannot be told to end a request's thinking")

    async def notes(self, key: str) -> Notes:
        """Why the plugin ended the thinking, as far as its tokens and their probabilities show.

        The plugin keeps its readings in the server. Where thinking ended, the margin there is known: that of the token
        that ended it. It is fed to the policy; without it the end was the model's own, unless it cannot have been.
        """
        policy = self._request.policy
        request = replace(self._request, id="", stream=False)
        follower = Transcript(request, 0, self._vocabulary, replace(self._profile, max_context_tokens=1 << 30))
        tokens = [read.token for read in self._read]
        for at, read in enumerate(self._read[:-1], start=1):
            step = follower.take(read.token)
            if follower.stage is Stage.ANSWERING or follower.finish is not None:
                break
            if tuple(tokens[at : at + len(follower.closing)]) != follower.closing:
                continue
            if isinstance(step, Exit):
                return Notes(decision=step)
            if step is Step.PROBE:
                return self._near(follower, at, self._read[at].margin, policy.wrap_up != "")
        return Notes()

    def _near(self, follower: Transcript, at: int, margin: float, wrapped: bool) -> Notes:
        """Thinking ended at a probe point, after ``at`` own tokens: by the policy, or by the model itself."""
        thinking = follower.thinking_tokens
        detail = "ended by the plugin in the model's server"
        if wrapped:  # the model writes no wrap-up phrase; its first token hides the margin
            return Notes(decision=Exit(ExitReason.END_NEAR, thinking, detail))
        decision = follower.observe(Observation(thinking, end_margin=margin))
        if decision is None and self._request.sampling.temperature == 0 and margin > _MARGIN_NOISE:
            decision = Exit(ExitReason.END_NEAR, thinking, detail)
        return Notes(((thinking, margin),), decision)

    def _body(self, ask: Ask) -> dict[str, Any]:
        body = {
            **sampling_fields(ask, self._request.extra_sampling),
            "model": self._server.model,
            "prompt": ask.prompt,
            "max_tokens": ask.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            **native_fields(self._server, ask.plan),
        }
        if ask.branch and self._server.logprobs:
            body["logprobs"] = 0  # of the sampled token alone
        elif self._reads_margins:
            body["logprobs"] = 1  # and of the likeliest
        return body

    def _piece(self, choice: Mapping[str, Any], ask: Ask) -> Piece:
        tokens = choice.get("token_ids")
        if not isinstance(tokens, list):
            raise EngineError("the model's server sends no token ids", code="upstream_protocol")
        told = choice.get("logprobs") or {}
        logprobs = tuple(told.get("token_logprobs") or ())
        if logprobs and len(logprobs) != len(tokens):
            raise EngineError("the model's server sends tokens without their probabilities", code="upstream_protocol")
        finish = finish_of(choice)
        if finish == "stop" and (not tokens or tokens[-1] not in self._vocabulary.end_ids):
            # The server knows an end token that the checkpoint's folder does not name.
            tokens = [*tokens[:-1], min(self._vocabulary.end_ids)]
        if self._reads_margins and not ask.branch and logprobs:
            tops = told.get("top_logprobs") or []
            self._read += [
                _Read(token, max(top.values()) - own) for token, own, top in zip(tokens, logprobs, tops, strict=True)
            ]
        return Piece(tuple(tokens), logprobs if ask.branch else (), limited=finish == "length")
