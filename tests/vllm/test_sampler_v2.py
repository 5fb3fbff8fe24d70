"""The shell for vLLM's second model runner, on hand-made batches: tokens lie by slot, rows change places each step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.sample.logits_processor.interface import BatchUpdate

from experiments.policies import AnswerConvergence, EndMargin, Full, Policy, TokenBudget
from tests.vllm.batches import FILLER, OneVocabulary, SecondRunner, config, forced, logits, params, vocabulary
from workers.engines.vllm_engine import sampler_v1, sampler_v2
from workers.engines.vllm_engine.plan import Plan
from workers.engines.vllm_engine.sampler_v2 import InPlaceExits

END = vocabulary().close_ids[0]
PROMPT = [1, 2, 3]


@pytest.fixture(autouse=True, scope="module")
def _words() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for shell in (sampler_v1, sampler_v2):
            patch.setattr(shell.Vocabularies, "of", lambda config: OneVocabulary())
        yield


@pytest.fixture
def runner() -> SecondRunner:
    return SecondRunner()


@pytest.fixture
def shell(runner: SecondRunner) -> InPlaceExits:
    return InPlaceExits(config(), runner.states)


def budget(tokens: int, wrap_up: str = "") -> Plan:
    return Plan(TokenBudget(max_thinking_tokens=tokens, wrap_up=wrap_up))


def join(shell: InPlaceExits, runner: SecondRunner, slot: int, plan: Plan | None, own: list[int]) -> bool:
    runner.fill(slot, PROMPT, own)
    return shell.add_request(slot, params(plan))


def step(shell: InPlaceExits, runner: SecondRunner, own: dict[int, int], margin: float = 30.0) -> list[int | None]:
    """What is forced in some slots that have so many own tokens."""
    context = runner.context({slot: len(PROMPT) + count for slot, count in own.items()})
    return [forced(row) for row in shell.apply(logits(len(own), margin), context)]


def test_a_request_without_a_plan_is_declined(shell: InPlaceExits, runner: SecondRunner) -> None:
    assert not join(shell, runner, 0, None, [])


def test_a_request_with_a_plan_is_taken(shell: InPlaceExits, runner: SecondRunner) -> None:
    assert join(shell, runner, 0, budget(2), [])


def test_a_declined_row_is_left_alone_beside_one_that_is_forced(shell: InPlaceExits, runner: SecondRunner) -> None:
    join(shell, runner, 0, None, [FILLER])
    join(shell, runner, 1, budget(1), [FILLER])
    values = shell.apply(logits(2), runner.context({0: 4, 1: 4}))
    assert values[0].equal(logits(1)[0])
    assert forced(values[1]) == END


def test_rows_belong_to_the_slots_of_this_step(shell: InPlaceExits, runner: SecondRunner) -> None:
    join(shell, runner, 0, budget(1), [FILLER])
    join(shell, runner, 3, budget(9), [FILLER])
    assert step(shell, runner, {3: 1, 0: 1}) == [None, END]


def test_a_budget_is_counted_in_own_tokens(shell: InPlaceExits, runner: SecondRunner) -> None:
    join(shell, runner, 2, budget(2), [])
    seen = []
    for count in range(4):
        seen += step(shell, runner, {2: count})
        runner.append(2, len(PROMPT) + count, FILLER if seen[-1] is None else seen[-1])
    assert seen == [None, None, END, None]


def test_no_token_is_fetched_before_a_control_wakes(shell: InPlaceExits, runner: SecondRunner) -> None:
    join(shell, runner, 0, budget(5), [FILLER])
    del runner.states.all_token_ids.gpu
    assert step(shell, runner, {0: 4}) == [None]


def test_a_slot_that_is_used_again_forgets_its_former_request(shell: InPlaceExits, runner: SecondRunner) -> None:
    join(shell, runner, 0, budget(1), [FILLER])
    join(shell, runner, 0, budget(3), [])
    assert step(shell, runner, {0: 1}) == [None]


def test_a_slot_whose_next_request_has_no_plan_is_left_alone(shell: InPlaceExits, runner: SecondRunner) -> None:
    join(shell, runner, 0, budget(1), [FILLER])
    join(shell, runner, 0, None, [])
    assert step(shell, runner, {0: 1}) == [None]


def test_a_prompt_that_is_fed_in_parts_has_no_row_before_its_end(shell: InPlaceExits, runner: SecondRunner) -> None:
    join(shell, runner, 0, Plan(Full(), entropy=True), [])
    parts = [shell.apply(logits(1), runner.context({0: length})) for length in (1, 2)]
    assert all(part.equal(logits(1)) for part in parts)
    assert shell._controls[0].readings == []


def test_a_preempted_request_that_is_fed_in_parts_is_read_at_its_end_alone(
    shell: InPlaceExits, runner: SecondRunner
) -> None:
    join(shell, runner, 0, Plan(EndMargin(threshold=1.0)), [FILLER] * 6)
    assert step(shell, runner, {0: 2}, margin=0.5) == [None]
    assert step(shell, runner, {0: 6}, margin=0.5) == [END]
    assert [at for at, _ in shell._controls[0].readings] == [6]


def test_a_preempted_request_finishes_its_wrap_up(shell: InPlaceExits, runner: SecondRunner) -> None:
    stop, now = vocabulary().encode("stop now")
    join(shell, runner, 1, budget(2, "stop now"), [FILLER, FILLER, stop])
    assert step(shell, runner, {1: 3}) == [now]


def test_speculative_decoding_is_refused(runner: SecondRunner) -> None:
    settings = config()
    settings.speculative_config = object()
    with pytest.raises(ValueError, match="speculative decoding"):
        InPlaceExits(settings, runner.states)


def test_a_policy_that_needs_branches_is_refused_when_the_request_comes_in() -> None:
    with pytest.raises(ValueError, match="answer_convergence reads trial_answer"):
        InPlaceExits.validate_params(params(Plan(AnswerConvergence())))


POLICIES = st.one_of(
    st.builds(
        TokenBudget, max_thinking_tokens=st.integers(1, 12), wrap_up=st.sampled_from(["", "stop now", "stop now\n"])
    ),
    st.builds(EndMargin, threshold=st.sampled_from([0.6, 2.0]), patience=st.integers(1, 3), wrap_up=st.just("stop ")),
)


@given(
    policies=st.lists(st.none() | POLICIES, min_size=1, max_size=4),
    thoughts=st.lists(st.lists(st.integers(0, 24), min_size=20, max_size=20), min_size=4, max_size=4),
    margins=st.lists(st.sampled_from([0.5, 1.0, 9.0]), min_size=20, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_both_shells_force_the_same_tokens_for_the_same_history(
    policies: list[Policy | None], thoughts: list[list[int]], margins: list[float]
) -> None:
    runner = SecondRunner()
    first = sampler_v1.InPlaceExits(config(), torch.device("cpu"), False)
    second = InPlaceExits(config(), runner.states)
    owns: list[list[int]] = [[] for _ in policies]
    plans = [None if policy is None else Plan(policy) for policy in policies]
    first.update_state(
        BatchUpdate(len(plans), [], [(at, params(plan), PROMPT, owns[at]) for at, plan in enumerate(plans)], [])
    )
    for slot, plan in enumerate(plans):
        join(second, runner, slot, plan, [])
    for place, margin in enumerate(margins):
        one = first.apply(logits(len(plans), margin))
        other = second.apply(logits(len(plans), margin), runner.context(dict.fromkeys(range(len(plans)), 3 + place)))
        assert one.equal(other)
        for slot, row in enumerate(one):
            token = forced(row)
            owns[slot].append(thoughts[slot][place] if token is None else token)
            runner.append(slot, len(PROMPT) + place, owns[slot][-1])
