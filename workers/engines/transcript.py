"""What a request's own tokens mean: where thinking begins and ends, what is shown, what the policy sees.

No engine and no tensors here. An engine hands over the tokens it decoded one by one (:meth:`Transcript.take`) and is
told when to measure and when to end thinking. How it ends thinking is its own affair: it writes the ``closing``
tokens at once, or some tokens later while decoding ran ahead. Either way they come back through ``take``.
"""

from __future__ import annotations

from enum import Enum

from experiments.grading import extract_answer
from experiments.policies import Exit, ExitReason, Observation, PolicyRun, Step
from workers.engines.base import (
    Delta,
    DeltaKind,
    EnforcementFailure,
    EngineError,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    ThinkingProfile,
    TokenCounts,
)
from workers.engines.stopping import StopScanner
from workers.engines.vocabulary import Vocabulary

# An exit that was decided while decoding ran ahead, and that the model's own end of thinking came before, was not
# missed; thinking that went on for longer than this since the decision came was.
MAX_LAG_TOKENS = 64


class Stage(Enum):
    """Where a request is."""

    OPENING = "opening"  # waiting for the model to open its thinking
    THINKING = "thinking"
    ANSWERING = "answering"


class Transcript:
    """One request's own tokens.

    Args:
        request: the request.
        prompt_tokens: length of its prompt.
        vocabulary: the model's.
        profile: how the model thinks.
        decides: whether the policy is asked at each token. A sampler that ends thinking by itself is told of its
            decision afterwards, by :meth:`decide`.

    Attributes:
        tokens: its own tokens, prompt and branches left out.
        stage: where it is.
        finish: how decoding ended, or None while it goes on.
        deltas: text to stream since the last look; the engine empties it.
        decision: the policy's decision to end thinking, once there is one.
        closing: the tokens that end thinking early: wrap-up phrase and end tag.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt_tokens: int,
        vocabulary: Vocabulary,
        profile: ThinkingProfile,
        *,
        decides: bool = True,
    ) -> None:
        self.request = request
        self.tokens: list[int] = []
        self.stage = Stage.THINKING if profile.template_opens_thinking else Stage.OPENING
        self.finish: FinishReason | None = None
        self.deltas: list[Delta] = []
        self.decision: Exit | None = None
        wrap_up = vocabulary.encode(request.policy.wrap_up) if request.policy.wrap_up else []
        self.closing = (*wrap_up, *vocabulary.close_ids)
        self._decides = decides
        self._prompt_tokens = prompt_tokens
        self._vocabulary = vocabulary
        self._profile = profile
        self._run = PolicyRun(request.policy, request.client_cap)
        self._inside = 0  # decoded in the think phase, whatever ended it
        self._answer = self._probe = self._probes = self._prefill = self._fed = 0
        self._prefill_known = True
        self._decided_at = 0  # tokens of the think phase when the decision came; a branch may be late
        self._exit: Exit | None = None
        self._applied_step: int | None = None
        self._closed_by = 0  # tokens that closed the thinking
        self._failures: set[EnforcementFailure] = set()
        self._text_stream = vocabulary.text_stream()
        self._unrendered: list[int] = []
        self._last_rendered: int | None = None
        self._thinking_text = ""
        self._answer_text = ""
        self._stops = StopScanner(request.stop)

    # -- tokens ----------------------------------------------------------------------------------------

    def take(self, token: int, *, fed: bool = False) -> Step | Exit:
        """Take the next own token.

        Args:
            token: its id.
            fed: whether it comes from a record instead of being decoded.

        Returns:
            ``Step.PROBE`` where the policy's signals are to be measured behind this very token, an exit where
            thinking is to end here, else ``Step.GO_ON``.
        """
        self.tokens.append(token)
        self._fed += fed
        step: Step | Exit = Step.GO_ON
        if self.stage is Stage.ANSWERING:
            self._take_answer(token)
        elif self.stage is Stage.THINKING:
            step = self._take_thinking(token)
        else:
            self._take_opening(token)
        if self.finish is None and self._is_too_long():
            self._finish(FinishReason.LENGTH)
            return Step.GO_ON
        return step

    def observe(self, observation: Observation) -> Exit | None:
        """Tell the policy what was measured; the exit if thinking is to end. After a decision nothing is observed."""
        if self.decision is not None:
            return None
        return self._run.observe(observation)

    def foresee(self, observation: Observation) -> Exit | None:
        """What :meth:`observe` would say, with nothing remembered."""
        return self._run.foresee(observation) if self.decision is None else None

    def decide(self, decision: Exit) -> bool:
        """Note that thinking is to end, now or (where decoding ran ahead) as soon as the engine can.

        The ``closing`` tokens are to come next. False: the request's own limit leaves no room for them, and it has
        ended here. Where thinking has ended by itself meanwhile, the decision is its reason.
        """
        if self.stage is Stage.ANSWERING:
            self._adopt(decision)
            return False
        if self.finish is not None:
            return False
        if self._is_too_long(len(self.closing) - 1):
            self._finish(FinishReason.LENGTH)
            return False
        self.decision, self._decided_at = decision, self._inside
        return True

    def add_probe(self, tokens: int) -> None:
        """Count one branch: what it decoded."""
        self._probes += 1
        self._probe += tokens

    def add_prefill(self, tokens: int, *, known: bool = True) -> None:
        """Count what a branch or a continuation computed anew because no cache held it.

        Args:
            tokens: so many, or (where that is not ``known``) at most so many.
            known: whether the cache's share was told.
        """
        self._prefill += tokens
        self._prefill_known &= known

    def limit(self) -> None:
        """End here, at a limit that the request itself does not know."""
        if self.finish is None:
            self._finish(FinishReason.LENGTH)

    def cancel(self) -> None:
        """End here; what was decoded counts."""
        self._emit(DeltaKind.ANSWER, self._stops.release())
        self.finish = FinishReason.CANCELLED

    @property
    def thinking_tokens(self) -> int:
        """Tokens of the think phase so far."""
        return self._inside

    def result(self, queued_seconds: float = 0.0) -> GenerationResult:
        """How the request went so far."""
        answer = extract_answer(self._answer_text, self._profile.answer_pattern)
        thinking = self._inside
        if self.decision is not None:
            thinking = self.decision.decision_step
        return GenerationResult(
            finish_reason=self.finish or FinishReason.CANCELLED,
            thinking=self._thinking_text,
            text=self._answer_text,
            answer=answer,
            exit=self._exit,
            applied_step=self._applied_step,
            tokens=TokenCounts(
                prompt=self._prompt_tokens,
                thinking=thinking - self._fed,
                answer=self._answer,
                probe=self._probe,
                overrun=self._inside - thinking,
                forced=self._fed,
                prefill=self._prefill,
                estimated=() if self._prefill_known else ("prefill",),
            ),
            probes=self._probes,
            queued_seconds=queued_seconds,
            observations=tuple(self._run.observations),
            failures=self._audit(answer),
        )

    # -- stages ----------------------------------------------------------------------------------------

    def _take_opening(self, token: int) -> None:
        self._inside += 1
        self._unrendered.append(token)
        if token in self._vocabulary.end_ids:
            self._begin_answer_unopened()
        elif self._ends_with(self._vocabulary.open_ids):
            self._unrendered = []
            self.stage = Stage.THINKING
        else:
            seen = self._vocabulary.decode(self._unrendered).lstrip()
            if not self._profile.think_open.startswith(seen):
                self._begin_answer_unopened()

    def _begin_answer_unopened(self) -> None:
        """The model answers without thinking: all it wrote so far is answer."""
        self.stage = Stage.ANSWERING
        self._inside = 0
        tokens, self._unrendered = self._unrendered, []
        for token in tokens:
            if self.finish is None:
                self._take_answer(token)

    def _take_thinking(self, token: int) -> Step | Exit:
        self._inside += 1
        if token in self._vocabulary.end_ids:
            self._finish(FinishReason.STOP)
            return Step.GO_ON
        if self._ends_with(self._vocabulary.close_ids):
            self._close()
            return Step.GO_ON
        self._unrendered.append(token)
        rendered = len(self._thinking_text)
        self._render_thinking()
        if self.decision is not None or not self._decides:
            return Step.GO_ON
        return self._run.after_token(self._inside, self._at_boundary(rendered))

    def _take_answer(self, token: int) -> None:
        self._answer += 1
        if token in self._vocabulary.end_ids:
            self._finish(FinishReason.STOP)
            return
        begins = self.decision is not None and self._answer == len(self._vocabulary.close_ids)
        if begins and self._ends_with(self._vocabulary.close_ids):
            self._failures.add(EnforcementFailure.END_FORCED_TWICE)
        self._emit(DeltaKind.ANSWER, self._stops.take(self._text_stream.push(token)))
        if self._stops.found:
            self._finish(FinishReason.STOP)

    def _close(self) -> None:
        self._unrendered = []
        self.stage = Stage.ANSWERING
        self._closed_by = len(self.closing if self._ends_with(self.closing) else self._vocabulary.close_ids)
        self._exit, self._applied_step = Exit(ExitReason.END_OF_THINKING, self._inside), self._inside
        if self.decision is not None:
            self._adopt(self.decision)
        self._text_stream = self._vocabulary.text_stream()

    def _adopt(self, decision: Exit) -> None:
        """Make the decision the reason of the end that has come."""
        if self._exit is None or self._exit.reason is not ExitReason.END_OF_THINKING or self._closed_by == 0:
            return
        self.decision = self._exit = decision
        self._applied_step = max(self._inside - self._closed_by, decision.decision_step)
        if self._applied_step - max(decision.decision_step, self._decided_at) > MAX_LAG_TOKENS:
            self._failures.add(EnforcementFailure.EXIT_MISSED)
        if self._last_rendered is not None and self._cuts(self._last_rendered):
            self._failures.add(EnforcementFailure.CUT_CHARACTER)

    def _finish(self, reason: FinishReason) -> None:
        if self.stage is not Stage.ANSWERING:
            self._flush_thinking()
            ended = ExitReason.LENGTH if reason is FinishReason.LENGTH else ExitReason.END_OF_THINKING
            self._exit = Exit(ended, self._inside, "decoding ended inside the think phase")
            self._applied_step = self._inside
            if self.decision is not None and self._inside - self._decided_at > MAX_LAG_TOKENS:
                self._failures.add(EnforcementFailure.EXIT_MISSED)
            self.decision = None
        self._emit(DeltaKind.ANSWER, self._stops.release())
        self.finish = reason

    # -- audit -----------------------------------------------------------------------------------------

    def _cuts(self, token: int) -> bool:
        """Whether a token whose text never came stands for the first bytes of a character."""
        return self._vocabulary.decode([token]).endswith("\N{REPLACEMENT CHARACTER}")

    def _audit(self, answer: str) -> tuple[EnforcementFailure, ...]:
        failures = set(self._failures)
        stopped = self.finish is FinishReason.STOP and not self._stops.found
        if self.decision is not None and stopped and not answer:
            failures.add(EnforcementFailure.EMPTY_ANSWER)
        return tuple(sorted(failures))

    # -- text and limits -------------------------------------------------------------------------------

    def _ends_with(self, ids: tuple[int, ...]) -> bool:
        return len(self.tokens) >= len(ids) and tuple(self.tokens[-len(ids) :]) == ids

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
            self._show_thinking(token)

    def _flush_thinking(self) -> None:
        for token in self._unrendered:
            self._show_thinking(token)
        self._unrendered = []

    def _show_thinking(self, token: int) -> None:
        text = self._text_stream.push(token)
        self._last_rendered = None if text else token
        self._emit(DeltaKind.THINKING, text)

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

    def _is_too_long(self, ahead: int = 0) -> bool:
        """Whether a limit is reached, once ``ahead`` more tokens have come."""
        limit = self.request.sampling.max_tokens
        own = len(self.tokens) + ahead
        return (limit is not None and own >= limit) or self._prompt_tokens + own >= self._profile.max_context_tokens


def recorded_tokens(request: GenerationRequest, vocabulary: Vocabulary, profile: ThinkingProfile) -> list[int]:
    """The tokens of a recorded think phase, with its tags as far as the model writes them.

    Raises:
        EngineError: the text does not come back from its tokens, so they can't be those that were decoded.
    """
    if not request.has_record:
        return []
    thinking = vocabulary.encode(request.forced_thinking)
    stream = vocabulary.text_stream()
    if "".join(stream.push(token) for token in thinking) != request.forced_thinking:
        raise EngineError(
            "forced_thinking does not come back from its tokens", code="invalid_forced_thinking", invalid_request=True
        )
    opening = () if profile.template_opens_thinking else vocabulary.open_ids
    return [*opening, *thinking, *(vocabulary.close_ids if request.forced_end else ())]
