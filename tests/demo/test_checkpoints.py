"""The weights that ship: they load by the standard classes, and they solve problems they have never seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from demo.tiny_reasoner.checkpoints import CHECKPOINTS, CheckpointEntry, read_index
from demo.tiny_reasoner.model import load_checkpoint
from demo.tiny_reasoner.task import Problem, Split, held_out_problems
from demo.tiny_reasoner.tokenizer import THINK_CLOSE, TOKEN_IDS, build_tokenizer, encode_prompt
from demo.tiny_reasoner.validation import answer_of, decode_greedily, exact_match

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def entries() -> list[CheckpointEntry]:
    return read_index()


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return list(held_out_problems(16, 2, Split.TUNING, steps=3))


@pytest.fixture(scope="module")
def last(entries: list[CheckpointEntry]) -> Qwen3ForCausalLM:
    return load_checkpoint(entries[-1].path)


def test_at_least_four_checkpoints_before_the_last(entries: list[CheckpointEntry]) -> None:
    assert len(entries) >= 5


def test_there_are_bad_middling_and_good_checkpoints(entries: list[CheckpointEntry]) -> None:
    ems = [entry.validation_em for entry in entries]
    assert min(ems) < 0.4
    assert any(0.4 <= em <= 0.8 for em in ems)
    assert ems[-1] >= 0.97
    assert any(em >= ems[-1] - 0.03 for em in ems[:-1])


def test_checkpoints_are_small(entries: list[CheckpointEntry]) -> None:
    assert sum(file.stat().st_size for file in CHECKPOINTS.rglob("*") if file.is_file()) < 16 * MEBIBYTE


def test_every_checkpoint_can_be_read_by_others(entries: list[CheckpointEntry]) -> None:
    for entry in entries:
        for file in entry.path.iterdir():
            assert file.stat().st_mode & 0o044 == 0o044, file


def _files(entry: CheckpointEntry) -> set[str]:
    return {file.name for file in entry.path.iterdir()}


def test_every_checkpoint_is_complete(entries: list[CheckpointEntry]) -> None:
    needed = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for entry in entries:
        assert _files(entry) == needed


def test_standard_classes_load_a_checkpoint_and_continue_a_chat(
    entries: list[CheckpointEntry], problems: list[Problem]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(entries[-1].path)
    model = AutoModelForCausalLM.from_pretrained(entries[-1].path, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": problems[0].prompt}], add_generation_prompt=True, return_dict=False
    )
    assert isinstance(model, Qwen3ForCausalLM)
    assert prompt == encode_prompt(build_tokenizer(), problems[0].prompt)
    # No sampling setting is passed: the checkpoint's own generation config is greedy.
    output = model.generate(torch.tensor([prompt]), max_new_tokens=400)[0, len(prompt) :].tolist()
    [expected] = decode_greedily(model, [prompt], max_new_tokens=400)
    assert output == expected


def test_last_checkpoint_answers_held_out_prompts(last: Qwen3ForCausalLM, problems: list[Problem]) -> None:
    # Three steps are nearly always answered rightly; 14 of 16 leaves room for two misses.
    assert exact_match(last, build_tokenizer(), problems) >= 14 / 16


def test_last_checkpoint_goes_on_checking_after_the_draft(last: Qwen3ForCausalLM, problems: list[Problem]) -> None:
    tokenizer = build_tokenizer()
    prompts = [encode_prompt(tokenizer, problem.prompt) for problem in problems[:4]]
    for completion in decode_greedily(last, prompts):
        thinking = completion[: completion.index(TOKEN_IDS[THINK_CLOSE])]
        for header in ("draft", "hmm", "check", "sure"):
            assert TOKEN_IDS[header] in thinking


def test_completion_that_never_ends_its_thinking_has_no_answer() -> None:
    assert answer_of([TOKEN_IDS["draft"], TOKEN_IDS["\n"]], build_tokenizer()) == ""


def test_first_checkpoint_is_worse_than_the_last(entries: list[CheckpointEntry]) -> None:
    assert entries[0].validation_em < entries[-1].validation_em
    assert entries[0].validation_loss > entries[-1].validation_loss


def test_missing_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_index(tmp_path)
