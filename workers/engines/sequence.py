"""One request while it is decoded: which tokens to feed next, what a sampled token means.

No tensors here: a sequence says what it wants fed (:meth:`Sequence.pending`) and is told what was
sampled (:meth:`Sequence.advance`). The engine's forward pass lies between the two.

A probe is a branch: it shares the cached prefix of its request and writes its own few tokens behind
it; afterwards they are dropped by going back to the prefix's length, so nothing is decoded twice and
nothing is copied. The request waits for its branch, so that an exit takes effect exactly where it was
decided; the device is not idle meanwhile, because all other requests and branches go on in the batch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from experiments.grading import extract_answer
from experiments.policies import Exit, ExitReason, Observation, PolicyRun, Step, TrialAnswer
from workers.engines.base import (
    Delta,
    DeltaKind,
    EngineError,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    ThinkingProfile,
    TokenCounts,
)
from workers.engines.vocabulary import Vocabulary

# Tokens of a recorded thought that one forward pass takes.
MAX_FED_AT_ONCE = 512


class _Stage(Enum):
    OPENING = "opening"  # waiting for the model to open its thinking
    THINKING = "thinking"
    ANSWERING = "answering"


@dataclass(slots=True)
class _Branch:
    """A trial answer under way."""

    pending: list[int]
    fed: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Sequence:
    """The state of one request.

    Attributes:
        cached: how many of the request's own tokens have keys and values in the cache.
        finish: how decoding ended, or None while it goes on.
        deltas: text to stream since the last look; the engine empties it.
    """

    def __init__(
        self, request: GenerationRequest, prompt: list[int], vocabulary: Vocabulary, profile: ThinkingProfile
    ) -> None:
        self.request = request
        self.cached = 0
        self.finish: FinishReason | None = None
        self.deltas: list[Delta] = []
        self.queued_seconds = 0.0
        self._vocabulary = vocabulary
        self._profile = profile
        self._tokens = list(prompt)
        self._prompt_length = len(prompt)
        self._stage = _Stage.THINKING if profile.template_opens_thinking else _Stage.OPENING
        self._run = PolicyRun(request.policy)
        self._branch: _Branch | None = None
        self._probe_due = False
        self._held: int | None = None
        self._forced = deque(_forced_tokens(request, vocabulary, profile))
        self._fed = 0
        self._thinking = self._answer = self._probe = self._overrun = 0
        self._exit: Exit | None = None
        self._applied_step: int | None = None
        self._text_stream = vocabulary.text_stream()
        self._unrendered: list[int] = []
        self._thinking_text = ""
        self._answer_text = ""

    # -- what the engine asks -------------------------------------------------------------------

    def pending(self) -> list[int]:
        """Tokens to feed next, at positions :meth:`position` onwards. Never empty while unfinished."""
        if self._branch is not None:
            return self._branch.pending
        return self._tokens[self.cached :]

    def position(self) -> int:
        """Cache position of the first pending token."""
        return self.cached + (self._branch.fed if self._branch is not None else 0)

    @property
    def greedy(self) -> bool:
        """Whether the next token is taken by argmax (always inside a trial answer)."""
        # While a record is fed, what comes after a token is known: drawing it would only use up the seed.
        return self._branch is not None or bool(self._forced) or self.request.sampling.temperature == 0

    @property
    def wants_logprob(self) -> bool:
        """Whether somebody reads the next token's log-probability."""
        return self._branch is not None

    # -- what the engine tells --------------------------------------------------------------------

    def advance(self, token: int, logprob: float) -> None:
        """Take the token that was sampled after all pending tokens were fed.

        Args:
            token: its id.
            logprob: its natural log-probability (read only when ``wants_logprob``).
        """
        if self._branch is not None:
            self._advance_branch(self._branch, token, logprob)
            return
        self.cached = len(self._tokens)
        if self._probe_due:
            # The token at the probe point is cached only now. What was sampled after it is kept for
            # the case that thinking goes on.
            self._probe_due = False
            opening = [*self._vocabulary.close_ids, *self._vocabulary.suffix_ids]
            if self._room(len(opening) - 1):
                self._held = token
                self._branch = _Branch(pending=opening)
                return
        self._accept(token)

    def cancel(self) -> None:
        """End here; what was decoded counts."""
        self.finish = FinishReason.CANCELLED

    def result(self) -> GenerationResult:
        """How the request went so far."""
        return GenerationResult(
            finish_reason=self.finish or FinishReason.CANCELLED,
            thinking=self._thinking_text,
            text=self._answer_text,
            answer=extract_answer(self._answer_text, self._profile.answer_pattern),
            exit=self._exit,
            applied_step=self._applied_step,
            tokens=TokenCounts(
                prompt=self._prompt_length,
                thinking=self._thinking - self._fed,
                answer=self._answer,
                probe=self._probe,
                overrun=self._overrun,
                forced=self._fed,
            ),
            probes=self._run.probes,
            queued_seconds=self.queued_seconds,
        )

    # -- branches ---------------------------------------------------------------------------------

    def _advance_branch(self, branch: _Branch, token: int, logprob: float) -> None:
        branch.fed += len(branch.pending)
        self._probe += 1
        ended = token in self._vocabulary.end_ids
        if not ended:
            branch.tokens.append(token)
            branch.logprobs.append(logprob)
            branch.pending = [token]
            if len(branch.tokens) < self._profile.max_trial_tokens and self._room(branch.fed):
                return
        self._branch = None
        self._observe(branch, complete=ended)

    def _observe(self, branch: _Branch, *, complete: bool) -> None:
        # The pattern may need the suffix, but a suffix with nothing after it is no answer.
        said = self._vocabulary.decode(branch.tokens).strip()
        text = self._vocabulary.decode(self._vocabulary.suffix_ids + tuple(branch.tokens)) if said else ""
        trial = TrialAnswer(
            text=extract_answer(text, self._profile.answer_pattern),
            token_logprobs=tuple(branch.logprobs),
            complete=complete,
        )
        decision = self._run.observe(Observation(self._thinking, trial))
        held, self._held = self._held, None
        if decision is not None:
            self._force_close(decision)
        elif held is not None:
            self._accept(held)

    # -- the request's own tokens -------------------------------------------------------------------

    def _accept(self, token: int) -> None:
        if self._stage is _Stage.ANSWERING:
            self._forced.clear()  # the policy left before the record ended
        if not self._forced:
            self._take(token)
            return
        # What was sampled after the last token does not count: the record says what came. Everything up to the next
        # probe is fed in one forward pass, as far as the others in the batch can be made to wait for it.
        end = self._fed + MAX_FED_AT_ONCE
        while self._may_feed(end):
            self._fed += 1
            self._take(self._forced.popleft())

    def _may_feed(self, end: int) -> bool:
        thinks = self._stage is not _Stage.ANSWERING and self.finish is None
        return bool(self._forced) and thinks and not self._probe_due and self._fed < end

    def _take(self, token: int) -> None:
        self._tokens.append(token)
        if self._stage is _Stage.ANSWERING:
            self._accept_answer(token)
        elif self._stage is _Stage.THINKING:
            self._accept_thinking(token)
        else:
            self._accept_opening(token)
        if self.finish is None and self._is_too_long():
            self._finish(FinishReason.LENGTH)

    def _accept_opening(self, token: int) -> None:
        self._thinking += 1
        self._unrendered.append(token)
        if token in self._vocabulary.end_ids:
            self._begin_answer_unopened()
        elif self._ends_with(self._vocabulary.open_ids):
            self._unrendered = []
            self._stage = _Stage.THINKING
        else:
            seen = self._vocabulary.decode(self._unrendered).lstrip()
            if not self._profile.think_open.startswith(seen):
                self._begin_answer_unopened()

    def _begin_answer_unopened(self) -> None:
        """The model answers without thinking: all it wrote so far is answer."""
        self._stage = _Stage.ANSWERING
        self._thinking = 0
        tokens, self._unrendered = self._unrendered, []
        for token in tokens:
            self._accept_answer(token)

    def _accept_thinking(self, token: int) -> None:
        self._thinking += 1
        if token in self._vocabulary.end_ids:
            self._finish(FinishReason.STOP)
            return
        if self._ends_with(self._vocabulary.close_ids):
            self._unrendered = []
            self._end_thinking(Exit(ExitReason.END_OF_THINKING, self._thinking), self._thinking)
            return
        self._unrendered.append(token)
        rendered = len(self._thinking_text)
        self._render_thinking()
        step = self._run.after_token(self._thinking, self._at_boundary(rendered))
        if isinstance(step, Exit):
            self._force_close(step)
        else:
            self._probe_due = step is Step.PROBE

    def _accept_answer(self, token: int) -> None:
        self._answer += 1
        if token in self._vocabulary.end_ids:
            self._finish(FinishReason.STOP)
            return
        self._emit(DeltaKind.ANSWER, self._text_stream.push(token))

    def _force_close(self, decision: Exit) -> None:
        if self._is_too_long(len(self._vocabulary.close_ids) - 1):
            self._finish(FinishReason.LENGTH)  # the request's own limit leaves no room for the end tag
            return
        self._flush_thinking()
        self._tokens.extend(self._vocabulary.close_ids)
        self._overrun += len(self._vocabulary.close_ids)
        self._end_thinking(decision, self._thinking)
        if self._is_too_long():
            self._finish(FinishReason.LENGTH)

    def _end_thinking(self, decision: Exit, applied_step: int) -> None:
        self._exit = decision
        self._applied_step = applied_step
        self._stage = _Stage.ANSWERING
        self._text_stream = self._vocabulary.text_stream()

    def _finish(self, reason: FinishReason) -> None:
        if self._stage is not _Stage.ANSWERING:
            self._flush_thinking()
            ended = ExitReason.LENGTH if reason is FinishReason.LENGTH else ExitReason.END_OF_THINKING
            self._exit = Exit(ended, self._thinking, "decoding ended inside the think phase")
            self._applied_step = self._thinking
        self._probe_due = False
        self.finish = reason

    # -- text and limits ----------------------------------------------------------------------------

    def _ends_with(self, ids: tuple[int, ...]) -> bool:
        return len(self._tokens) - self._prompt_length >= len(ids) and tuple(self._tokens[-len(ids) :]) == ids

    def _render_thinking(self) -> None:
        """Render all but the tokens that may turn out to be the beginning of the end-of-thinking tag."""
        close = self._vocabulary.close_ids
        keep = next(
            (n for n in range(min(len(close) - 1, len(self._unrendered)), 0, -1)
             if tuple(self._unrendered[-n:]) == close[:n]),
            0,
        )  # fmt: skip
        ready = self._unrendered[: len(self._unrendered) - keep]
        self._unrendered = self._unrendered[len(ready) :]
        for token in ready:
            self._emit(DeltaKind.THINKING, self._text_stream.push(token))

    def _flush_thinking(self) -> None:
        for token in self._unrendered:
            self._emit(DeltaKind.THINKING, self._text_stream.push(token))
        self._unrendered = []

    def _emit(self, kind: DeltaKind, text: str) -> None:
        if not text:
            return
        if kind is DeltaKind.THINKING:
            self._thinking_text += text
        else:
            self._answer_text += text
        if self.request.stream:
            self.deltas.append(Delta(kind, text))

    def _at_boundary(self, rendered: int) -> bool:
        """Whether the last token ends a step; ``rendered`` is the length of the thinking text before it."""
        boundary = self._profile.step_boundary
        if not boundary:
            return True
        # A token whose text is still held back stands behind the boundary that the text ends with.
        is_shown = len(self._thinking_text) > rendered and not self._unrendered
        return is_shown and self._thinking_text.endswith(boundary)

    def _room(self, extra: int) -> bool:
        return self.cached + extra < self._profile.max_context_tokens

    def _is_too_long(self, ahead: int = 0) -> bool:
        """Whether a limit is reached, once ``ahead`` more tokens have come."""
        limit = self.request.sampling.max_tokens
        length = len(self._tokens) + ahead
        return (limit is not None and length - self._prompt_length >= limit) or (
            length >= self._profile.max_context_tokens
        )


def _forced_tokens(request: GenerationRequest, vocabulary: Vocabulary, profile: ThinkingProfile) -> list[int]:
    """The tokens of a recorded think phase, with its tags as far as the model writes them.

    Raises:
        EngineError: the text does not come back from its tokens, so they can't be those that were decoded.
    """
    if not request.forced_thinking and not request.forced_end:
        return []
    thinking = vocabulary.encode(request.forced_thinking)
    stream = vocabulary.text_stream()
    if "".join(stream.push(token) for token in thinking) != request.forced_thinking:
        raise EngineError(
            "forced_thinking does not come back from its tokens", code="invalid_forced_thinking", invalid_request=True
        )
    opening = () if profile.template_opens_thinking else vocabulary.open_ids
    return [*opening, *thinking, *(vocabulary.close_ids if request.forced_end else ())]
