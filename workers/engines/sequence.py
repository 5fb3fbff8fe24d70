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

from experiments.grading import extract_answer
from experiments.policies import Exit, Observation, Policy, Signal, Step, TrialAnswer
from workers.engines.base import (
    Delta,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    ThinkingProfile,
)
from workers.engines.transcript import Stage, Transcript, recorded_tokens
from workers.engines.vocabulary import Vocabulary

# Tokens of a recorded thought that one forward pass takes.
MAX_FED_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a sequence wants to know of the distribution of its next token.

    Attributes:
        logprob: log-probability of the likeliest token.
        margin_to: log p(likeliest) - log p(this token), or None.
        entropy: the entropy.
    """

    logprob: bool = False
    margin_to: int | None = None
    entropy: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """The values of what was wanted, in nats; others are None."""

    logprob: float | None = None
    margin: float | None = None
    entropy: float | None = None


NOTHING_MEASURED = Measured()


@dataclass(slots=True)
class _Branch:
    """A probe under way."""

    pending: list[int]
    margin: float | None
    fed: int = 0
    decoded: int = 0
    entropy: float | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Sequence:
    """The state of one request.

    Attributes:
        transcript: its own tokens.
        cached: how many of the request's tokens (the prompt's included) have keys and values in the cache.
    """

    def __init__(
        self, request: GenerationRequest, prompt: list[int], vocabulary: Vocabulary, profile: ThinkingProfile
    ) -> None:
        self.request = request
        self.transcript = Transcript(request, len(prompt), vocabulary, profile)
        self.cached = 0
        self.queued_seconds = 0.0
        self._vocabulary = vocabulary
        self._profile = profile
        self._prompt = prompt
        self._signals = request.policy.signals
        self._branch: _Branch | None = None
        self._probe_due = False
        self._held: int | None = None
        self._forced = deque(recorded_tokens(request, vocabulary, profile))

    # -- what the engine asks -------------------------------------------------------------------

    @property
    def finish(self) -> FinishReason | None:
        """How decoding ended, or None while it goes on."""
        return self.transcript.finish

    def take_deltas(self) -> list[Delta]:
        """Text to stream since the last look."""
        deltas, self.transcript.deltas = self.transcript.deltas, []
        return deltas

    def pending(self) -> list[int]:
        """Tokens to feed next, at positions :meth:`position` onwards. Never empty while unfinished."""
        if self._branch is not None:
            return self._branch.pending
        own = self.cached - len(self._prompt)
        return self.transcript.tokens[own:] if own >= 0 else [*self._prompt[self.cached :], *self.transcript.tokens]

    def position(self) -> int:
        """Cache position of the first pending token."""
        return self.cached + (self._branch.fed if self._branch is not None else 0)

    @property
    def greedy(self) -> bool:
        """Whether the next token is taken by argmax (always inside a trial answer)."""
        # While a record is fed, what comes after a token is known: drawing it would only use up the seed.
        return self._branch is not None or bool(self._forced) or self.request.sampling.temperature == 0

    @property
    def wanted(self) -> Wanted | None:
        """What is read of the next token's distribution; None: nothing."""
        if self._branch is not None:
            first = not self._branch.decoded
            return Wanted(logprob=True, entropy=first and Signal.END_ENTROPY in self._signals)
        if self._probe_due and Signal.END_MARGIN in self._signals:
            return Wanted(margin_to=self._vocabulary.close_ids[0])
        return None

    # -- what the engine tells --------------------------------------------------------------------

    def advance(self, token: int, measured: Measured = NOTHING_MEASURED) -> None:
        """Take the token that was sampled after all pending tokens were fed.

        Args:
            token: its id.
            measured: what was ``wanted``.
        """
        if self._branch is not None:
            self._advance_branch(self._branch, token, measured)
            return
        self.cached = len(self._prompt) + len(self.transcript.tokens)
        if self._probe_due:
            # The token at the probe point is cached only now. What was sampled after it is kept for
            # the case that thinking goes on.
            self._probe_due = False
            self._held = token
            opening = [*self._vocabulary.close_ids, *self._vocabulary.suffix_ids]
            if not self.request.policy.needs_branch:
                self._observe(Observation(self.transcript.thinking_tokens, end_margin=measured.margin))
            elif self._room(len(opening) - 1):
                self._branch = _Branch(opening, measured.margin)
            else:
                self._resume()
            return
        self._accept(token)

    def cancel(self) -> None:
        """End here; what was decoded counts, a branch under way included."""
        if self._branch is not None:
            self._end_branch(self._branch)
        self.transcript.cancel()

    def result(self) -> GenerationResult:
        """How the request went so far."""
        return self.transcript.result(self.queued_seconds)

    # -- branches ---------------------------------------------------------------------------------

    def _advance_branch(self, branch: _Branch, token: int, measured: Measured) -> None:
        branch.fed += len(branch.pending)
        branch.decoded += 1
        if branch.decoded == 1:
            branch.entropy = measured.entropy
        ended = token in self._vocabulary.end_ids
        if not ended:
            branch.tokens.append(token)
            branch.logprobs.append(measured.logprob or 0.0)
            branch.pending = [token]
            limit = trial_limit(self.request.policy, self._profile)
            if len(branch.tokens) < limit and self._room(branch.fed):
                return
        self._end_branch(branch)
        trial = None
        if reads_trials(self.request.policy):
            trial = trial_answer(branch.tokens, branch.logprobs, ended, self._vocabulary, self._profile)
        self._observe(Observation(self.transcript.thinking_tokens, trial, branch.entropy, branch.margin))

    def _end_branch(self, branch: _Branch) -> None:
        self.transcript.add_probe(branch.decoded)
        self._branch = None

    def _observe(self, observation: Observation) -> None:
        decision = self.transcript.observe(observation)
        if decision is None:
            self._resume()
        else:
            self._held = None
            self._force_close(decision)

    def _resume(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._accept(held)

    # -- the request's own tokens -------------------------------------------------------------------

    def _accept(self, token: int) -> None:
        if self.transcript.stage is Stage.ANSWERING:
            self._forced.clear()  # the policy left before the record ended
        if not self._forced:
            self._take(token, fed=False)
            return
        # What was sampled after the last token does not count: the record says what came. Everything up to the next
        # probe is fed in one forward pass, as far as the others in the batch can be made to wait for it.
        for _ in range(MAX_FED_AT_ONCE):
            self._take(self._forced.popleft(), fed=True)
            if not self._may_feed():
                break

    def _may_feed(self) -> bool:
        thinks = self.transcript.stage is not Stage.ANSWERING and self.finish is None
        return bool(self._forced) and thinks and not self._probe_due

    def _take(self, token: int, *, fed: bool) -> None:
        step = self.transcript.take(token, fed=fed)
        if isinstance(step, Exit):
            self._force_close(step)
        else:
            self._probe_due = step is Step.PROBE

    def _force_close(self, decision: Exit) -> None:
        if self.transcript.decide(decision):
            for token in self.transcript.closing:
                self.transcript.take(token)

    def _room(self, extra: int) -> bool:
        return self.cached + extra < self._profile.max_context_tokens


def reads_trials(policy: Policy) -> bool:
    """Whether the policy reads trial answers or their confidence."""
    return bool(policy.signals & {Signal.TRIAL_ANSWER, Signal.TRIAL_CONFIDENCE})


def trial_limit(policy: Policy, profile: ThinkingProfile) -> int:
    """The most tokens that one of its branches decodes: one is enough for the entropy of the first."""
    return profile.max_trial_tokens if reads_trials(policy) else 1


def trial_answer(
    tokens: list[int], logprobs: list[float], ended: bool, vocabulary: Vocabulary, profile: ThinkingProfile
) -> TrialAnswer:
    """The trial answer that a branch decoded.

    Args:
        tokens: what it decoded, end token left out.
        logprobs: their log-probabilities, natural.
        ended: whether the model ended it.
        vocabulary: the model's.
        profile: how the model thinks.
    """
    # The pattern may need the suffix, but a suffix with nothing after it is no answer.
    said = vocabulary.decode(tokens).strip()
    text = vocabulary.decode((*vocabulary.suffix_ids, *tokens)) if said else ""
    return TrialAnswer(extract_answer(text, profile.answer_pattern), tuple(logprobs), ended)
