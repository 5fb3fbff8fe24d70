"""The task: chains of assignments modulo 20, and the thinking that solves them. Pure Python.

A prompt is ``a=14;b=a*9;c=b-1;c?``. Its thinking is a ``draft`` pass over the chain, in which some
carries are forgotten, then verifying passes that quote each old value, compute it again and tag it
``ok`` or ``no``. Every operation is a bijection modulo 20, so a slip never cancels out.

Which prompts may be trained on is decided by the prompt's own text (:func:`split_of`), so no training
run can have seen a held-out prompt.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

MODULUS = 20
MIN_STEPS, MAX_STEPS = 2, 7
VARIABLES = "abcdefgh"
# Units modulo 20: multiplying by one of them loses no information.
MULTIPLIERS = (3, 7, 9)
OPERANDS: dict[str, tuple[int, ...]] = {"+": tuple(range(1, 10)), "-": tuple(range(1, 10)), "*": MULTIPLIERS}

# The rarest 2-step prompt is drawn with probability 1 / 14,580: a split that yields no fresh one in so many
# attempts has none left (but for one chance in a million).
_ATTEMPTS = 200_000


class Split(StrEnum):
    """What a prompt may be used for; decided by its text alone."""

    TRAINING = "training"
    EVALUATION = "evaluation"  # published figures
    DEMO = "demo"  # the traffic of the demo
    TUNING = "tuning"  # choosing recipes, checkpoints and policy thresholds


HELD_OUT = (Split.EVALUATION, Split.DEMO, Split.TUNING)


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a chain: ``value -> value (+, -, *) operand`` modulo 20.

    Raises:
        ValueError: the symbol is none of ``+ - *``, or the operand is not one of ``OPERANDS[symbol]``.
    """

    symbol: str
    operand: int

    def __post_init__(self) -> None:
        if self.symbol not in OPERANDS:
            raise ValueError(f"symbol must be one of {' '.join(OPERANDS)}, got {self.symbol!r}")
        if self.operand not in OPERANDS[self.symbol]:
            allowed = ", ".join(map(str, OPERANDS[self.symbol]))
            raise ValueError(f"operand of {self.symbol} must be one of {allowed}, got {self.operand!r}")

    def apply(self, value: int) -> int:
        """The true result, 0..19."""
        if self.symbol == "+":
            return (value + self.operand) % MODULUS
        if self.symbol == "-":
            return (value - self.operand) % MODULUS
        return (value * self.operand) % MODULUS

    def apply_without_carry(self, value: int) -> int:
        """The result of a hurried reckoner who forgets to carry or borrow; never the true one."""
        forgotten = {"+": -1, "-": 1, "*": 2}[self.symbol]
        return (self.apply(value) + forgotten) % MODULUS


@dataclass(frozen=True, slots=True)
class Problem:
    """A chain of assignments whose last variable is asked for.

    Args:
        start: value of the first variable, 0..19.
        operations: 2 to 7 operations, each on the variable before.

    Raises:
        ValueError: ``start`` or the number of operations is out of range.
    """

    start: int
    operations: tuple[Operation, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.start < MODULUS:
            raise ValueError(f"start must be in [0, {MODULUS - 1}], got {self.start}")
        _check_steps(len(self.operations))

    @property
    def steps(self) -> int:
        """Number of operations (n): the difficulty."""
        return len(self.operations)

    @property
    def values(self) -> tuple[int, ...]:
        """True values of all variables, the first included: steps + 1 numbers."""
        values = [self.start]
        for operation in self.operations:
            values.append(operation.apply(values[-1]))
        return tuple(values)

    @property
    def answer(self) -> str:
        """The reference answer, as the model writes it."""
        return str(self.values[-1])

    @property
    def prompt(self) -> str:
        """The user message, such as ``a=14;b=a*9;c=b-1;c?``."""
        assignments = [f"{VARIABLES[0]}={self.start}"]
        for index, operation in enumerate(self.operations):
            left, right = VARIABLES[index + 1], VARIABLES[index]
            assignments.append(f"{left}={right}{operation.symbol}{operation.operand}")
        return ";".join([*assignments, f"{VARIABLES[self.steps]}?"])


def _check_steps(steps: int) -> None:
    if not MIN_STEPS <= steps <= MAX_STEPS:
        raise ValueError(f"steps must be in [{MIN_STEPS}, {MAX_STEPS}], got {steps}")


def sample_problem(rng: random.Random, steps: int | None = None) -> Problem:
    """A random problem: steps, start, operator and operand each uniform.

    Args:
        rng: source of randomness.
        steps: number of operations (2..7); None draws it.

    Raises:
        ValueError: ``steps`` is out of range.
    """
    if steps is None:
        steps = rng.randint(MIN_STEPS, MAX_STEPS)
    _check_steps(steps)
    start = rng.randrange(MODULUS)
    symbols = [rng.choice(tuple(OPERANDS)) for _ in range(steps)]
    return Problem(start, tuple(Operation(symbol, rng.choice(OPERANDS[symbol])) for symbol in symbols))


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to: an eighth each is held out for evaluation, demo and tuning.

    BLAKE2b (RFC 7693) of the UTF-8 text with an 8-byte digest, read as a big-endian integer, modulo 8.
    """
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % 8
    return HELD_OUT[bucket] if bucket < len(HELD_OUT) else Split.TRAINING


def sample_training_problem(rng: random.Random, steps: int | None = None) -> Problem:
    """A random problem that may be trained on (see :func:`sample_problem`)."""
    while True:
        problem = sample_problem(rng, steps)
        if split_of(problem.prompt) is Split.TRAINING:
            return problem


def held_out_problems(
    count: int, seed: int, split: Split = Split.EVALUATION, steps: int | None = None
) -> Iterator[Problem]:
    """Fresh problems that no training run has seen; no prompt comes twice.

    The same seed gives the same problems, and a smaller count gives the first of them. The number of
    steps is uniform; among the 2-step prompts, which are few, the likelier ones run out first.

    Args:
        count: how many (0 or more).
        seed: seed of the draw.
        split: which held-out split to draw from.
        steps: number of operations of all of them (2..7); None draws it for each.

    Raises:
        ValueError: ``count`` is negative or more than the split has, ``split`` is the training split,
            or ``steps`` is out of range.
    """
    if count < 0:
        raise ValueError(f"count must be >= 0, got {count}")
    if split not in HELD_OUT:
        raise ValueError(f"split must be one of {', '.join(HELD_OUT)}, got {split}")
    if steps is not None:
        _check_steps(steps)
    return _draw_fresh(count, random.Random(seed), split, steps)


def _draw_fresh(count: int, rng: random.Random, split: Split, steps: int | None) -> Iterator[Problem]:
    seen: set[str] = set()
    for _ in range(count):
        # Drawn once, not anew after each rejection: an exhausted length must not drop out unnoticed.
        length = rng.randint(MIN_STEPS, MAX_STEPS) if steps is None else steps
        for _ in range(_ATTEMPTS):
            problem = sample_problem(rng, length)
            if split_of(problem.prompt) is split and problem.prompt not in seen:
                break
        else:
            raise ValueError(f"count must be < {count}: {split} has no fresh {length}-step prompt left")
        seen.add(problem.prompt)
        yield problem
