"""The transformers engine: continuous batching of any causal language model, on CPU or CUDA."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from workers.engines.base import Delta, EngineError, Finished, GenerationRequest, ThinkingProfile
from workers.engines.batch import Batch
from workers.engines.sequence import Sequence
from workers.engines.vocabulary import HuggingFaceVocabulary

logger = logging.getLogger(__name__)

# Engines of one process share its device: one step at a time, or their threads fight over the cores.
_device_lock = threading.Lock()

_Event = Delta | Finished | EngineError


@dataclass(slots=True)
class _Client:
    """The consumer of one request's events."""

    loop: asyncio.AbstractEventLoop
    sequence: Sequence
    submitted: float
    events: asyncio.Queue[_Event] = field(default_factory=asyncio.Queue)


class TransformersEngine:
    """Serves one checkpoint from a thread of its own.

    Args:
        path: folder (or name) that ``AutoModelForCausalLM.from_pretrained`` loads.
        profile: how the model thinks.
        max_concurrency: sequences decoded at once.
        dtype: torch dtype by name; "auto" takes the checkpoint's.
        device: torch device by name; None takes CUDA where there is one.
        threads: threads of one CPU operation; None: as torch chooses. More threads than idle cores slow
            decoding down many times over, because they wait for each other at every operation.
    """

    def __init__(
        self,
        path: str,
        profile: ThinkingProfile,
        *,
        max_concurrency: int = 64,
        dtype: str = "float32",
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, got {max_concurrency}")
        self._path = path
        self._profile = profile
        self._max_concurrency = max_concurrency
        self._dtype = dtype
        self._device = device
        self._threads = threads
        self._wake = threading.Condition()
        self._arrived: list[_Client] = []
        self._clients: dict[str, _Client] = {}
        self._cancelled: set[str] = set()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._tokenizer: Any = None
        self._vocabulary: HuggingFaceVocabulary | None = None
        self._batch: Batch | None = None

    @property
    def max_concurrency(self) -> int:
        return self._max_concurrency

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    async def start(self) -> None:
        """Load the weights and start decoding. Raises EngineError when they cannot be served."""
        await asyncio.to_thread(self._load)
        self._thread = threading.Thread(target=self._decode, name="curtail-engine", daemon=True)
        self._thread.start()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta | Finished]:
        sequence = self._sequence(request)
        client = _Client(asyncio.get_running_loop(), sequence, time.monotonic())
        with self._wake:
            if self._closing or self._thread is None:
                raise EngineError("the engine is shutting down", code="unavailable")
            if request.id in self._clients:
                raise EngineError(f"request {request.id} is already being decoded", code="duplicate_request")
            self._clients[request.id] = client
            self._arrived.append(client)
            self._wake.notify()
        try:
            while True:
                event = await client.events.get()
                if isinstance(event, EngineError):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            # An iterator may be closed long after its end: by then its id may be another request's.
            if self._clients.get(request.id) is client:
                self.cancel(request.id)

    def cancel(self, request_id: str) -> None:
        with self._wake:
            if request_id in self._clients:
                self._cancelled.add(request_id)
                self._wake.notify()

    async def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # -- loading -------------------------------------------------------------------------------------

    def _load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._path)
            model: Any = AutoModelForCausalLM.from_pretrained(self._path, dtype=self._dtype, attn_implementation="sdpa")
        except (OSError, ValueError) as error:
            raise EngineError(f"cannot load checkpoint {self._path!r}: {error}", code="bad_model") from error
        kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise EngineError(
                f"checkpoint {self._path!r} has layers of kind {', '.join(sorted(kinds))}; "
                "this engine serves full_attention only",
                code="bad_model",
            )
        self._vocabulary = HuggingFaceVocabulary(self._tokenizer, self._profile, _end_ids(model))
        self._batch = Batch(model.to(device).eval(), self._max_concurrency)

    def _sequence(self, request: GenerationRequest) -> Sequence:
        if self._vocabulary is None:
            raise EngineError("the engine has not been started", code="unavailable")
        try:
            prompt = self._tokenizer.apply_chat_template(
                list(request.messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # templates raise what they like
            raise EngineError(
                f"the model's chat template refuses these messages: {error}",
                code="invalid_messages",
                invalid_request=True,
            ) from error
        limit = self._profile.max_context_tokens
        if len(prompt) >= limit:
            raise EngineError(
                f"messages have {len(prompt)} tokens, the model's context holds {limit}",
                code="context_length_exceeded",
                invalid_request=True,
            )
        return Sequence(request, list(prompt), self._vocabulary, self._profile)

    # -- the decoding thread -----------------------------------------------------------------------------

    def _decode(self) -> None:
        import torch

        batch = self._batch
        assert batch is not None
        if self._threads is not None:
            torch.set_num_threads(self._threads)  # holds for the thread that decodes: this one
        while self._collect(batch):
            try:
                with _device_lock:
                    advanced = batch.step(self._note_start)
            except Exception as error:
                logger.exception("a decoding step failed; its %d requests end with an error", len(batch.running))
                self._fail(batch.drop_all(), EngineError(f"decoding failed: {error}"))
                continue
            self._deliver(advanced)
        self._fail(batch.drop_all(), EngineError("the engine was shut down", code="unavailable"))

    def _collect(self, batch: Batch) -> bool:
        """Take in arrivals and cancellations; sleep while there is nothing to do. False: time to end."""
        with self._wake:
            while not (self._closing or self._arrived or self._cancelled or batch.busy):
                self._wake.wait()
            for client in self._arrived:
                batch.add(client.sequence)
            self._arrived.clear()
            ended = [self._clients[i] for i in self._cancelled if i in self._clients]
            self._cancelled.clear()
            for client in ended:
                client.sequence.cancel()
            closing = self._closing
        self._deliver([client.sequence for client in ended])
        return not closing

    def _note_start(self, sequence: Sequence) -> None:
        sequence.queued_seconds = time.monotonic() - self._clients[sequence.request.id].submitted

    def _deliver(self, sequences: list[Sequence]) -> None:
        """Hand over new text and results: one call into each event loop, however many requests."""
        outbox: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[_Event], _Event]]] = {}
        for sequence in sequences:
            client = self._clients.get(sequence.request.id)
            if client is None:
                continue
            events: list[_Event] = [*sequence.take_deltas()]
            if sequence.finish is not None:
                events.append(Finished(sequence.result()))
                self._forget(sequence.request.id)
            if events:
                outbox.setdefault(client.loop, []).extend((client.events, event) for event in events)
        for loop, items in outbox.items():
            _post(loop, items)

    def _fail(self, sequences: list[Sequence], error: EngineError) -> None:
        with self._wake:
            arrived = [client.sequence for client in self._arrived] if self._closing else []
        for sequence in (*sequences, *arrived):
            client = self._clients.get(sequence.request.id)
            if client is not None:
                self._forget(sequence.request.id)
                _post(client.loop, [(client.events, error)])

    def _forget(self, request_id: str) -> None:
        with self._wake:
            self._clients.pop(request_id, None)
            self._cancelled.discard(request_id)


def _post(loop: asyncio.AbstractEventLoop, items: list[tuple[asyncio.Queue[_Event], _Event]]) -> None:
    def put() -> None:
        for queue, event in items:
            queue.put_nowait(event)

    try:
        loop.call_soon_threadsafe(put)
    except RuntimeError:  # the loop has been closed: nobody is waiting any more
        logger.debug("a consumer's event loop is closed; %d events dropped", len(items))


def _end_ids(model: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    if configured is None:
        return frozenset()
    return frozenset([configured] if isinstance(configured, int) else configured)
