"""One request while it is decoded, against a scripted model: every token is counted, every exit in its place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.policies import (
    AnswerConvergence,
    Confidence,
    EndMargin,
    EntropyPlateau,
    Exit,
    ExitReason,
    Full,
    Policy,
    TokenBudget,
)
from tests.engines.scripted import END, PROMPT, Run, ScriptedModel, begin, decode
from workers.engines.base import DeltaKind, EnforcementFailure, FinishReason, TokenCounts
from workers.engines.sequence import Wanted

CLOSE = "</think>"
SPLIT_CLOSE = ("</", "think", ">")
NEVER = Confidence(threshold=1.0)  # probes at every boundary and never exits


def steps(count: int) -> list[str]:
    """So many thinking tokens; every third ends a step."""
    return ["\n" if n % 3 == 2 else f"t{n} " for n in range(count)]


def natural(thinking: int = 12, close: Sequence[str] = (CLOSE,)) -> ScriptedModel:
    """Thinks so many tokens, closes its thinking, answers `7`."""
    return ScriptedModel([*steps(thinking), *close], close_tag=close)


def texts(run: Run, kind: DeltaKind) -> str:
    return "".join(delta.text for delta in run.deltas if delta.kind is kind)


# -- the natural end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("close", [(CLOSE,), SPLIT_CLOSE])
def test_a_natural_end_counts_its_tag_as_thinking(close: tuple[str, ...]) -> None:
    result = decode(natural(12, close), Full()).result
    assert result.tokens == TokenCounts(prompt=2, thinking=12 + len(close), answer=2)
    assert result.tokens.decoded == 14 + len(close)
    assert result.exit == Exit(ExitReason.END_OF_THINKING, 12 + len(close))
    assert result.applied_step == 12 + len(close)
    assert (result.finish_reason, result.text, result.answer) == (FinishReason.STOP, "7", "7")
    assert result.thinking == "".join(steps(12))


def test_the_answer_is_extracted_by_the_profiles_pattern() -> None:
    model = ScriptedModel([CLOSE], answer=lambda thinking: ("so ", "#", "7", "#", END))
    result = decode(model, Full(), answer_pattern="#(.*?)#").result
    assert (result.text, result.answer) == ("so #7#", "7")


def test_the_end_of_the_sequence_inside_thinking_ends_the_request() -> None:
    result = decode(ScriptedModel([*steps(5), END]), Full()).result
    assert result.tokens == TokenCounts(prompt=2, thinking=6)
    assert result.finish_reason is FinishReason.STOP
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.END_OF_THINKING, 6)
    assert (result.thinking, result.text) == ("".join(steps(5)), "")


# -- forced ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("close", [(CLOSE,), SPLIT_CLOSE])
def test_a_forced_end_counts_its_tag_as_overrun(close: tuple[str, ...]) -> None:
    run = decode(natural(12, close), TokenBudget(max_thinking_tokens=5))
    assert run.result.tokens == TokenCounts(prompt=2, thinking=5, answer=2, overrun=len(close))
    assert run.result.exit is not None
    assert run.result.exit.reason is ExitReason.TOKEN_BUDGET
    assert (run.result.exit.decision_step, run.result.applied_step) == (5, 5)
    assert run.own == [*steps(5), *close, "7", END]
    assert (run.result.thinking, run.result.text) == ("".join(steps(5)), "7")


def test_a_hard_cap_ends_an_adaptive_policy() -> None:
    result = decode(natural(), Confidence(threshold=1.0, max_thinking_tokens=7)).result
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.HARD_CAP, 7)


def test_a_wrap_up_phrase_is_written_before_the_closing_tag_and_shown() -> None:
    run = decode(natural(), TokenBudget(max_thinking_tokens=5, wrap_up="So it is done. "))
    assert run.result.thinking.endswith("So it is done. ")
    assert run.result.tokens == TokenCounts(prompt=2, thinking=5, answer=2, overrun=5)
    assert (run.result.applied_step, run.result.failures) == (5, ())


def test_an_exit_without_an_answer_behind_it_is_a_failure() -> None:
    model = ScriptedModel([*steps(12), CLOSE], answer=lambda thinking: (END,))
    assert decode(model, TokenBudget(max_thinking_tokens=5)).result.failures == (EnforcementFailure.EMPTY_ANSWER,)
    assert decode(model, Full()).result.failures == ()


def test_an_end_tag_that_stands_twice_is_a_failure() -> None:
    model = ScriptedModel([*steps(12), CLOSE], answer=lambda thinking: (CLOSE, "7", END))
    result = decode(model, TokenBudget(max_thinking_tokens=5)).result
    assert result.failures == (EnforcementFailure.END_FORCED_TWICE,)


def test_an_exit_between_the_bytes_of_a_character_is_a_failure() -> None:
    half = "\N{REPLACEMENT CHARACTER}"
    model = ScriptedModel(["a ", "b" + half, "c ", *steps(9), CLOSE])
    assert decode(model, TokenBudget(max_thinking_tokens=2)).result.failures == (EnforcementFailure.CUT_CHARACTER,)
    assert decode(model, TokenBudget(max_thinking_tokens=3)).result.failures == ()


def test_the_clients_own_cap_holds_where_it_is_smaller() -> None:
    result = decode(natural(), TokenBudget(max_thinking_tokens=9), client_cap=4).result
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.CLIENT_CAP, 4)


def test_a_margin_is_read_in_the_running_request_without_a_branch() -> None:
    model = ScriptedModel([*steps(30), CLOSE], margin=lambda thinking: 0.1 if thinking >= 9 else 3.0)
    result = decode(model, EndMargin(threshold=0.25), step_boundary="\n").result
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.END_NEAR, 9)
    assert result.tokens == TokenCounts(prompt=2, thinking=9, answer=2, overrun=1)
    assert [o.end_margin for o in result.observations] == [3.0, 3.0, 0.1]


def test_an_entropy_costs_a_branch_of_one_token() -> None:
    model = ScriptedModel([*steps(30), CLOSE], entropy=lambda thinking: 0.2)
    result = decode(model, EntropyPlateau(delta=0.01, warm_up=3), step_boundary="\n").result
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.ENTROPY_SETTLED, 9)
    assert (result.probes, result.tokens.probe) == (3, 3)
    assert all(o.trial is None and o.end_entropy == 0.2 for o in result.observations)


# -- probes -----------------------------------------------------------------------------------------


def settles(at: int) -> ScriptedModel:
    """Trial answers differ until so many thinking tokens, then they are all `7`."""
    return ScriptedModel([*steps(30), CLOSE], answer=lambda thinking: ("7" if thinking >= at else f"x{thinking}", END))


def test_convergence_exits_at_the_probe_that_makes_the_run() -> None:
    policy = AnswerConvergence(patience=3, probe_every=4)
    run = decode(settles(10), policy, step_boundary="\n")
    # Steps end at 3, 6, 9, ...; probes at the first end at or after each multiple of 4.
    assert run.result.exit is not None
    assert (run.result.exit.reason, run.result.exit.decision_step) == (ExitReason.CONVERGED, 21)
    assert run.result.applied_step == 21
    assert run.result.probes == 5  # at 6, 9, 12, 18 and 21
    assert run.result.tokens == TokenCounts(prompt=2, thinking=21, answer=2, probe=10, overrun=1)


def test_confidence_exits_at_the_probe_that_is_sure() -> None:
    model = ScriptedModel([*steps(30), CLOSE], confidence=lambda thinking: 0.97 if thinking >= 8 else 0.5)
    result = decode(model, Confidence(threshold=0.95), step_boundary="\n").result
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.CONFIDENT, 9)
    assert result.tokens == TokenCounts(prompt=2, thinking=9, answer=2, probe=6, overrun=1)


def test_without_a_step_boundary_every_token_may_be_probed() -> None:
    assert decode(natural(5), NEVER).result.probes == 5


def test_a_branch_feeds_the_closing_tag_and_the_suffix() -> None:
    model = ScriptedModel([*steps(3), CLOSE], suffix=("The answer: ",))
    run = decode(model, NEVER, step_boundary="\n", trial_suffix="The answer: ")
    assert run.fed_at_probes == [[CLOSE, "The answer: "]]
    assert run.result.text == "7"


@pytest.mark.parametrize("close", [(CLOSE,), SPLIT_CLOSE])
def test_probing_changes_nothing_when_thinking_goes_on(close: tuple[str, ...]) -> None:
    probed = decode(natural(20, close), NEVER)
    assert probed.result.probes == 20 + len(close) - 1
    assert probed.own == decode(natural(20, close), Full()).own
    assert probed.result.tokens.probe == 2 * probed.result.probes


def test_a_trial_answer_is_decoded_greedily_and_asks_for_probabilities() -> None:
    sequence, vocabulary = begin(natural(), NEVER)
    assert (sequence.greedy, sequence.wanted) == (True, None)
    sequence.advance(vocabulary.ids(["t0 "])[0])
    sequence.advance(vocabulary.ids(["t1 "])[0])
    assert vocabulary.words(sequence.pending()) == [CLOSE]
    assert (sequence.greedy, sequence.wanted) == (True, Wanted(logprob=True))


def test_a_branch_is_cut_at_max_trial_tokens() -> None:
    model = ScriptedModel([*steps(3), CLOSE], answer=lambda thinking: ("a", "b", "c", "d", "e", END))
    result = decode(model, NEVER, step_boundary="\n", max_trial_tokens=4).result
    assert (result.probes, result.tokens.probe) == (1, 4)
    assert result.text == "abcde"


def test_a_trial_answer_that_is_only_the_suffix_is_empty() -> None:
    model = ScriptedModel([*steps(9), CLOSE], answer=lambda thinking: (END,), suffix=("The answer: ",))
    policy = AnswerConvergence(patience=2, probe_every=1)
    result = decode(model, policy, trial_suffix="The answer: ").result
    assert result.exit is not None
    assert result.exit.reason is ExitReason.END_OF_THINKING


def test_a_branch_never_feeds_beyond_the_context() -> None:
    model = ScriptedModel([*steps(30), CLOSE], suffix=("a ", "b ", "c "), answer=lambda thinking: ("7",) * 20)
    run = decode(model, NEVER, trial_suffix="a b c ", max_context_tokens=20)
    assert run.result.finish_reason is FinishReason.LENGTH
    assert run.result.probes == 14  # the 14th branch fills the context: 2 + 14 + 4 tokens
    assert len(run.own) == 20 - len(PROMPT)


# -- limits -----------------------------------------------------------------------------------------


def test_max_tokens_cuts_the_answer() -> None:
    model = ScriptedModel([*steps(3), CLOSE], answer=lambda thinking: ("a", "b", "c", END))
    result = decode(model, Full(), max_tokens=6).result
    assert result.tokens == TokenCounts(prompt=2, thinking=4, answer=2)
    assert (result.finish_reason, result.text) == (FinishReason.LENGTH, "ab")
    assert result.exit is not None
    assert result.exit.reason is ExitReason.END_OF_THINKING


def test_an_answer_that_ends_at_max_tokens_is_whole() -> None:
    assert decode(natural(3), Full(), max_tokens=6).result.finish_reason is FinishReason.STOP


def test_max_tokens_inside_thinking_is_an_exit_by_length() -> None:
    result = decode(natural(), Full(), max_tokens=5).result
    assert result.finish_reason is FinishReason.LENGTH
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.LENGTH, 5)
    assert result.tokens == TokenCounts(prompt=2, thinking=5)
    assert result.text == ""


@pytest.mark.parametrize("close", [(CLOSE,), SPLIT_CLOSE])
@pytest.mark.parametrize("max_tokens", [4, 5, 6, 7, 8, 9, 10])
def test_a_forced_end_stays_within_max_tokens(close: tuple[str, ...], max_tokens: int) -> None:
    result = decode(natural(12, close), TokenBudget(max_thinking_tokens=5), max_tokens=max_tokens).result
    assert result.tokens.decoded <= max_tokens
    assert result.exit is not None
    closes = max_tokens >= 5 + len(close)
    assert result.exit.reason is (ExitReason.TOKEN_BUDGET if closes else ExitReason.LENGTH)
    assert result.tokens.overrun == (len(close) if closes else 0)


def test_the_context_ends_decoding() -> None:
    run = decode(natural(), Full(), max_context_tokens=9)
    assert run.result.finish_reason is FinishReason.LENGTH
    assert run.result.tokens == TokenCounts(prompt=2, thinking=7)


# -- templates that leave the opening to the model ---------------------------------------------------


def test_a_model_that_opens_its_thinking_counts_the_tag_as_thinking() -> None:
    model = ScriptedModel(["\n", "<think>", *steps(4), CLOSE], answer=lambda thinking: ("7", END))
    result = decode(model, Full(), template_opens_thinking=False).result
    assert result.tokens == TokenCounts(prompt=2, thinking=7, answer=2)
    assert (result.thinking, result.text) == ("".join(steps(4)), "7")


def test_an_opening_tag_of_several_tokens_is_recognised() -> None:
    model = ScriptedModel(["<", "think", ">", *steps(4), CLOSE], open_tag=("<", "think", ">"))
    result = decode(model, Full(), template_opens_thinking=False).result
    assert result.tokens == TokenCounts(prompt=2, thinking=8, answer=2)
    assert result.thinking == "".join(steps(4))


def test_a_model_that_never_thinks_only_answers() -> None:
    model = ScriptedModel(["<", "b>", "7", END], open_tag=("<", "think", ">"))
    run = decode(model, TokenBudget(max_thinking_tokens=1), template_opens_thinking=False)
    assert run.result.tokens == TokenCounts(prompt=2, answer=4)
    assert (run.result.thinking, run.result.text) == ("", "<b>7")
    assert (run.result.exit, run.result.applied_step) == (None, None)
    assert texts(run, DeltaKind.ANSWER) == "<b>7"


def test_an_end_right_away_is_an_empty_answer() -> None:
    result = decode(ScriptedModel([END]), Full(), template_opens_thinking=False).result
    assert result.tokens == TokenCounts(prompt=2, answer=1)
    assert (result.finish_reason, result.text, result.exit) == (FinishReason.STOP, "", None)


def test_tokens_before_the_opening_tag_are_counted_when_a_limit_comes_first() -> None:
    result = decode(ScriptedModel([" "] * 9), Full(), template_opens_thinking=False, max_tokens=4).result
    assert result.tokens == TokenCounts(prompt=2, thinking=4)
    assert result.finish_reason is FinishReason.LENGTH


def test_tokens_before_the_opening_tag_are_counted_when_it_is_cancelled() -> None:
    result = decode(ScriptedModel([" "] * 9), Full(), template_opens_thinking=False, cancel_after=3).result
    assert result.tokens == TokenCounts(prompt=2, thinking=3)


# -- text -------------------------------------------------------------------------------------------


def test_a_closing_tag_of_several_tokens_is_never_streamed() -> None:
    run = decode(natural(4, SPLIT_CLOSE), Full())
    assert texts(run, DeltaKind.THINKING) == "".join(steps(4))


def test_what_only_begins_like_the_closing_tag_is_streamed_after_all() -> None:
    script = ["a", "</", "b", "</", "</", "think", "c", *SPLIT_CLOSE]
    run = decode(ScriptedModel(script, close_tag=SPLIT_CLOSE), Full())
    assert texts(run, DeltaKind.THINKING) == "a</b</</thinkc"
    assert run.result.tokens.thinking == len(script)


def test_what_is_held_back_at_a_forced_end_is_thinking() -> None:
    script = ["a", "</", "think", "b", *SPLIT_CLOSE]
    run = decode(ScriptedModel(script, close_tag=SPLIT_CLOSE), TokenBudget(max_thinking_tokens=3))
    assert run.result.thinking == texts(run, DeltaKind.THINKING) == "a</think"


def test_a_step_boundary_is_not_seen_again_while_the_next_token_is_held_back() -> None:
    script = ["a", "\n", "</", "b", "\n", *SPLIT_CLOSE]
    run = decode(ScriptedModel(script, close_tag=SPLIT_CLOSE), NEVER, step_boundary="\n")
    assert run.result.probes == 2


def test_a_step_boundary_is_not_seen_again_inside_the_next_character() -> None:
    script = ["a", "\n", "\u00e9\N{REPLACEMENT CHARACTER}", "!", "\n", CLOSE]
    run = decode(ScriptedModel(script), NEVER, step_boundary="\n")
    assert run.result.thinking == "a\n\u00e9!\n"
    assert run.result.probes == 2


def test_nothing_is_streamed_to_who_does_not_stream() -> None:
    run = decode(natural(), Full(), stream=False)
    assert run.deltas == []
    assert run.result.text == "7"


# -- cancelling -------------------------------------------------------------------------------------


def test_cancelling_keeps_what_was_decoded() -> None:
    result = decode(natural(), Full(), cancel_after=5).result
    assert result.finish_reason is FinishReason.CANCELLED
    assert result.tokens == TokenCounts(prompt=2, thinking=5)
    assert (result.thinking, result.exit) == ("".join(steps(5)), None)


def test_cancelling_inside_a_branch_keeps_its_tokens() -> None:
    model = ScriptedModel([*steps(6), CLOSE], answer=lambda thinking: ("a", "b", "c", END))
    # Three steps of thinking, one to cache the probe point, two of the branch.
    result = decode(model, NEVER, step_boundary="\n", cancel_after=6).result
    assert result.tokens == TokenCounts(prompt=2, thinking=3, probe=2)


# -- for any script ---------------------------------------------------------------------------------

words = st.sampled_from(["a ", "b ", "\n", "</", "think", ">"])
policies: st.SearchStrategy[Policy] = st.sampled_from(
    [
        Full(),
        NEVER,
        TokenBudget(max_thinking_tokens=6),
        AnswerConvergence(patience=2, probe_every=3),
        Confidence(threshold=0.8, patience=2, probe_every=2, max_thinking_tokens=9),
    ]
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(words, max_size=14),
    policies,
    st.sampled_from(["", "\n"]),
    st.none() | st.integers(1, 20),
    st.none() | st.integers(0, 30),
)
def test_every_token_has_one_kind_and_streamed_text_is_the_results(
    thinking: list[str], policy: Policy, boundary: str, max_tokens: int | None, cancel_after: int | None
) -> None:
    model = ScriptedModel([*thinking, *SPLIT_CLOSE, *[END] * 20], close_tag=SPLIT_CLOSE)
    run = decode(model, policy, step_boundary=boundary, max_tokens=max_tokens, cancel_after=cancel_after)
    tokens = run.result.tokens
    assert tokens.thinking + tokens.overrun + tokens.answer == len(run.own)
    assert tokens.decoded == len(run.own) + tokens.probe
    assert max_tokens is None or len(run.own) <= max_tokens
    assert texts(run, DeltaKind.THINKING) == run.result.thinking
    assert texts(run, DeltaKind.ANSWER) == run.result.text
    if run.result.exit is not None:
        assert run.result.applied_step == run.result.exit.decision_step == tokens.thinking
