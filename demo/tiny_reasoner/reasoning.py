"""How the model is taught to think: a hurried draft, then passes that check and mend it. Pure Python.

Slips are systematic. Greedy decoding would never show an error that is random with a probability
below one half, so a fixed set of number facts ("7 + 5", by units digit) has its carry forgotten:
most in the draft only, a few in the first check as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from demo.tiny_reasoner.task import MODULUS, OPERANDS, VARIABLES, Operation, Problem

# Headers of the passes. Each verifying pass without a correction moves on to the next; a correction
# makes the next pass OOPS, and the checks start again after it.
DRAFT, CORRECTION = "draft", "oops"
CHECKS = ("wait", "hmm", "check", "sure")
TAG_SAME, TAG_CHANGED = " ok", " no"

# Shares of steps (weighted by how often a fact occurs) and probabilities of slipping there.
DRAFT_SLIP_SHARE, STUBBORN_SLIP_SHARE = 0.10, 0.015
DRAFT_SLIP_PROBABILITY, CHECK_SLIP_PROBABILITY = 0.9, 0.85
# Slips anywhere, so that the model also learns to mend what it never systematically gets wrong.
RANDOM_DRAFT_SLIP, RANDOM_CHECK_SLIP = 0.02, 0.004
_SLIP_SEED = 7

# (operator, operand, units digit of the value it is applied to)
Fact = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class TraceLine:
    """One line of thinking, a step boundary at its end.

    Attributes:
        text: the line with its newline.
        value: the value it arrives at, or None for a pass header.
    """

    text: str
    value: int | None = None


@dataclass(frozen=True, slots=True)
class SlipFacts:
    """Number facts whose carry is forgotten: in the draft, and stubbornly in the first check too."""

    draft: frozenset[Fact]
    stubborn: frozenset[Fact]


def _has_carry(fact: Fact) -> bool:
    symbol, operand, units = fact
    if symbol == "+":
        return units + operand >= 10
    if symbol == "-":
        return units < operand
    return units * operand >= 10


@cache
def slip_facts() -> SlipFacts:
    """The fixed sets of slipping facts, drawn once among the facts that have a carry."""
    facts = [(symbol, k, units) for symbol in OPERANDS for k in OPERANDS[symbol] for units in range(10)]
    carrying = [fact for fact in facts if _has_carry(fact)]
    random.Random(_SLIP_SEED).shuffle(carrying)
    draft: set[Fact] = set()
    stubborn: set[Fact] = set()
    draft_share = stubborn_share = 0.0
    for fact in carrying:
        # How often the fact occurs when operator, operand and units digit are uniform.
        share = 1 / (len(OPERANDS) * len(OPERANDS[fact[0]]) * 10)
        if stubborn_share + share <= STUBBORN_SLIP_SHARE + 1e-9:
            stubborn.add(fact)
            stubborn_share += share
        elif draft_share + share <= DRAFT_SLIP_SHARE + 1e-9:
            draft.add(fact)
            draft_share += share
    return SlipFacts(frozenset(draft), frozenset(stubborn))


def _reckon(rng: random.Random, operation: Operation, value: int, passes_done: int) -> int:
    """The value written for one step: true, or a slip of the draft (pass 0) or the first check (pass 1)."""
    facts = slip_facts()
    fact = (operation.symbol, operation.operand, value % 10)
    if passes_done == 0:
        slips = fact in facts.draft or fact in facts.stubborn
        systematic, anywhere = (DRAFT_SLIP_PROBABILITY if slips else 0.0), RANDOM_DRAFT_SLIP
    elif passes_done == 1:
        systematic, anywhere = (CHECK_SLIP_PROBABILITY if fact in facts.stubborn else 0.0), RANDOM_CHECK_SLIP
    else:
        return operation.apply(value)
    if systematic and rng.random() < systematic:
        return operation.apply_without_carry(value)
    if rng.random() < anywhere:
        return rng.choice((operation.apply_without_carry(value), rng.randrange(MODULUS)))
    return operation.apply(value)


def _one_pass(
    rng: random.Random, problem: Problem, previous: list[int] | None, passes_done: int
) -> Iterator[TraceLine]:
    """The lines of one pass below its header; ``previous`` are the values of the pass before."""
    value = problem.start
    for index, operation in enumerate(problem.operations):
        result = _reckon(rng, operation, value, passes_done)
        name, reckoning = VARIABLES[index + 1], f"{value}{operation.symbol}{operation.operand}={result}"
        if previous is None:
            yield TraceLine(f"{name}={reckoning}\n", result)
        else:
            # Quoting the old value is what lets the model notice that the new one differs.
            tag = TAG_SAME if result == previous[index] else TAG_CHANGED
            yield TraceLine(f"{name}={previous[index]}?{reckoning}{tag}\n", result)
        value = result


def reasoning_trace(rng: random.Random, problem: Problem, draft_only: bool = False) -> list[TraceLine]:
    """The thinking for one problem, line by line; its last value is the answer once passes are checked.

    Args:
        rng: decides which possible slips happen.
        problem: the problem.
        draft_only: stop after the draft (whose value may be wrong).
    """
    lines = [TraceLine(f"{DRAFT}\n")]
    current = list(_one_pass(rng, problem, None, 0))
    lines += current
    clean_passes = 0
    header = CHECKS[0]
    passes_done = 1
    while not draft_only and clean_passes < len(CHECKS):
        previous = [line.value for line in current if line.value is not None]
        current = list(_one_pass(rng, problem, previous, passes_done))
        lines += [TraceLine(f"{header}\n"), *current]
        passes_done += 1
        if [line.value for line in current] != previous:
            clean_passes, header = 0, CORRECTION
        else:
            clean_passes += 1
            header = CHECKS[min(clean_passes, len(CHECKS) - 1)]
    return lines
