"""The engine of remote, OpenAI-compatible servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from experiments.policies import Policy
from experiments.remote_capabilities import Way, passing_refusal, refusal, way
from experiments.remote_server import RemoteServer, Tokens
from workers.engines.base import Delta, EngineError, Finished, GenerationRequest, ThinkingProfile
from workers.engines.driven import DrivenEngine, Emit, MakeDriver, in_flight
from workers.engines.driver import Driver
from workers.engines.openai_engine.accounting import accounted
from workers.engines.openai_engine.chunks import ChunkVocabulary
from workers.engines.openai_engine.client import Client
from workers.engines.openai_engine.passing import PassingRelay
from workers.engines.openai_engine.relay import Relay, can_relay
from workers.engines.openai_engine.text_decoder import TextDecoder
from workers.engines.openai_engine.token_decoder import TokenDecoder
from workers.engines.vocabulary import HuggingFaceVocabulary, Vocabulary, encode_chat, read_end_ids


class OpenAIEngine(DrivenEngine):
    """Lets a remote server decode.

    With token ids all counts are exact. With text they are as exact as the server's own figures, and what is not exact
    is named in ``TokenCounts.estimated``: see ``accounting``. How many tokens a probe or a continuation computed anew
    is known where the server tells what its cache held; elsewhere it is the upper bound, and marked.

    Args:
        server: the server.
        profile: how the model thinks.
        key: the server's API key, or None.
        tokenizer_path: folder with the tokenizer's files; only for servers that need it.
        max_concurrency: requests decoded at once (trial answers come on top).
    """

    def __init__(
        self,
        server: RemoteServer,
        profile: ThinkingProfile,
        *,
        key: str | None = None,
        tokenizer_path: str | None = None,
        max_concurrency: int = 64,
    ) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, got {max_concurrency}")
        super().__init__(max_concurrency)
        self._server = server
        self._profile = profile
        self._key = key
        self._path = tokenizer_path
        self._client: Client | None = None
        self._tokenizer: Any = None
        self._relays: dict[str, Relay] = {}
        self._vocabulary: HuggingFaceVocabulary | None = None

    async def start(self) -> None:
        """Read the tokenizer, where it is needed. The server is not asked: it may come and go.

        Raises:
            EngineError: the tokenizer cannot be read.
        """
        if self._server.needs_tokenizer:
            await asyncio.to_thread(self._load_tokenizer)
        self._client = Client(self._server, self._key)

    async def close(self) -> None:
        client, self._client = self._client, None
        self._fail_all()
        if client is not None:
            await client.close()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta | Finished]:
        self._check(request)
        if request.id in self._relays:
            raise in_flight(request)
        is_passed = request.passthrough is not None or can_relay(self._server, request)
        if self._client is None or not is_passed:
            async with aclosing(super().generate(request)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
            return
        make = Relay if request.passthrough is None else PassingRelay
        relay = self._relays[request.id] = make(self._client, self._server, request, self._profile)
        try:
            async with self._room, aclosing(relay.run()) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        finally:
            del self._relays[request.id]

    def cancel(self, request_id: str) -> None:
        if (relay := self._relays.get(request_id)) is not None:
            relay.cancel()
        super().cancel(request_id)

    def refusal(self, request: GenerationRequest) -> str | None:
        """Why a request cannot be served on this server; None: it can."""
        if request.forced_thinking or request.forced_end:
            return "this engine feeds no recorded thoughts"
        if request.passthrough is not None:
            return passing_refusal(self._server, request.policy, request.client_cap)
        return refusal(self._server, request.policy, request.client_cap)

    def passing_refusal(self, policy: Policy) -> str | None:
        return passing_refusal(self._server, policy)

    def _load_tokenizer(self) -> None:
        from transformers import AutoTokenizer

        if self._path is None:
            raise EngineError("the server needs the model's tokenizer, and no folder holds it", code="bad_model")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._path, local_files_only=True)
            ends = _end_ids(self._path, self._tokenizer)
        except (OSError, ValueError) as error:
            raise EngineError(f"cannot read the tokenizer in {self._path!r}: {error}", code="bad_model") from error
        if self._server.tokens is Tokens.IDS:
            self._vocabulary = HuggingFaceVocabulary(self._tokenizer, self._profile, ends)

    def _prepare(self, request: GenerationRequest) -> MakeDriver:
        prompt = None
        if self._tokenizer is not None:
            prompt = encode_chat(self._tokenizer, request.messages, self._profile)
        make = self._with_ids if self._server.tokens is Tokens.IDS else self._with_text
        return partial(make, request, prompt)

    def _check(self, request: GenerationRequest) -> None:
        if self._client is None:
            raise EngineError("the engine is not running", code="unavailable")
        if (reason := self.refusal(request)) is not None:
            raise EngineError(reason, code="unsupported", invalid_request=True)
        if request.passthrough is not None:
            return
        if not request.messages or any(not isinstance(m.get("content"), str) for m in request.messages):
            raise EngineError("messages must have a text as content", code="invalid_messages", invalid_request=True)

    def _with_ids(self, request: GenerationRequest, prompt: list[int] | None, emit: Emit) -> Driver:
        client, vocabulary = self._client, self._vocabulary
        if client is None or vocabulary is None or prompt is None:
            raise EngineError("the engine was shut down", code="unavailable")
        decoder = TokenDecoder(client, self._server, request, vocabulary, self._profile)
        return self._driver(request, prompt, vocabulary, decoder, emit)

    def _with_text(self, request: GenerationRequest, prompt: list[int] | None, emit: Emit) -> Driver:
        client = self._client
        if client is None:
            raise EngineError("the engine was shut down", code="unavailable")
        vocabulary = ChunkVocabulary(self._profile, self._count if self._tokenizer is not None else None)
        ids = list(vocabulary.prompt_ids)
        if prompt is not None:
            text = str(self._tokenizer.decode(prompt, skip_special_tokens=False))
            ids = [vocabulary.filler] * (len(prompt) - 1) + [vocabulary.id(text)]
        decoder = TextDecoder(client, self._server, request, vocabulary, self._profile)

        def emit_accounted(event: Delta | Finished) -> None:
            if isinstance(event, Finished):
                result = accounted(
                    event.result,
                    decoder.streams,
                    prompt_known=prompt is not None,
                    closing_known=self._tokenizer is not None or not request.policy.wrap_up,
                )
                event = Finished(result)
            emit(event)

        return self._driver(request, ids, vocabulary, decoder, emit_accounted)

    def _driver(
        self,
        request: GenerationRequest,
        prompt: list[int],
        vocabulary: Vocabulary,
        decoder: TokenDecoder | TextDecoder,
        emit: Emit,
    ) -> Driver:
        native = way(self._server, request.policy) is Way.NATIVE
        return Driver(request, prompt, vocabulary, self._profile, decoder, emit, in_place=native)

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))


def _end_ids(path: str, tokenizer: Any) -> frozenset[int]:
    """End tokens by the model's configuration, where the folder has one beside the tokenizer."""
    try:
        ends = read_end_ids(path)
    except (OSError, ValueError):
        ends = frozenset()
    return ends or frozenset({tokenizer.eos_token_id} - {None})
