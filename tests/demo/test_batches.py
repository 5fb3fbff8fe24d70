"""Trial answers trained in branches: the same logits as truncated copies, at the right places."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from demo.tiny_reasoner.batches import (
    BRANCH_TOKENS,
    IGNORED,
    BatchPlan,
    Example,
    choose_cuts,
    collate,
    make_example,
    training_batches,
)
from demo.tiny_reasoner.model import build_config, build_model
from demo.tiny_reasoner.task import Operation, Problem, sample_problem
from demo.tiny_reasoner.tokenizer import (
    THINK_CLOSE,
    TOKEN_IDS,
    TURN_END,
    build_tokenizer,
    encode,
    encode_prompt,
)

CUTS = 5


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def examples(tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    rng = random.Random(1)
    return [
        make_example(rng, tokenizer, sample_problem(rng, steps), draft_only=False, guess_share=0.3) for steps in (2, 3)
    ]


def test_branch_has_the_logits_of_a_truncated_copy(examples: list[Example]) -> None:
    model = build_model(build_config(hidden_size=32, layers=2, heads=2, mlp_size=48), seed=0).eval()
    rng = random.Random(2)
    cuts = [choose_cuts(rng, example, CUTS, inside_share=0.5) for example in examples]
    batch = collate(examples, cuts)
    with torch.inference_mode():
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        ).logits
        for row, (example, points) in enumerate(zip(examples, cuts, strict=True)):
            for number, point in enumerate(points):
                tail = [TOKEN_IDS[THINK_CLOSE], point.target, TOKEN_IDS[TURN_END]]
                alone = model(input_ids=torch.tensor([[*example.tokens[: point.index + 1], *tail]])).logits[0]
                start = batch.sequence_length + BRANCH_TOKENS * number
                branch = logits[row, start : start + BRANCH_TOKENS]
                torch.testing.assert_close(branch, alone[-BRANCH_TOKENS:], atol=1e-4, rtol=1e-4)


def test_sequence_has_the_logits_it_would_have_without_branches(examples: list[Example]) -> None:
    model = build_model(build_config(hidden_size=32, layers=2, heads=2, mlp_size=48), seed=0).eval()
    rng = random.Random(3)
    batch = collate(examples, [choose_cuts(rng, example, CUTS, inside_share=0.5) for example in examples])
    with torch.inference_mode():
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        ).logits
        for row, example in enumerate(examples):
            alone = model(input_ids=torch.tensor([example.tokens])).logits[0]
            torch.testing.assert_close(logits[row, : len(example.tokens)], alone, atol=1e-4, rtol=1e-4)


def test_prompt_and_padding_are_not_trained_on(examples: list[Example]) -> None:
    batch = collate(examples, [[], []])
    for row, example in enumerate(examples):
        trained = (batch.labels[row] != IGNORED).nonzero().flatten().tolist()
        assert trained == list(range(example.prompt_length - 1, len(example.tokens) - 1))


def test_every_place_in_the_thinking_may_be_cut_once(examples: list[Example]) -> None:
    for example in examples:
        cuts = sorted(point.index for point in [*example.boundaries, *example.inside])
        # From the last prompt token to the last thinking token; after it come </think>, answer, <|im_end|>.
        assert cuts == list(range(example.prompt_length - 1, len(example.tokens) - 3))


def test_boundaries_are_line_ends(examples: list[Example]) -> None:
    for example in examples:
        newline = TOKEN_IDS["\n"]
        assert {example.tokens[point.index] for point in example.boundaries[1:]} == {newline}
        assert newline not in {example.tokens[point.index] for point in example.inside}


def test_cut_before_the_draft_is_complete_may_answer_with_the_last_value_written(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    problem = Problem(1, (Operation("+", 2), Operation("+", 2)))  # no fact of it slips: values 1, 3, 5
    example = make_example(random.Random(0), tokenizer, problem, draft_only=True, guess_share=1.0)
    values = [TOKEN_IDS[str(value)] for value in (1, 1, 3, 5)]
    assert [point.target for point in example.boundaries] == values
    # The first line's tokens are b = 1 + 2 = 3 and the newline: its value counts as soon as it stands there.
    first_line = example.boundaries[1].index + 1
    targets = {point.index - first_line: point.target for point in example.inside}
    assert [targets[k] for k in range(7)] == [TOKEN_IDS["1"]] * 6 + [TOKEN_IDS["3"]]


def test_cut_after_the_draft_answers_rightly(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(5)
    for _ in range(30):
        problem = sample_problem(rng)
        example = make_example(rng, tokenizer, problem, draft_only=False, guess_share=1.0)
        draft_end = example.boundaries[problem.steps + 1].index
        late = [point for point in [*example.boundaries, *example.inside] if point.index >= draft_end]
        assert {point.target for point in late} == {TOKEN_IDS[problem.answer]}


def test_share_of_cuts_inside_lines(examples: list[Example]) -> None:
    inside = {point.index for point in examples[0].inside}
    rng = random.Random(6)
    chosen = [point for _ in range(250) for point in choose_cuts(rng, examples[0], 8, inside_share=0.25)]
    # Binomial(2000, 1/4): 4 standard deviations are 0.039.
    assert sum(point.index in inside for point in chosen) / len(chosen) == pytest.approx(0.25, abs=0.039)


def test_batches_are_repeatable(tokenizer: PreTrainedTokenizerFast) -> None:
    plan = BatchPlan(batch_size=2, draft_only=True)
    first, second = (next(training_batches(random.Random(7), tokenizer, plan)) for _ in range(2))
    assert torch.equal(first.input_ids, second.input_ids)
    assert torch.equal(first.attention_mask, second.attention_mask)


def test_uneven_branches_are_refused(examples: list[Example]) -> None:
    with pytest.raises(ValueError, match="equally many branch points"):
        collate(examples, [examples[0].boundaries[:1], []])


def test_prompt_of_an_example_is_the_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    problem = Problem(3, (Operation("*", 7), Operation("-", 4)))
    example = make_example(random.Random(0), tokenizer, problem, draft_only=False, guess_share=0.0)
    assert example.tokens[: example.prompt_length] == encode_prompt(tokenizer, problem.prompt)
    assert example.tokens[-3:] == encode(tokenizer, f"</think>{problem.answer}<|im_end|>")
