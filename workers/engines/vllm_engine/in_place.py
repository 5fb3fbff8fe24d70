"""Ending the thinking of a running request from within the sampler: nothing is aborted, no cache is lost.

A control per request says, step by step, whether the next token is forced, and which. It sleeps until something can
happen: a budget costs one comparison a step until it is reached. Both of vLLM's logits-processor interfaces are thin
shells over :func:`apply`.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from experiments.policies import Exit, Observation, PolicyRun, Step
from workers.engines.base import GenerationRequest, ThinkingProfile
from workers.engines.transcript import Stage, Transcript
from workers.engines.vllm_engine.plan import Plan
from workers.engines.vocabulary import Vocabulary

NEVER = sys.maxsize
# Requests that are remembered though nobody asked for what was read in them.
MAX_REMEMBERED = 65_536


class Control:
    """One request inside the sampler.

    Args:
        plan: what it was told.
        vocabulary: of the model.

    Attributes:
        wake_at: own tokens from which it wants to be asked again.
        readings: what was read, as (thinking tokens, value in nats).
        decision: the exit that it decided, if it has.
    """

    def __init__(self, plan: Plan, vocabulary: Vocabulary) -> None:
        self.plan = plan
        self.readings: list[tuple[int, float]] = []
        self.decision: Exit | None = None
        self._vocabulary = vocabulary
        self._seen = 0
        self._forced_from: int | None = None
        self._told = False
        self._ended = False
        wrap_up = plan.policy.wrap_up
        self._closing = (*(vocabulary.encode(wrap_up) if wrap_up else ()), *vocabulary.close_ids)
        self._tail: list[int] = []
        self._wants_reading = plan.entropy
        self._transcript: Transcript | None = None
        if plan.entropy:
            self.wake_at = 0
        elif plan.policy.signals:
            self._transcript = _transcript(plan, vocabulary)
            self.wake_at = 1
        else:
            asleep = PolicyRun(plan.policy, plan.client_cap).asleep_until
            self._cap = NEVER if asleep is None else asleep
            self.wake_at = self._cap

    @property
    def end_id(self) -> int:
        """The first token of the end of thinking."""
        return self._vocabulary.close_ids[0]

    @property
    def seen(self) -> int:
        """Own tokens that it knows."""
        return self._seen

    @property
    def wants_reading(self) -> bool:
        """Whether the distribution of the next token is to be read."""
        return self._wants_reading

    def tell(self) -> None:
        """End thinking as soon as possible, wherever it is; once it has ended this does nothing."""
        if self._forced_from is None and not self._ended and not self.plan.entropy:
            self._told = True
            self.wake_at = 0

    def see(self, tokens: Sequence[int]) -> None:
        """Take the own tokens since :attr:`seen`."""
        self._seen += len(tokens)
        if self._forced_from is not None or self.plan.entropy:
            return
        if self._transcript is not None:
            self._follow(self._transcript, tokens)
        else:
            self._scan(tokens)

    def read(self, value: float) -> None:
        """Take what was read of the next token's distribution."""
        self._wants_reading = False
        if self._transcript is None:
            self.readings.append((self._seen, value))
            self.wake_at = NEVER
            return
        thinking = self._transcript.thinking_tokens
        self.readings.append((thinking, value))
        decision = self._transcript.observe(Observation(thinking, end_margin=value))
        if decision is not None:
            self._force(decision)

    def forced(self) -> int | None:
        """The token that must come next, or None."""
        if self._forced_from is None:
            return None
        done = self._seen - self._forced_from
        if done >= len(self._closing):
            self.wake_at = NEVER
            return None
        return int(self._closing[done])

    def _force(self, decision: Exit | None = None) -> None:
        self.decision = decision
        self._forced_from = self._seen
        self._wants_reading = False
        self.wake_at = 0

    def _follow(self, transcript: Transcript, tokens: Sequence[int]) -> None:
        step: Step | Exit = Step.GO_ON
        for token in tokens:
            step = transcript.take(token)
        if transcript.stage is Stage.ANSWERING or transcript.finish is not None:
            self._end()
        elif isinstance(step, Exit):
            self._force(step)
        elif self._told:
            self._force()
        else:
            self._wants_reading = step is Step.PROBE

    def _scan(self, tokens: Sequence[int]) -> None:
        """Only whether thinking has ended matters: nothing is decoded."""
        close = list(self._vocabulary.close_ids)
        known = [*self._tail, *tokens]
        if not self.plan.template_opens_thinking and self._seen == len(tokens):
            opened = _position(known, list(self._vocabulary.open_ids))
            if opened is None:
                self._end()  # it answers without thinking
                return
        if _position(known, close) is not None:
            self._end()
        elif self._told or self._seen >= self._cap:
            self._force()
        self._tail = known[-len(close) + 1 :] if len(close) > 1 else []

    def _end(self) -> None:
        """Thinking has ended by itself: nothing is left to do."""
        self._ended = True
        self._wants_reading = False
        self.wake_at = NEVER


def _transcript(plan: Plan, vocabulary: Vocabulary) -> Transcript:
    profile = ThinkingProfile(
        think_open=plan.think_open,
        think_close=plan.think_close,
        template_opens_thinking=plan.template_opens_thinking,
        step_boundary=plan.step_boundary,
        max_context_tokens=NEVER,
    )
    request = GenerationRequest(plan.key, [], plan.policy, client_cap=plan.client_cap)
    return Transcript(request, 0, vocabulary, profile)


def _position(tokens: list[int], part: list[int]) -> int | None:
    """Where ``part`` begins within ``tokens``, by the list's own search; None: nowhere."""
    at = -1
    try:
        while True:
            at = tokens.index(part[0], at + 1)
            if tokens[at : at + len(part)] == part:
                return at
    except ValueError:
        return None


@dataclass(slots=True)
class Controls:
    """The controls of one process by key, for those who tell and ask from outside."""

    by_key: OrderedDict[str, Control] = field(default_factory=OrderedDict)

    def control(self, plan: Plan, vocabulary: Vocabulary) -> Control:
        """A control for a request that joins the batch; the one it had if it was preempted."""
        if not plan.key:
            return Control(plan, vocabulary)
        found = self.by_key.get(plan.key)
        if found is None:
            found = self.by_key[plan.key] = Control(plan, vocabulary)
            if len(self.by_key) > MAX_REMEMBERED:
                self.by_key.popitem(last=False)
        return found

    def tell(self, key: str) -> bool:
        """End the thinking of a request; False: it is not known (here, or any more)."""
        found = self.by_key.get(key)
        if found is not None:
            found.tell()
        return found is not None

    def take(self, key: str) -> Control | None:
        """A request's control, which is forgotten."""
        return self.by_key.pop(key, None)


# One sampler runs in a process; its worker extension speaks to the same controls.
CONTROLS = Controls()


@dataclass(frozen=True, slots=True)
class Row:
    """One request of this step.

    Attributes:
        index: its row of the logits.
        control: its control.
        decoded: own tokens so far.
    """

    index: int
    control: Control
    decoded: int


def apply(logits: torch.Tensor, rows: Sequence[Row], fetch: Callable[[Row, int, int], Sequence[int]]) -> torch.Tensor:
    """Read and force within one step's logits.

    Args:
        logits: float [rows, vocabulary], unscaled; changed in place.
        rows: the requests that have a control.
        fetch: own tokens of a row from one position to another.
    """
    awake = [row for row in rows if row.decoded >= row.control.wake_at]
    for row in awake:
        row.control.see(fetch(row, row.control.seen, row.decoded))
    reading = [row for row in awake if row.control.wants_reading]
    if reading:
        _read(logits, reading)
    forced = [(row.index, token) for row in awake if (token := row.control.forced()) is not None]
    if forced:
        index = torch.tensor([at for at, _ in forced], device=logits.device)
        logits[index] = float("-inf")
        logits[index, torch.tensor([token for _, token in forced], device=logits.device)] = 0.0
    return logits


def _read(logits: torch.Tensor, rows: list[Row]) -> None:
    """Margins and entropies of some rows, in one transfer."""
    index = torch.tensor([row.index for row in rows], device=logits.device)
    logprobs = logits[index].log_softmax(-1, dtype=torch.float32)
    ends = torch.tensor([row.control.end_id for row in rows], device=logits.device)
    margins = logprobs.amax(-1) - logprobs.gather(-1, ends[:, None])[:, 0]
    if any(row.control.plan.entropy for row in rows):
        entropies = torch.special.entr(logprobs.exp()).sum(-1)
        both = torch.stack([margins, entropies], -1).tolist()
    else:
        both = [[margin, 0.0] for margin in margins.tolist()]
    for row, (margin, entropy) in zip(rows, both, strict=True):
        row.control.read(entropy if row.control.plan.entropy else margin)
