"""The task: its arithmetic, its prompts and its splits."""

from __future__ import annotations

import itertools
import random

import pytest

from demo.tiny_reasoner.task import (
    HELD_OUT,
    MAX_STEPS,
    MIN_STEPS,
    MODULUS,
    OPERANDS,
    Operation,
    Problem,
    Split,
    held_out_problems,
    sample_problem,
    sample_training_problem,
    split_of,
)

OPERATIONS = [Operation(symbol, operand) for symbol in OPERANDS for operand in OPERANDS[symbol]]
CHAIN = Problem(14, (Operation("*", 9), Operation("-", 1), Operation("+", 8)))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.symbol}{o.operand}")
def test_every_operation_is_a_bijection(operation: Operation) -> None:
    assert {operation.apply(value) for value in range(MODULUS)} == set(range(MODULUS))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.symbol}{o.operand}")
def test_a_slip_is_never_the_true_value(operation: Operation) -> None:
    for value in range(MODULUS):
        assert operation.apply_without_carry(value) != operation.apply(value)


def test_chain_is_computed_step_by_step_modulo_twenty() -> None:
    # By hand: 14 * 9 = 126 = 6, 6 - 1 = 5, 5 + 8 = 13.
    assert CHAIN.values == (14, 6, 5, 13)
    assert CHAIN.answer == "13"


def test_prompt_names_every_assignment_and_asks_for_the_last() -> None:
    assert CHAIN.prompt == "a=14;b=a*9;c=b-1;d=c+8;d?"


@pytest.mark.parametrize(("symbol", "operand"), [("/", 2), ("*", 2), ("+", 0), ("-", 10)])
def test_operation_outside_its_bounds_is_refused(symbol: str, operand: int) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Operation(symbol, operand)


@pytest.mark.parametrize("start", [-1, MODULUS])
def test_start_outside_its_bounds_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match=r"start must be in \[0, 19\], got"):
        Problem(start, CHAIN.operations)


@pytest.mark.parametrize("steps", [MIN_STEPS - 1, MAX_STEPS + 1])
def test_number_of_steps_outside_its_bounds_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=r"steps must be in \[2, 7\], got"):
        sample_problem(random.Random(0), steps)


def test_sampled_problems_have_every_number_of_steps() -> None:
    rng = random.Random(0)
    assert {sample_problem(rng).steps for _ in range(200)} == set(range(MIN_STEPS, MAX_STEPS + 1))


@pytest.mark.parametrize(
    ("prompt", "split"),
    [
        # printf '%s' PROMPT | b2sum -l 64; the last hexadecimal digit modulo 8: 0, 1 and 2 are held out.
        ("a=1;b=a+1;c=b*3;c?", Split.EVALUATION),  # 905de8afdbe6ee48
        ("a=0;b=a+1;c=b+1;c?", Split.DEMO),  # 6c881c35c02836a9
        ("a=9;b=a+1;c=b*3;c?", Split.TUNING),  # f51f886b8c102dd2
        ("a=3;b=a+1;c=b*3;c?", Split.TRAINING),  # 59137df90bcc24ef
    ],
)
def test_split_of_a_prompt_never_changes(prompt: str, split: Split) -> None:
    assert split_of(prompt) is split


def test_each_held_out_split_is_an_eighth_of_all_prompts() -> None:
    rng = random.Random(3)
    draws = 8000
    splits = [split_of(sample_problem(rng, steps=6).prompt) for _ in range(draws)]
    for split in HELD_OUT:
        # Binomial(8000, 1/8): 4 standard deviations are 118.
        assert abs(splits.count(split) - draws / 8) < 118


def test_training_problems_are_never_held_out() -> None:
    rng = random.Random(4)
    assert {split_of(sample_training_problem(rng, 2).prompt) for _ in range(500)} == {Split.TRAINING}


@pytest.mark.parametrize("split", HELD_OUT)
def test_held_out_problems_belong_to_their_split(split: Split) -> None:
    assert {split_of(problem.prompt) for problem in held_out_problems(200, 5, split)} == {split}


def test_held_out_problems_never_repeat_a_prompt() -> None:
    # 700 of the roughly 1,100 two-step prompts of a split: drawn with replacement, some would come twice.
    prompts = [problem.prompt for problem in held_out_problems(700, 6, steps=2)]
    assert len(set(prompts)) == 700


def test_held_out_problems_are_repeatable_and_a_smaller_count_is_their_beginning() -> None:
    many = list(held_out_problems(60, 7))
    assert list(held_out_problems(60, 7)) == many
    assert list(held_out_problems(20, 7)) == many[:20]
    assert list(held_out_problems(60, 8)) != many


def test_exhausted_split_is_an_error() -> None:
    everything = [
        Problem(start, operations).prompt
        for start in range(MODULUS)
        for operations in itertools.product(OPERATIONS, repeat=2)
    ]
    available = sum(split_of(prompt) is Split.TUNING for prompt in everything)
    with pytest.raises(ValueError, match="has no fresh 2-step prompt left"):
        list(held_out_problems(available + 1, 9, Split.TUNING, steps=2))


def test_training_split_holds_nothing_out() -> None:
    with pytest.raises(ValueError, match="split must be one of evaluation, demo, tuning, got training"):
        held_out_problems(1, 0, Split.TRAINING)


def test_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="count must be >= 0, got -1"):
        held_out_problems(-1, 0)
