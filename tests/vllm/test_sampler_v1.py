"""The shell for vLLM's first model runner: requests come, move, swap places and go, and each keeps its own plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality

from experiments.policies import AnswerConvergence, EndMargin, Full, TokenBudget
from tests.vllm.batches import FILLER, OneVocabulary, config, forced, logits, params, vocabulary
from workers.engines.vllm_engine import sampler_v1
from workers.engines.vllm_engine.plan import Plan
from workers.engines.vllm_engine.sampler_v1 import InPlaceExits

END = vocabulary().close_ids[0]
Added = tuple[int, Any, list[int], list[int]]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> InPlaceExits:
    monkeypatch.setattr(sampler_v1.Vocabularies, "of", lambda config: OneVocabulary())
    return InPlaceExits(config(), torch.device("cpu"), False)


def budget(tokens: int, own: list[int], row: int) -> Added:
    return row, params(Plan(TokenBudget(max_thinking_tokens=tokens))), [1, 2], own


def update(
    added: list[Added] | None = None,
    removed: list[int] | None = None,
    moved: list[tuple[int, int, MoveDirectionality]] | None = None,
) -> BatchUpdate:
    return BatchUpdate(4, removed or [], added or [], moved or [])


def step(shell: InPlaceExits, rows: int) -> list[int | None]:
    return [forced(row) for row in shell.apply(logits(rows))]


def test_it_is_asked_though_all_requests_are_greedy(shell: InPlaceExits) -> None:
    assert not shell.is_argmax_invariant()


def test_a_batch_without_a_plan_is_handed_back_as_it_is(shell: InPlaceExits) -> None:
    shell.update_state(update([(0, params(None), [1], [])]))
    given = logits(1)
    assert shell.apply(given) is given
    assert given.equal(logits(1))


def test_added_requests_have_each_their_own_budget(shell: InPlaceExits) -> None:
    owns: list[list[int]] = [[], [], []]
    shell.update_state(update([budget(1, owns[0], 0), (1, params(None), [1], owns[1]), budget(2, owns[2], 2)]))
    seen = []
    for _ in range(3):
        for own in owns:
            own.append(FILLER)
        shell.update_state(None)
        seen.append(step(shell, 3))
        for own, token in zip(owns, seen[-1], strict=True):
            own[-1:] = [own[-1]] if token is None else [own[-1], token]
    assert seen == [[END, None, None], [None, None, END], [None, None, None]]


def test_a_removed_request_forces_nothing_any_more(shell: InPlaceExits) -> None:
    shell.update_state(update([budget(1, [FILLER], 0), budget(1, [FILLER], 1)]))
    shell.update_state(update(removed=[0]))
    assert step(shell, 2) == [None, END]


def test_a_request_that_replaces_another_has_its_own_plan(shell: InPlaceExits) -> None:
    shell.update_state(update([budget(1, [FILLER], 0)]))
    shell.update_state(update([budget(5, [FILLER], 0)]))
    assert step(shell, 1) == [None]


def test_a_request_without_a_plan_that_replaces_one_with_a_plan_is_left_alone(shell: InPlaceExits) -> None:
    shell.update_state(update([budget(1, [FILLER], 0)]))
    shell.update_state(update([(0, params(None), [1], [FILLER])]))
    assert step(shell, 1) == [None]


def test_a_moved_request_takes_its_plan_along(shell: InPlaceExits) -> None:
    shell.update_state(update([budget(9, [FILLER], 0), budget(1, [FILLER], 2)]))
    shell.update_state(update(removed=[0], moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    assert step(shell, 3) == [END, None, None]


def test_swapped_requests_swap_their_plans(shell: InPlaceExits) -> None:
    shell.update_state(update([budget(1, [FILLER], 0), budget(9, [FILLER], 1)]))
    shell.update_state(update(moved=[(0, 1, MoveDirectionality.SWAP)]))
    assert step(shell, 2) == [None, END]


def test_a_request_that_swaps_with_one_without_a_plan_takes_it_along(shell: InPlaceExits) -> None:
    shell.update_state(update([budget(1, [FILLER], 0), (1, params(None), [1], [FILLER])]))
    shell.update_state(update(moved=[(0, 1, MoveDirectionality.SWAP)]))
    assert step(shell, 2) == [None, END]


def test_a_preempted_request_comes_back_with_its_tokens(shell: InPlaceExits) -> None:
    plan = Plan(TokenBudget(max_thinking_tokens=2, wrap_up="stop now"))
    stop, now = vocabulary().encode("stop now")
    shell.update_state(update([(0, params(plan), [1], [FILLER, FILLER])]))
    assert step(shell, 1) == [stop]
    shell.update_state(update(removed=[0]))
    shell.update_state(update([(1, params(plan), [1], [FILLER, FILLER, stop])]))
    assert step(shell, 2) == [None, now]


def test_a_prompt_in_parts_reads_the_margin_behind_the_last_part_alone(shell: InPlaceExits) -> None:
    own = [FILLER]
    shell.update_state(update([(0, params(Plan(EndMargin(threshold=1.0))), [1], own)]))
    assert forced(shell.apply(logits(1, margin=0.5))[0]) == END  # a part after a preemption: its sample is dropped
    assert forced(shell.apply(logits(1, margin=9.0))[0]) is None


def test_a_plan_that_this_model_cannot_follow_leaves_the_request_alone(
    shell: InPlaceExits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_token(plan: Plan) -> None:
        raise ValueError("no such tag")

    monkeypatch.setattr(shell._vocabularies, "get", without_token)
    shell.update_state(update([budget(1, [FILLER], 0)]))
    assert step(shell, 1) == [None]
    assert "served without its plan" in caplog.text


def test_a_policy_that_needs_branches_is_refused_when_the_request_comes_in() -> None:
    with pytest.raises(ValueError, match="answer_convergence reads trial_answer"):
        InPlaceExits.validate_params(params(Plan(AnswerConvergence())))


def test_requests_without_a_plan_and_with_a_good_one_are_let_in() -> None:
    InPlaceExits.validate_params(params(None))
    InPlaceExits.validate_params(params(Plan(Full(), client_cap=3)))
