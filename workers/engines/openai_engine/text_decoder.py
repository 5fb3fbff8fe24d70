"""A server that sends text, as a driver sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from experiments.remote_server import Continues, RemoteServer, Usage
from workers.engines.base import EngineError, GenerationRequest, ThinkingProfile
from workers.engines.driver import Ask, Notes, Piece
from workers.engines.openai_engine.accounting import Streamed
from workers.engines.openai_engine.bodies import cached_tokens, finish_of, native_fields, sampling_fields
from workers.engines.openai_engine.chunks import Chunker, ChunkVocabulary
from workers.engines.openai_engine.client import Client


class TextDecoder:
    """Decodes one request on a server.

    Args:
        client: of the server.
        server: its description.
        request: the request.
        vocabulary: of this request.
        profile: how the model thinks.

    Attributes:
        streams: what was streamed, in the order in which it was asked for.
    """

    def __init__(
        self,
        client: Client,
        server: RemoteServer,
        request: GenerationRequest,
        vocabulary: ChunkVocabulary,
        profile: ThinkingProfile,
    ) -> None:
        self.streams: list[Streamed] = []
        self._client = client
        self._server = server
        self._request = request
        self._vocabulary = vocabulary
        self._profile = profile

    async def decode(self, ask: Ask) -> AsyncIterator[Piece]:
        streamed = Streamed(branch=ask.branch)
        self.streams.append(streamed)
        parts = _Parts(self._server, self._vocabulary, self._profile, ask, streamed)
        last: Piece | None = None
        cached: int | None = None
        path, body = self._body(ask)
        async with aclosing(self._client.events(path, body)) as events:
            async for event in events:
                cached = cached_tokens(event, cached)
                for choice in event["choices"][:1]:
                    piece = parts.piece(choice, event.get("usage") or {})
                    if finish_of(choice) is not None:
                        last = piece
                    elif piece.tokens:
                        yield piece
                streamed.hear(event.get("usage") or {})
        streamed.ended = True
        if last is not None:
            yield replace(last, cached=cached)

    async def end_thinking(self, key: str) -> None:
        raise AssertionError("a server cannot be told to end a request's thinking")

    async def notes(self, key: str) -> Notes:
        return Notes()

    def _body(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        """Path and body of the request."""
        body: dict[str, Any] = {
            **sampling_fields(ask, self._request.extra_sampling),
            "model": self._server.model,
            "stream": True,
            **native_fields(self._server, ask.plan),
        }
        if self._server.usage is not Usage.NONE:
            body["stream_options"] = {"include_usage": True}
            if self._server.usage is Usage.CHUNKS:
                body["stream_options"]["continuous_usage_stats"] = True
        # Besides the confidence of trial answers they tell which tokens a piece of text has: a server that is read too
        # slowly sends several at once.
        logprobs = self._server.logprobs
        if self._server.continues is Continues.COMPLETIONS:
            # The tags may be special tokens.
            body |= {"prompt": self._vocabulary.text(ask.prompt), "skip_special_tokens": False}
            return "/completions", body | {"max_tokens": ask.max_tokens} | ({"logprobs": 1} if logprobs else {})
        body["messages"] = list(self._request.messages)
        if logprobs:
            body |= {"logprobs": True}
        if ask.branch or self._request.sampling.max_tokens is not None:
            body[self._server.max_tokens_field] = ask.max_tokens
        text = self._vocabulary.text(ask.prompt)
        if text:
            opening = self._profile.think_open if self._profile.template_opens_thinking else ""
            body["messages"].append({"role": "assistant", "content": opening + text})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return "/chat/completions", body


class _Parts:
    """Turns the choices of one stream into pieces."""

    def __init__(
        self,
        server: RemoteServer,
        vocabulary: ChunkVocabulary,
        profile: ThinkingProfile,
        ask: Ask,
        streamed: Streamed,
    ) -> None:
        self._vocabulary = vocabulary
        self._ask = ask
        self._streamed = streamed
        self._chat = server.continues is not Continues.COMPLETIONS
        self._fields = self._chat and server.reasoning_fields
        self._opens = self._fields and not profile.template_opens_thinking and len(ask.prompt) == 1
        self._thinks = self._fields and vocabulary.close_ids[0] not in ask.prompt
        self._open, self._close = profile.think_open, profile.think_close
        self._chunker = Chunker(vocabulary, (self._open, self._close))
        self._per_chunk = server.usage is Usage.CHUNKS
        self._seen = 0

    def piece(self, choice: Mapping[str, Any], usage: Mapping[str, Any]) -> Piece:
        """What came with one choice."""
        thought, said = self._texts(choice)
        logprobs = self._logprobs(choice)
        finish = finish_of(choice)
        if thought or said or usage or logprobs or finish:
            tokens = self._tokens(usage, logprobs)
            self._chunker.owe(tokens)
        ids = self._ids(thought, said, self._token_texts(choice, ended=finish == "stop"))
        if finish is not None:
            ids += self._chunker.end(stopped=finish == "stop")
        ids = self._chunker.settle(ids)
        self._streamed.grouped = self._chunker.grouped
        self._streamed.exact = self._streamed.exact and self._chunker.exact
        return Piece(tuple(ids), logprobs if self._ask.branch else (), limited=finish == "length")

    def _ids(self, thought: str, said: str, texts: list[str]) -> list[int]:
        if not self._fields:
            return self._take(said, texts)
        if self._close in texts:  # the server tells this tag among the tokens only
            at = texts.index(self._close)
            of_thought, of_said = texts[:at], texts[at + 1 :]
        else:
            of_thought, of_said = (texts, []) if thought else ([], texts)
        ids: list[int] = []
        if thought and self._thinks:
            if self._opens:
                self._opens = False
                ids += self._chunker.put(self._open)
            ids += self._take(thought, of_thought)
        elif thought:  # behind the end of thinking nothing is a thought, whatever the server takes it for
            ids += self._take(thought, of_thought)
        if said:
            if self._thinks and not self._opens:
                ids += self._chunker.put(self._close)
            self._thinks = self._opens = False
            ids += self._take(said, of_said)
        return ids

    def _take(self, text: str, texts: list[str]) -> list[int]:
        """Ids of a text, one for each of its tokens where they are known."""
        if "".join(texts) != text:
            return self._chunker.take(text)
        return [token for each in texts for token in self._chunker.take(each)]

    def _texts(self, choice: Mapping[str, Any]) -> tuple[str, str]:
        """The thought and the other text of a choice."""
        source = (choice.get("delta") or {}) if self._chat else choice
        thought = source.get("reasoning") or source.get("reasoning_content") or ""
        said = source.get("content" if self._chat else "text") or ""
        if not isinstance(thought, str) or not isinstance(said, str):
            raise EngineError("the model's server sent something else than text", code="upstream_protocol")
        return thought, said

    def _logprobs(self, choice: Mapping[str, Any]) -> tuple[float, ...]:
        told = choice.get("logprobs") or {}
        if self._chat:
            return tuple(float(token["logprob"]) for token in told.get("content") or ())
        return tuple(float(value) for value in told.get("token_logprobs") or ())

    def _token_texts(self, choice: Mapping[str, Any], *, ended: bool) -> list[str]:
        """Texts of the tokens that came, as far as the server tells them; the end of the sequence left out."""
        told = choice.get("logprobs") or {}
        texts = [token.get("token") for token in told.get("content") or ()] if self._chat else told.get("tokens") or []
        if not all(isinstance(text, str) for text in texts):
            return []
        return texts[:-1] if ended else texts

    def _tokens(self, usage: Mapping[str, Any], logprobs: tuple[float, ...]) -> int | None:
        completion = usage.get("completion_tokens")
        if self._per_chunk and isinstance(completion, int):
            before, self._seen = self._seen, completion
            return completion - before
        return len(logprobs) or None
