"""What a server that sends text said about its tokens, held against what was counted. Pure.

Counts are exact where the server told the tokens of every piece, or where its own total bears them out; where it split
its total into reasoning and the rest, that split holds. All others are marked as estimates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.policies import ExitReason
from workers.engines.base import GenerationResult, TokenCounts

_BY_ITSELF = frozenset({ExitReason.END_OF_THINKING, ExitReason.LENGTH})
_OWN = ("thinking", "answer", "overrun")


@dataclass(slots=True)
class Streamed:
    """One stream of a server.

    Attributes:
        branch: whether it was a trial answer.
        exact: whether the tokens of all its pieces were told.
        grouped: whether a piece stood for several tokens: a cut inside of it is off by some.
        ended: whether it was read to its end.
        prompt, completion, reasoning: what the server said that it used; None: it did not.
    """

    branch: bool = False
    exact: bool = True
    grouped: bool = False
    ended: bool = False
    prompt: int | None = None
    completion: int | None = None
    reasoning: int | None = None

    def hear(self, usage: Mapping[str, Any]) -> None:
        """Take a ``usage`` object."""
        details = usage.get("completion_tokens_details") or {}
        self.prompt = _number(usage.get("prompt_tokens"), self.prompt)
        self.completion = _number(usage.get("completion_tokens"), self.completion)
        self.reasoning = _number(details.get("reasoning_tokens"), self.reasoning)


def accounted(
    result: GenerationResult, streams: Sequence[Streamed], *, prompt_known: bool, closing_known: bool
) -> GenerationResult:
    """The result with the server's figures in it, and the marks of what stays an estimate.

    Args:
        result: with the counts of pieces.
        streams: the request's own streams and its branches, in the order in which they began.
        prompt_known: whether the prompt's tokens were counted by the model's tokenizer.
        closing_known: whether the tokens that ended thinking were.
    """
    own = [stream for stream in streams if not stream.branch]
    estimated = set(result.tokens.estimated)
    told = own[0].prompt if own else None
    if told is not None:
        result = replace(result, tokens=replace(result.tokens, prompt=told))
    elif not prompt_known:
        estimated.add("prompt")
    if not all(stream.exact for stream in streams if stream.branch):
        estimated.add("probe")
    if not _are_counted(own, closing_known):
        result, sure = _by_usage(result, own[0]) if len(own) == 1 and own[0].ended else (result, False)
        if not sure:
            estimated.update(_OWN)
    return replace(result, tokens=replace(result.tokens, estimated=tuple(sorted(estimated))))


def _are_counted(own: Sequence[Streamed], closing_known: bool) -> bool:
    was_cut = len(own) > 1
    return all(stream.exact for stream in own) and not (
        was_cut and (not closing_known or any(stream.grouped for stream in own[:-1]))
    )


def _by_usage(result: GenerationResult, stream: Streamed) -> tuple[GenerationResult, bool]:
    """The counts by the server's total, and whether they are sure."""
    tokens, total = result.tokens, stream.completion
    inside = tokens.thinking + tokens.overrun
    counted = inside + tokens.answer
    if total is None or counted == 0:
        return result, False
    if stream.reasoning is not None and stream.reasoning <= total and (stream.reasoning or not result.thinking):
        return _with_inside(result, stream.reasoning, total), True
    if total == counted and not stream.grouped:
        return result, True  # each piece was a token
    return _with_inside(result, round(inside * total / counted), total), False


def _with_inside(result: GenerationResult, inside: int, total: int) -> GenerationResult:
    left = result.exit
    thinking, overrun = inside, 0
    if left is not None and left.reason not in _BY_ITSELF:
        thinking = min(left.decision_step, inside)
        overrun = inside - thinking
    elif left is not None:
        result = replace(result, exit=replace(left, decision_step=inside), applied_step=inside)
    counts: TokenCounts = replace(result.tokens, thinking=thinking, overrun=overrun, answer=total - inside)
    return replace(result, tokens=counts)


def _number(value: Any, before: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else before
