"""The tokenizer and its chat template."""

from __future__ import annotations

import random

import pytest
from transformers import PreTrainedTokenizerFast

from demo.tiny_reasoner.reasoning import reasoning_trace
from demo.tiny_reasoner.task import MODULUS, Operation, Problem, sample_problem
from demo.tiny_reasoner.tokenizer import TOKEN_IDS, VOCABULARY, build_tokenizer, encode, encode_prompt


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_vocabulary_has_sixty_different_tokens() -> None:
    assert len(VOCABULARY) == len(TOKEN_IDS) == 60


def test_thinking_and_answer_survive_a_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    for _ in range(50):
        problem = sample_problem(rng)
        thinking = "".join(line.text for line in reasoning_trace(rng, problem))
        text = f"<think>{thinking}</think>{problem.answer}<|im_end|>"
        ids = encode(tokenizer, text)
        assert TOKEN_IDS["<unk>"] not in ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("number", range(MODULUS))
def test_every_number_is_one_token(tokenizer: PreTrainedTokenizerFast, number: int) -> None:
    assert encode(tokenizer, str(number)) == [TOKEN_IDS[str(number)]]


def test_chat_template_opens_the_thinking(tokenizer: PreTrainedTokenizerFast) -> None:
    problem = Problem(14, (Operation("*", 9), Operation("-", 1)))
    words = ["<|im_start|>", "user", "\n"]
    words += [*"a=", "14", *";b=a*", "9", *";c=b-", "1", *";c?", "<|im_end|>", "\n"]
    words += ["<|im_start|>", "assistant", "\n", "<think>"]
    assert encode_prompt(tokenizer, problem.prompt) == [TOKEN_IDS[word] for word in words]


def test_thinking_tags_survive_skipping_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = encode(tokenizer, "<think>draft\n</think>7<|im_end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>draft\n</think>7"
