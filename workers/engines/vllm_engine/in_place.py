"""Ending the thinking of a running request from within the sampler: nothing is aborted, no cache is lost.

A control per request says, step by step, whether the next token is forced, and which. It sleeps until something can
happen: a budget costs one comparison a step until it is reached. Both of vLLM's logits-processor interfaces are thin
shells over :func:`apply`.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)

NEVER = sys.maxsize
# Requests that are remembered though nobody asked for what was read in them.
MAX_REMEMBERED = 65_536


class Control:
    """One request inside the sampler.

    A step may come twice with the same tokens: a prompt that is fed in parts has logits after each part, and what is
    sampled from all but the last is thrown away. So a reading holds only once a token has followed it.

    Args:
        plan: what it was told.
        vocabulary: of the model.

    Attributes:
        wake_at: own tokens from which it wants to be asked again.
        decision: the exit that a policy with a signal decided. Others count tokens, as whoever reads the request does.
    """

    def __init__(self, plan: Plan, vocabulary: Vocabulary) -> None:
        self.plan = plan
        self.decision: Exit | None = None
        self._vocabulary = vocabulary
        self._seen = 0
        self._forced_from: int | None = None
        self._told = False
        self._ended = False
        wrap_up = plan.policy.wrap_up
        self._closing = (*(vocabulary.encode(wrap_up) if wrap_up else ()), *vocabulary.close_ids)
        self._readings: list[tuple[int, float]] = []
        self._last_reading: tuple[int, float] | None = None
        self._wants_reading = plan.entropy
        self._transcript = _transcript(plan, vocabulary) if plan.policy.signals and not plan.entropy else None
        self._tokens: list[int] = []  # kept where no transcript keeps them
        self._opening = None if plan.template_opens_thinking else _transcript(plan, vocabulary)
        self._start = 0 if plan.template_opens_thinking else None  # own tokens before the first thought
        self._cap = NEVER
        if plan.entropy:
            self.wake_at = 0
        elif self._transcript is not None:
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

    @property
    def readings(self) -> list[tuple[int, float]]:
        """What was read, as (thinking tokens, value in nats)."""
        return [*self._readings, *([self._last_reading] if self._last_reading is not None else [])]

    def tell(self) -> None:
        """End thinking as soon as possible, wherever it is; once it has ended this does nothing."""
        if not self._ended and not self.plan.entropy:
            self._told = True
            if self._forced_from is None:
                self.wake_at = 0

    def see(self, tokens: Sequence[int]) -> None:
        """Take the own tokens since :attr:`seen`: usually one; none where a step comes again; more after a sleep."""
        if tokens:
            self._keep_reading()
        self._seen += len(tokens)
        if self._forced_from is not None or self._ended or self.plan.entropy:
            return
        if self._transcript is not None:
            self._follow(self._transcript, tokens)
        else:
            self._scan(tokens)

    def read(self, value: float) -> None:
        """Take what was read of the next token's distribution; it replaces what was read of the same token before."""
        if self._transcript is None:
            self._last_reading = (self._seen, value)
            return
        thinking = self._transcript.thinking_tokens
        self._last_reading = (thinking, value)
        self.decision = self._transcript.foresee(Observation(thinking, end_margin=value))
        self._forced_from = None if self.decision is None and not self._told else self._seen

    def forced(self) -> int | None:
        """The token that must come next, or None."""
        if self._forced_from is None:
            return None
        done = self._seen - self._forced_from
        if done >= len(self._closing):
            self.give_up()
            return None
        return int(self._closing[done])

    def give_up(self) -> None:
        """Leave the request alone from now on."""
        self._ended = True
        self._wants_reading = False
        self.wake_at = NEVER
        self._tokens = []

    def _keep_reading(self) -> None:
        """A token has followed what was read last: it is final."""
        reading, self._last_reading = self._last_reading, None
        if reading is None:
            return
        self._readings.append(reading)
        self._wants_reading = False
        if self._transcript is None:
            self.give_up()
        else:
            self._transcript.observe(Observation(reading[0], end_margin=reading[1]))

    def _force(self, since: int, decision: Exit | None = None) -> None:
        self.decision = decision
        self._forced_from = since
        self._wants_reading = False
        self.wake_at = 0
        self._tokens = []

    def _follow(self, transcript: Transcript, tokens: Sequence[int]) -> None:
        known = len(transcript.tokens)
        step: Step | Exit = Step.GO_ON
        for token in tokens:
            step = transcript.take(token)
            if isinstance(step, Exit) and self._closes_from(len(transcript.tokens), tokens, known):
                self._force(len(transcript.tokens), step)
                return
        if transcript.stage is Stage.ANSWERING or transcript.finish is not None:
            self.give_up()
        elif isinstance(step, Exit):
            self._force(self._seen, step)
        elif begun := self._begun(tokens, known):
            self._force(self._seen - begun)
        elif self._told and transcript.stage is Stage.THINKING:
            self._force(self._seen)
        elif tokens:
            self._wants_reading = step is Step.PROBE

    def _closes_from(self, position: int, tokens: Sequence[int], known: int) -> bool:
        """Whether what stands behind a position is what would have been forced there."""
        behind = tuple(tokens[position - known :][: len(self._closing)])
        return bool(behind) and behind == self._closing[: len(behind)]

    def _begun(self, tokens: Sequence[int], known: int) -> int:
        """Tokens of the closing that a request brought with it, when nothing else is known of what was decided.

        A single one proves nothing: thoughts, too, may hold the first word of a wrap-up.
        """
        if known or len(tokens) < 2:
            return 0
        sizes = range(len(self._closing) - 1, 1, -1)
        return next((n for n in sizes if tuple(tokens[-n:]) == self._closing[:n]), 0)

    def _scan(self, tokens: Sequence[int]) -> None:
        """Only whether thinking has begun and ended matters: no text is made of its tokens."""
        self._tokens += tokens
        if self._opening is not None:
            self._open(self._opening, tokens)
        if self._ended or self._start is None:
            return
        # A transcript asks its policy first behind the token that follows the opening tag.
        due = self._cap if self._start == 0 else max(self._cap, self._start + 1)
        close = list(self._vocabulary.close_ids)
        closed = _position(self._tokens, close, self._start)
        if closed is not None and closed + len(close) <= due:
            self.give_up()
        elif self._closes_from(due, self._tokens, 0):
            self._force(due)
        elif closed is not None:
            self.give_up()
        elif self._told or self._seen >= due:
            self._force(self._seen)

    def _open(self, opening: Transcript, tokens: Sequence[int]) -> None:
        """Follow the tokens until it is certain whether the model opens its thinking."""
        for token in tokens:
            opening.take(token)
            if opening.stage is not Stage.OPENING:
                break
        if opening.stage is Stage.THINKING:
            self._start, self._opening = len(opening.tokens), None
        elif opening.stage is Stage.ANSWERING:
            self.give_up()


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


def _position(tokens: list[int], part: list[int], start: int) -> int | None:
    """Where ``part`` begins within ``tokens`` from ``start`` on, by the list's own search; None: nowhere."""
    at = start - 1
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

    def control(self, plan: Plan, vocabulary: Vocabulary, decoded: int = 0) -> Control:
        """A control for a request that joins the batch; the one it had if it was preempted.

        Args:
            plan: its plan.
            vocabulary: of the model.
            decoded: own tokens that it brings along.
        """
        if not plan.key:
            return Control(plan, vocabulary)
        found = self.by_key.get(plan.key)
        # One that has seen more than the request has belongs to an earlier request of the same name.
        if found is None or found.seen > decoded or found.plan != plan:
            self.by_key.pop(plan.key, None)
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
        tokens = fetch(row, row.control.seen, row.decoded)
        try:
            row.control.see(tokens)
        except Exception:  # a tokenizer raises what it likes, and one request must not end the server's engine
            logger.exception("a request's thinking is not ended in place any more")
            row.control.give_up()
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
