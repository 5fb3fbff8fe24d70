"""Ending thinking within the sampler: what is forced, where, and what was read, without vLLM."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.policies import EndMargin, ExitReason, Full, Policy, TokenBudget
from tests.engines.sampling import WIDTH, Sampler, vocabulary_of
from tests.engines.scripted import END, ScriptedModel, decode
from workers.engines.vllm_engine import in_place
from workers.engines.vllm_engine.in_place import NEVER, Control, Controls, Row, apply
from workers.engines.vllm_engine.plan import Plan

CLOSE = ("</think>",)
SPLIT_CLOSE = ("</", "think", ">")
OPEN = ("<think>",)
SPLIT_OPEN = ("<", "think", ">")
WATCHES = EndMargin(threshold=0.0, min_thinking_tokens=1000)  # is asked at each token and never exits
WRAP_UP = "stop here now\n"
WRAP_UP_WORDS = ("stop ", "here ", "now", "\n")


def steps(count: int) -> list[str]:
    """So many thinking tokens; every third ends a step."""
    return ["\n" if n % 3 == 2 else f"t{n % 10} " for n in range(count)]


def natural(
    thinking: int = 12, close: Sequence[str] = CLOSE, margins: dict[int, float] | None = None, opens: Sequence[str] = ()
) -> ScriptedModel:
    """Thinks so many tokens, closes its thinking, answers `7`; margins by own tokens, elsewhere 20."""
    end = len(opens) + thinking
    return ScriptedModel(
        [*opens, *steps(thinking), *close],
        margin=lambda n: 0.0 if n == end else (margins or {}).get(n, 20.0),
        open_tag=opens or OPEN,
        close_tag=close,
    )


def plan_of(model: ScriptedModel, policy: Policy, **options: Any) -> Plan:
    return Plan(policy, think_open="".join(model.open_tag), think_close="".join(model.close_tag), **options)


def sampler(model: ScriptedModel, policy: Policy, **options: Any) -> Sampler:
    return Sampler(model, plan_of(model, policy, **options))


# -- budgets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("close", [CLOSE, SPLIT_CLOSE])
@pytest.mark.parametrize("wrap_up", ["", WRAP_UP])
def test_a_budget_forces_exactly_the_closing_tokens_at_its_step(close: tuple[str, ...], wrap_up: str) -> None:
    decoding = sampler(natural(12, close), TokenBudget(max_thinking_tokens=5, wrap_up=wrap_up))
    closing = [*(WRAP_UP_WORDS if wrap_up else ()), *close]
    assert decoding.run() == [*steps(5), *closing, "7", END]
    assert decoding.forced == list(range(5, 5 + len(closing)))


def test_a_budget_sleeps_until_its_step() -> None:
    decoding = sampler(natural(), TokenBudget(max_thinking_tokens=5))
    decoding.run(5)
    assert decoding.control.seen == 0
    assert decoding.control.wake_at == 5


def test_a_control_sleeps_for_good_once_it_has_closed_the_thinking() -> None:
    decoding = sampler(natural(), TokenBudget(max_thinking_tokens=5))
    decoding.run(7)
    assert decoding.control.wake_at == NEVER


@pytest.mark.parametrize("close", [CLOSE, SPLIT_CLOSE])
@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_a_natural_end_up_to_the_budget_is_left_alone(close: tuple[str, ...], ahead: int) -> None:
    decoding = sampler(natural(4, close), TokenBudget(max_thinking_tokens=4 + len(close) + ahead))
    assert decoding.run() == [*steps(4), *close, "7", END]
    assert decoding.forced == []


def test_a_budget_that_ends_within_the_models_own_tag_is_decided_as_by_a_sequence() -> None:
    model = natural(4, SPLIT_CLOSE)
    decoding = sampler(model, TokenBudget(max_thinking_tokens=5))
    assert decoding.run() == decode(model, TokenBudget(max_thinking_tokens=5)).own


def test_the_smaller_of_client_cap_and_budget_holds() -> None:
    decoding = sampler(natural(), TokenBudget(max_thinking_tokens=5), client_cap=3)
    assert decoding.run() == [*steps(3), *CLOSE, "7", END]


def test_a_plan_that_ends_nothing_never_wakes() -> None:
    decoding = sampler(natural(), Full())
    decoding.run()
    assert (decoding.forced, decoding.control.seen, decoding.control.wake_at) == ([], 0, NEVER)


# -- models that open their thinking themselves ---------------------------------------------------------


@pytest.mark.parametrize("opens", [OPEN, SPLIT_OPEN, ("\n", "<think>")])
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 8])
def test_a_budget_of_a_model_that_opens_its_thinking_ends_it_where_a_sequence_does(
    opens: tuple[str, ...], budget: int
) -> None:
    tag = opens[1:] if opens[0] == "\n" else opens
    model = replace(natural(12, opens=opens), open_tag=tag)
    policy = TokenBudget(max_thinking_tokens=budget)
    own = sampler(model, policy, template_opens_thinking=False).run()
    assert own == decode(model, policy, template_opens_thinking=False).own


@pytest.mark.parametrize("policy", [TokenBudget(max_thinking_tokens=3), EndMargin(threshold=50.0)])
def test_a_model_that_never_opens_its_thinking_is_left_alone(policy: Policy) -> None:
    model = ScriptedModel(["so ", "it ", "is ", *OPEN, "7", END])
    decoding = sampler(model, policy, template_opens_thinking=False)
    assert decoding.run() == list(model.script)
    assert (decoding.forced, decoding.control.readings) == ([], [])


def test_a_model_that_is_told_before_it_has_opened_its_thinking_ends_it_once_it_has() -> None:
    decoding = sampler(natural(12, opens=SPLIT_OPEN), Full(), template_opens_thinking=False)
    decoding.run(1)
    decoding.control.tell()
    assert decoding.run() == [*SPLIT_OPEN, *CLOSE, "7", END]


# -- the margin to the end of thinking --------------------------------------------------------------------


def test_the_margin_is_read_at_step_boundaries_only() -> None:
    decoding = sampler(natural(9), EndMargin(threshold=0.5), step_boundary="\n")
    decoding.run()
    assert [thinking for thinking, _ in decoding.control.readings] == [3, 6, 9]


def test_readings_are_the_margins_in_nats() -> None:
    decoding = sampler(natural(9, margins={3: 2.5, 6: 1.25}), EndMargin(threshold=0.0), step_boundary="\n")
    decoding.run(8)
    assert [value for _, value in decoding.control.readings] == pytest.approx([2.5, 1.25], abs=1e-5)


def test_a_small_margin_closes_the_thinking_at_the_very_step() -> None:
    policy = EndMargin(threshold=0.5, wrap_up=WRAP_UP)
    decoding = sampler(natural(12, SPLIT_CLOSE, {6: 0.25}), policy, step_boundary="\n")
    assert decoding.run() == [*steps(6), *WRAP_UP_WORDS, *SPLIT_CLOSE, "7", END]
    decision = decoding.control.decision
    assert decision is not None
    assert (decision.reason, decision.decision_step) == (ExitReason.END_NEAR, 6)


def test_a_small_margin_between_boundaries_is_not_seen() -> None:
    decoding = sampler(natural(10, margins={4: 0.0, 5: 0.0}), EndMargin(threshold=0.5), step_boundary="\n")
    assert decoding.run() == [*steps(10), *CLOSE, "7", END]


def test_patience_wants_small_margins_in_a_row() -> None:
    margins = {3: 0.1, 6: 5.0, 9: 0.1, 12: 0.1}
    decoding = sampler(natural(30, margins=margins), EndMargin(threshold=0.5, patience=2), step_boundary="\n")
    decoding.run()
    assert decoding.control.decision is not None
    assert decoding.control.decision.decision_step == 12


def test_the_hard_cap_of_a_policy_that_reads_ends_thinking_too() -> None:
    decoding = sampler(natural(), EndMargin(threshold=0.5, max_thinking_tokens=4), step_boundary="\n")
    assert decoding.run() == [*steps(4), *CLOSE, "7", END]
    assert decoding.control.decision is not None
    assert decoding.control.decision.reason is ExitReason.HARD_CAP


def test_a_decision_is_known_before_the_first_closing_token_has_come_back() -> None:
    decoding = sampler(natural(margins={3: 0.1}), EndMargin(threshold=0.5), step_boundary="\n")
    decoding.run(4)
    assert decoding.control.decision is not None
    assert [thinking for thinking, _ in decoding.control.readings] == [3]


@st.composite
def cases(draw: st.DrawFn) -> tuple[ScriptedModel, Policy, dict[str, Any]]:
    """A model with random words and margins, and a policy that a sampler can apply by itself."""
    thinking = draw(st.lists(st.sampled_from(["a ", "b ", "\n", "</"]), max_size=25))
    margins = draw(st.dictionaries(st.integers(1, 25), st.sampled_from([0.0, 0.25, 1.0, 3.0]), max_size=8))
    close, opens = draw(st.sampled_from([CLOSE, SPLIT_CLOSE])), draw(st.sampled_from([(), OPEN, SPLIT_OPEN]))
    end = len(opens) + len(thinking)
    model = ScriptedModel(
        [*opens, *thinking, *close],
        # Where the model itself goes on with the end of thinking the margin is nothing.
        margin=lambda n: (
            0.0 if n == end or thinking[n - len(opens) : n - len(opens) + 1] == [close[0]] else margins.get(n, 20.0)
        ),
        open_tag=opens or OPEN,
        close_tag=close,
    )
    cap = draw(st.none() | st.integers(1, 4) | st.integers(5, 12))
    wrap_up = draw(st.sampled_from(["", "\n", WRAP_UP]))
    if cap is not None and draw(st.booleans()):
        policy: Policy = TokenBudget(max_thinking_tokens=cap, wrap_up=wrap_up)
    else:
        policy = EndMargin(
            threshold=draw(st.sampled_from([0.125, 0.5, 2.0])),
            patience=draw(st.integers(1, 3)),
            probe_every=draw(st.none() | st.integers(1, 6)),
            min_thinking_tokens=draw(st.integers(0, 10)),
            max_thinking_tokens=cap,
            wrap_up=wrap_up,
        )
    options = {
        "template_opens_thinking": not opens,
        "step_boundary": draw(st.sampled_from(["", "\n"])),
        "client_cap": draw(st.none() | st.integers(1, 20)),
    }
    return model, policy, options


@given(cases())
@settings(max_examples=400, deadline=None)
def test_a_sampler_decides_what_a_sequence_decides(case: tuple[ScriptedModel, Policy, dict[str, Any]]) -> None:
    model, policy, options = case
    decoding, expected = sampler(model, policy, **options), decode(model, policy, **options)
    assert decoding.run() == expected.own
    if not policy.signals:
        return
    exit_ = expected.result.exit
    decided = exit_ is not None and exit_.reason is not ExitReason.END_OF_THINKING
    found = decoding.control.decision
    assert (found and (found.reason, found.decision_step)) == (
        (exit_.reason, exit_.decision_step) if exit_ is not None and decided else None
    )
    seen = expected.result.observations
    assert [thinking for thinking, _ in decoding.control.readings] == [o.thinking_tokens for o in seen]
    assert [value for _, value in decoding.control.readings] == pytest.approx([o.end_margin for o in seen], abs=1e-5)


@given(cases())
@settings(max_examples=100, deadline=None)
def test_parts_of_a_prompt_between_two_tokens_change_nothing(
    case: tuple[ScriptedModel, Policy, dict[str, Any]],
) -> None:
    model, policy, options = case
    plain, decoding = sampler(model, policy, **options), sampler(model, policy, **options)
    word = ""
    while word != END:
        # The logits of a part belong to another place; what is sampled from them is thrown away.
        decoding.look(torch.zeros(1, WIDTH))
        word = decoding.step()
    assert decoding.words == plain.run()
    assert decoding.control.readings == plain.control.readings
    assert decoding.control.decision == plain.control.decision


# -- told from outside ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Full(), WATCHES, TokenBudget(max_thinking_tokens=9)])
def test_thinking_ends_as_soon_as_it_is_told(policy: Policy) -> None:
    decoding = sampler(natural(), policy)
    decoding.run(4)
    decoding.control.tell()
    assert decoding.run() == [*steps(4), *CLOSE, "7", END]
    assert decoding.forced == [4]


def test_thinking_that_is_told_before_its_first_token_is_empty() -> None:
    decoding = sampler(natural(), Full())
    decoding.control.tell()
    assert decoding.run() == [*CLOSE, "7", END]


@pytest.mark.parametrize("policy", [Full(), WATCHES, TokenBudget(max_thinking_tokens=90)])
@pytest.mark.parametrize("close", [CLOSE, SPLIT_CLOSE])
def test_being_told_after_the_natural_end_does_nothing(policy: Policy, close: tuple[str, ...]) -> None:
    decoding = sampler(natural(4, close), policy)
    decoding.run(4 + len(close))
    decoding.control.tell()
    assert decoding.run() == [*steps(4), *close, "7", END]
    assert decoding.forced == []
    assert decoding.control.wake_at == NEVER


@pytest.mark.parametrize("after", [5, 6, 7, 8])
def test_being_told_during_or_after_a_forced_end_does_nothing(after: int) -> None:
    decoding = sampler(natural(12, SPLIT_CLOSE), TokenBudget(max_thinking_tokens=5))
    decoding.run(after)
    decoding.control.tell()
    assert decoding.run() == [*steps(5), *SPLIT_CLOSE, "7", END]


def test_being_told_twice_ends_thinking_once() -> None:
    decoding = sampler(natural(12, SPLIT_CLOSE), Full())
    for _ in range(2):
        decoding.run(2)
        decoding.control.tell()
    assert decoding.run() == [*steps(2), *SPLIT_CLOSE, "7", END]


def test_what_is_told_holds_though_a_reading_is_taken_back() -> None:
    decoding = sampler(natural(margins={2: 5.0}), EndMargin(threshold=0.5))
    decoding.run(2)
    decoding.look(torch.zeros(1, WIDTH))  # a part of a prompt: its margin of nothing decides, for now
    decoding.control.tell()
    assert decoding.run() == [*steps(2), *CLOSE, "7", END]


# -- preemption ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", range(12))
def test_a_request_that_joins_again_by_its_key_goes_on_where_it_was(after: int) -> None:
    model = natural(12, SPLIT_CLOSE, {3: 0.1, 6: 0.1})
    plan = plan_of(model, EndMargin(threshold=0.5, patience=2, wrap_up=WRAP_UP), key="r", step_boundary="\n")
    controls, decoding = Controls(), Sampler(model, plan)
    decoding.control = controls.control(plan, decoding.vocabulary)
    decoding.run(after)
    decoding.control = controls.control(plan, decoding.vocabulary, len(decoding.tokens))
    assert decoding.run() == [*steps(6), *WRAP_UP_WORDS, *SPLIT_CLOSE, "7", END]
    assert [thinking for thinking, _ in decoding.control.readings] == [3, 6]


@given(cases(), st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_a_budget_without_a_key_survives_a_preemption_anywhere(
    case: tuple[ScriptedModel, Policy, dict[str, Any]], after: int
) -> None:
    model, policy, options = case
    policy = TokenBudget(max_thinking_tokens=policy.max_thinking_tokens or 7, wrap_up=policy.wrap_up)
    plain, decoding = sampler(model, policy, **options), sampler(model, policy, **options)
    expected = plain.run()
    decoding.run(min(after, len(expected) - 1))
    decoding.control = Control(decoding.plan, decoding.vocabulary)
    assert decoding.run() == expected


@pytest.mark.parametrize("after", [6, 8, 9, 10, 11, 12, 13])
def test_a_closing_that_a_preemption_cut_is_finished_without_a_key(after: int) -> None:
    model = natural(12, SPLIT_CLOSE, {6: 0.1})
    decoding = sampler(model, EndMargin(threshold=0.5, wrap_up=WRAP_UP), step_boundary="\n")
    decoding.run(after)
    decoding.control = Control(decoding.plan, decoding.vocabulary)
    assert decoding.run() == [*steps(6), *WRAP_UP_WORDS, *SPLIT_CLOSE, "7", END]


# -- entropy of a branch -----------------------------------------------------------------------------------


def test_a_branch_notes_the_entropy_of_its_first_token_and_forces_nothing() -> None:
    decoding = sampler(natural(), Full(), entropy=True)
    logits = torch.full((1, WIDTH), float("-inf"))
    logits[0, :4] = 1.5
    assert decoding.look(logits.clone()).equal(logits)
    assert decoding.control.readings == [(0, pytest.approx(torch.tensor(4.0).log().item()))]


def test_a_branch_whose_prompt_is_fed_in_parts_notes_the_entropy_behind_the_last() -> None:
    decoding = sampler(natural(), Full(), entropy=True)
    decoding.look(torch.zeros(1, WIDTH))
    last = torch.full((1, WIDTH), float("-inf"))
    last[0, 3] = 0.0
    decoding.look(last)
    assert decoding.control.readings == [(0, pytest.approx(0.0, abs=1e-6))]


def test_a_branch_reads_nothing_after_its_first_token() -> None:
    decoding = sampler(natural(), Full(), entropy=True)
    decoding.run(3)
    assert len(decoding.control.readings) == 1
    assert decoding.control.wake_at == NEVER


def test_a_branch_cannot_be_told_to_end() -> None:
    decoding = sampler(natural(), Full(), entropy=True)
    decoding.control.tell()
    assert decoding.run() == [*steps(12), *CLOSE, "7", END]


# -- one step of a batch -------------------------------------------------------------------------------------


def test_rows_without_a_control_are_left_alone() -> None:
    model = natural()
    vocabulary = vocabulary_of(model)
    control = Control(plan_of(model, TokenBudget(max_thinking_tokens=1)), vocabulary)
    logits = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    apply(logits, [Row(1, control, 1)], lambda row, start, end: vocabulary.ids(["t0 "])[start:end])
    assert logits[[0, 2]].equal(before[[0, 2]])
    assert logits[1].isfinite().nonzero().flatten().tolist() == list(vocabulary.close_ids)


def test_rows_of_a_batch_are_read_each_for_itself() -> None:
    model = natural()
    vocabulary = vocabulary_of(model)
    margins, branch = plan_of(model, EndMargin(threshold=0.0)), plan_of(model, Full(), entropy=True)
    controls = [Control(plan, vocabulary) for plan in (margins, branch, margins)]
    logits = torch.full((3, WIDTH), -50.0)
    logits[:, 9] = 0.0
    for row, margin in enumerate((4.0, 5.0, 6.0)):
        logits[row, vocabulary.close_ids[0]] = -margin
    rows = [Row(0, controls[0], 1), Row(1, controls[1], 0), Row(2, controls[2], 1)]
    apply(logits, rows, lambda row, start, end: vocabulary.ids(["t0 "])[start:end])
    read = [control.readings[0][1] for control in controls]
    entropy = -sum(p * p.log() for p in torch.tensor([0.0, -5.0]).softmax(-1))
    assert read == pytest.approx([4.0, float(entropy), 6.0], abs=1e-5)


def test_a_request_whose_tokens_cannot_be_read_is_left_alone_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = natural()
    vocabulary = vocabulary_of(model)
    bad = Control(plan_of(model, EndMargin(threshold=0.0)), vocabulary)
    good = Control(plan_of(model, TokenBudget(max_thinking_tokens=1)), vocabulary)
    logits = torch.zeros(2, WIDTH)
    unknown = 10_000
    with caplog.at_level(logging.ERROR):
        apply(logits, [Row(0, bad, 1), Row(1, good, 1)], lambda row, start, end: [unknown] if row.index == 0 else [0])
    assert "not ended in place any more" in caplog.text
    assert bad.wake_at == NEVER
    assert logits[0].eq(0).all()
    assert logits[1].isfinite().sum() == 1


# -- the controls of a process ---------------------------------------------------------------------------------


def keyed(key: str) -> Plan:
    return plan_of(natural(), Full(), key=key)


def test_a_request_is_told_by_its_key() -> None:
    controls, vocabulary = Controls(), vocabulary_of(natural())
    control = controls.control(keyed("r"), vocabulary)
    assert controls.tell("r")
    assert control.wake_at == 0


def test_an_unknown_key_is_told_so() -> None:
    assert not Controls().tell("r")


def test_a_request_without_a_key_has_its_own_control_each_time() -> None:
    controls, vocabulary = Controls(), vocabulary_of(natural())
    assert controls.control(keyed(""), vocabulary) is not controls.control(keyed(""), vocabulary)
    assert not controls.by_key


def test_a_control_that_was_taken_is_forgotten() -> None:
    controls, vocabulary = Controls(), vocabulary_of(natural())
    control = controls.control(keyed("r"), vocabulary)
    assert controls.take("r") is control
    assert controls.take("r") is None


def test_a_later_request_of_the_same_key_does_not_inherit_an_exit() -> None:
    model = natural()
    plan = plan_of(model, EndMargin(threshold=0.0), key="r")
    controls, decoding = Controls(), Sampler(model, plan)
    decoding.control = controls.control(plan, decoding.vocabulary)
    decoding.run()
    later = controls.control(plan, decoding.vocabulary)
    assert later is not decoding.control
    assert controls.take("r") is later


def test_controls_that_nobody_takes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "MAX_REMEMBERED", 3)
    controls, vocabulary = Controls(), vocabulary_of(natural())
    for key in "abcde":
        controls.control(keyed(key), vocabulary)
    assert list(controls.by_key) == ["c", "d", "e"]
