"""One request on its way through a decoder with a prefix cache: its own stream, its branches, and its exit.

The decoder is vLLM in this worker or a server elsewhere. Thinking runs ahead of its branches: a trial answer is decoded
beside the request, in the same batch, on the blocks of the prefix cache that the request itself has filled. When an
observation decides, a sampler that can be told (in place) writes the end of thinking, and nothing is prefilled again;
otherwise the stream is left, and decoding goes on from the text so far with the end of thinking behind it. What was
decoded since the probe point is overrun.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from experiments.policies import Exit, Full, Observation, Signal, Step
from workers.engines.base import Delta, Finished, GenerationRequest, ThinkingProfile
from workers.engines.sequence import reads_trials, trial_answer, trial_limit
from workers.engines.transcript import Stage, Transcript, recorded_tokens
from workers.engines.vllm_engine.plan import Plan
from workers.engines.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Ask:
    """What a decoder is asked to decode.

    Attributes:
        id: unique among all that is in flight.
        prompt: token ids.
        temperature, top_p, seed: how tokens are drawn.
        max_tokens: the most it may decode.
        plan: for the sampler; None: it leaves the request alone.
        logprobs: whether the log-probability of each token is wanted.
        branch: whether this is a trial answer rather than the request itself.
    """

    id: str
    prompt: list[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    plan: Plan | None = None
    logprobs: bool = False
    branch: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What was decoded since the last piece.

    Attributes:
        tokens: ids.
        logprobs: natural, of each token; empty unless asked for.
        cached: tokens of the prompt that the prefix cache held; None: not known (yet).
        limited: whether decoding ended here at a limit of the decoder's own.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    cached: int | None = None
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Notes:
    """What the sampler noted of a request.

    Attributes:
        readings: as (own thinking tokens, nats).
        decision: the exit that it decided by itself, if it has.
    """

    readings: tuple[tuple[int, float], ...] = ()
    decision: Exit | None = None


class Decoder(Protocol):
    """What decodes, as a request sees it."""

    def decode(self, ask: Ask) -> AsyncIterator[Piece]:
        """Decode; closing the iterator aborts."""
        ...

    async def end_thinking(self, key: str) -> None:
        """Let the sampler end the thinking of a request."""
        ...

    async def notes(self, key: str) -> Notes:
        """What the sampler noted of a request, which it then forgets."""
        ...


class Driver:
    """Drives one request.

    Args:
        request: the request.
        prompt: its token ids.
        vocabulary: of the model.
        profile: how the model thinks.
        decoder: what decodes.
        emit: takes the events of the request, in order.
        in_place: whether the sampler can end thinking; otherwise the request is aborted and continued.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt: list[int],
        vocabulary: Vocabulary,
        profile: ThinkingProfile,
        decoder: Decoder,
        emit: Callable[[Delta | Finished], None],
        *,
        in_place: bool = True,
    ) -> None:
        self.request = request
        self._sampler_decides = in_place and bool(request.policy.signals) and not request.policy.needs_branch
        self.transcript = Transcript(request, len(prompt), vocabulary, profile, decides=not self._sampler_decides)
        self._prompt = prompt
        self._vocabulary = vocabulary
        self._profile = profile
        self._decoder = decoder
        self._emit = emit
        self._in_place = in_place
        self._branches: deque[asyncio.Task[Observation]] = deque()
        self._all_branches: set[asyncio.Task[Observation]] = set()
        self._telling: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._leaving = False

    async def run(self, queued_seconds: float) -> None:
        """Decode to the end and emit the result."""
        try:
            await self._feed()
            await self._stream()
            # Thinking that ended by itself while a branch was on its way: the branch still says what it saw.
            if self.transcript.stage is Stage.ANSWERING and self.transcript.decision is None:
                await asyncio.gather(*self._branches, return_exceptions=True)
                self._settle()
        finally:
            await self._end_tasks()
        await self._take_notes()
        self._emit(Finished(self.transcript.result(queued_seconds)))

    def cancel(self) -> None:
        """End here; what was decoded counts."""
        if self.transcript.finish is None:
            self.transcript.cancel()
            self._leave()

    # -- the request's own tokens ------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Feed a recorded thought under the policy; each branch is waited for, so that an exit falls where it did."""
        for token in recorded_tokens(self.request, self._vocabulary, self._profile):
            if self.transcript.stage is Stage.ANSWERING or self.transcript.finish is not None:
                break
            step = self.transcript.take(token, fed=True)
            if isinstance(step, Exit):
                self._decide(step, applied=False)
            elif step is Step.PROBE and self.request.policy.needs_branch:
                self._branch()
                await asyncio.gather(*self._branches, return_exceptions=True)
                self._settle()
            if self._leaving:
                self._leaving = False
                self._write_closing()
        self._flush()

    async def _stream(self) -> None:
        part = 0
        while self.transcript.finish is None:
            ask = self._own_ask([*self._prompt, *self.transcript.tokens], part)
            if await self._follow(ask, count_prefill=bool(self.transcript.tokens)):
                return
            # Not in place: the decided exit is written behind what has been decoded, and decoding goes on from there.
            self._write_closing()
            self._flush()
            part += 1

    def _write_closing(self) -> None:
        if self.transcript.finish is None:
            for token in self.transcript.closing:
                self.transcript.take(token)

    async def _follow(self, ask: Ask, *, count_prefill: bool) -> bool:
        """Take the tokens of one stream. False: it was left for an exit that the decoder does not apply itself."""
        self._reader = asyncio.create_task(self._read(ask, count_prefill))
        try:
            await asyncio.wait({self._reader})
        finally:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if not self._reader.cancelled() and (error := self._reader.exception()) is not None:
            raise error
        if self.transcript.finish is not None:
            return True
        if self._leaving:
            self._leaving = False
            return False
        raise RuntimeError(f"decoding of request {self.request.id} stopped before its end")

    async def _read(self, ask: Ask, count_prefill: bool) -> None:
        came, cached = False, None
        try:
            async with aclosing(self._decoder.decode(ask)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    came, cached = True, piece.cached if piece.cached is not None else cached
                    if self._take(piece) or self._leaving:
                        return
        finally:
            if came and count_prefill:
                self._count_prefill(ask, cached)

    def _leave(self) -> None:
        """Stop reading the stream, which aborts it."""
        self._leaving = True
        # The reader itself returns after its piece: cancelled, it could not even abort.
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()

    def _count_prefill(self, ask: Ask, cached: int | None) -> None:
        self.transcript.add_prefill(len(ask.prompt) - (cached or 0), known=cached is not None)

    def _take(self, piece: Piece) -> bool:
        """Take tokens; whether the request has ended."""
        for token in piece.tokens:
            if self.transcript.finish is not None:
                break
            step = self.transcript.take(token)
            if isinstance(step, Exit):
                self._decide(step, applied=self._in_place)
                if not self._in_place and self.transcript.finish is None:
                    break  # what came after it is dropped: nobody has seen it
            elif step is Step.PROBE and self.request.policy.needs_branch:
                self._branch()
        if piece.limited and not self._leaving:
            self.transcript.limit()
        self._flush()
        return self.transcript.finish is not None

    def _own_ask(self, prompt: list[int], part: int) -> Ask:
        sampling = self.request.sampling
        room = self._profile.max_context_tokens - len(prompt)
        done = len(self.transcript.tokens)
        limit = room if sampling.max_tokens is None else min(room, sampling.max_tokens - done)
        plan = self._plan() if part == 0 and self._in_place else None
        return Ask(
            f"{self.request.id}/{part}",
            prompt,
            limit,
            sampling.temperature,
            sampling.top_p,
            sampling.seed,
            plan,
        )

    def _plan(self) -> Plan | None:
        policy = self.request.policy
        acts = policy.signals or policy.max_thinking_tokens is not None or self.request.client_cap is not None
        if not acts:
            return None
        if policy.needs_branch:
            policy = Full(max_thinking_tokens=policy.max_thinking_tokens, wrap_up=policy.wrap_up)
        profile = self._profile
        return Plan(
            policy,
            self.request.id if self.request.policy.signals else "",
            self.request.client_cap,
            profile.think_open,
            profile.think_close,
            profile.template_opens_thinking,
            profile.step_boundary,
        )

    def _decide(self, decision: Exit, *, applied: bool) -> None:
        """Let thinking end.

        Args:
            decision: why and where.
            applied: whether the sampler came to the same decision by itself.
        """
        thinks = self.transcript.stage is not Stage.ANSWERING
        if not self.transcript.decide(decision):
            if thinks and self.transcript.finish is not None:
                self._leave()
            return
        self._drop_branches()
        if not self._in_place:
            self._leave()
        elif not applied:
            self._telling = asyncio.ensure_future(self._decoder.end_thinking(self.request.id))

    def _flush(self) -> None:
        for delta in self.transcript.deltas:
            self._emit(delta)
        self.transcript.deltas = []

    # -- branches ------------------------------------------------------------------------------------------

    def _branch(self) -> None:
        prompt = [
            *self._prompt,
            *self.transcript.tokens,
            *self._vocabulary.close_ids,
            *self._vocabulary.suffix_ids,
        ]
        limit = min(trial_limit(self.request.policy, self._profile), self._profile.max_context_tokens - len(prompt))
        if limit < 1:
            return
        at = self.transcript.thinking_tokens
        task = asyncio.ensure_future(self._probe(f"{self.request.id}/b{at}", prompt, limit, at))
        self._branches.append(task)
        self._all_branches.add(task)
        task.add_done_callback(lambda _: self._settle())

    async def _probe(self, key: str, prompt: list[int], limit: int, at: int) -> Observation:
        """Decode one branch; what it decoded is counted whatever becomes of it."""
        policy = self.request.policy
        entropy = Signal.END_ENTROPY in policy.signals
        ask = Ask(key, prompt, limit, plan=Plan(key=key, entropy=True) if entropy else None, logprobs=True, branch=True)
        tokens: list[int] = []
        logprobs: list[float] = []
        cached: int | None = None
        try:
            async with aclosing(self._decoder.decode(ask)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    tokens += piece.tokens
                    logprobs += piece.logprobs
                    cached = piece.cached if piece.cached is not None else cached
        finally:
            if tokens:  # else it was dropped before it had begun
                self.transcript.add_probe(len(tokens))
                self._count_prefill(ask, cached)
        readings = (await self._decoder.notes(key)).readings if entropy else ()
        ended = bool(tokens) and tokens[-1] in self._vocabulary.end_ids
        trial = None
        if reads_trials(policy):
            own = len(tokens) - ended
            trial = trial_answer(tokens[:own], logprobs[:own], ended, self._vocabulary, self._profile)
        return Observation(at, trial, readings[0][1] if readings else None)

    def _settle(self) -> None:
        """Tell the policy what has been measured, in the order of the probe points."""
        while self._branches and self._branches[0].done():
            task = self._branches.popleft()
            if task.cancelled():
                continue
            if task.exception() is not None:
                continue  # a branch that failed measured nothing; the request goes on
            if self.transcript.finish is not None and self.transcript.stage is not Stage.ANSWERING:
                continue
            decision = self.transcript.observe(task.result())
            if decision is not None:
                self._decide(decision, applied=False)

    def _drop_branches(self) -> None:
        for task in self._branches:
            task.cancel()
        self._branches.clear()

    async def _end_tasks(self) -> None:
        self._drop_branches()
        for task in self._all_branches:
            task.cancel()
        tasks = [*self._all_branches, *([self._telling] if self._telling else [])]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_notes(self) -> None:
        """Fetch what the sampler noted, at least for it to be forgotten there."""
        if not self._in_place or not self.request.policy.signals:
            return
        notes = await self._decoder.notes(self.request.id)
        if self._sampler_decides:
            for thinking, margin in notes.readings:
                self.transcript.observe(Observation(thinking, end_margin=margin))
            if notes.decision is not None:
                self.transcript.decide(notes.decision)
