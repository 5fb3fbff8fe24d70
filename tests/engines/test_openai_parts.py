"""The pure parts of the engine of remote servers: description, capability, events, pieces, accounts, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
from experiments.remote_capabilities import effort_for, refusal
from experiments.remote_server import Budget, Continues, RemoteServer, Tokens, parse_server
from workers.engines.base import FinishReason, GenerationResult, ThinkingProfile, TokenCounts
from workers.engines.openai_engine.accounting import Streamed, accounted
from workers.engines.openai_engine.chunks import Chunker, ChunkVocabulary
from workers.engines.openai_engine.errors import MAX_MESSAGE, error_of_status, fit_for_clients
from workers.engines.openai_engine.sse import MAX_EVENT_BYTES, EventReader

URL = "https://models.internal.example:8443/v1"


def server(**options: Any) -> RemoteServer:
    return RemoteServer(**{"base_url": URL, "model": "m", **options})


# -- description -----------------------------------------------------------------------------------------------


def test_a_server_is_read_from_its_text() -> None:
    described = {"base_url": URL, "model": "m", "budget": "reasoning_effort", "efforts": {"low": 1024}, "retries": 0}
    assert parse_server(json.dumps(described)) == server(
        budget=Budget.REASONING_EFFORT, efforts={"low": 1024}, retries=0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_url": "ftp://x/v1"}, "base_url must begin with http:// or https://"),
        ({"base_url": "https://user:pass@x/v1"}, "base_url must not hold a user or a password"),
        ({"base_url": URL + "/"}, "no slash at its end"),
        ({"base_url": 5}, "base_url must be a text"),
        ({"model": ""}, "model must not be empty"),
        ({"budget": "some"}, "budget must be one of none, thinking_token_budget"),
        ({"budget": "reasoning_effort"}, "efforts go with budget reasoning_effort"),
        ({"budget": "reasoning_effort", "efforts": {"low": 0}}, "efforts.low must be at least 1, got 0"),
        ({"budget": "reasoning_effort", "efforts": {"low": "8"}}, "efforts must be an object"),
        ({"tokens": "ids"}, 'tokens "ids" needs continues "completions"'),
        ({"silence_seconds": 0}, r"silence_seconds must be in \(0, 3600\], got 0"),
        ({"connect_seconds": "9"}, "connect_seconds must be a number"),
        ({"retries": 11}, "retries must be in 0..10, got 11"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"logprobs": 1}, "logprobs must be true or false"),
        ({"max_tokens_field": "limit"}, "max_tokens_field must be"),
        ({"api_key": "sk-1"}, "unknown fields: api_key"),
    ],
)
def test_an_unusable_description_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_server(json.dumps({"base_url": URL, "model": "m"} | change))


def test_a_key_in_the_place_of_its_variable_is_not_repeated() -> None:
    described = {"base_url": URL, "model": "m", "api_key_variable": "sk-secret-1"}
    with pytest.raises(ValueError, match="must be the name of an environment variable") as caught:
        parse_server(json.dumps(described))
    assert "secret" not in str(caught.value)


# -- capability ------------------------------------------------------------------------------------------------

PLAIN = server()
TEXT = server(continues=Continues.COMPLETIONS)
IDS = server(tokens=Tokens.IDS, continues=Continues.COMPLETIONS, logprobs=True)
PLUGIN = server(tokens=Tokens.IDS, continues=Continues.COMPLETIONS, logprobs=True, budget=Budget.CURTAIL)
VLLM = server(budget=Budget.THINKING_TOKEN_BUDGET)
EFFORT = server(budget=Budget.REASONING_EFFORT, efforts={"low": 100, "high": 1000})


@pytest.mark.parametrize(
    ("where", "policy", "reason"),
    [
        (PLAIN, Full(), None),
        (PLAIN, TokenBudget(max_thinking_tokens=9), "no thinking budget and continues no text"),
        (PLAIN, AnswerConvergence(), "continues no text"),
        (TEXT, TokenBudget(max_thinking_tokens=9, wrap_up="so"), None),
        (TEXT, AnswerConvergence(), None),
        (TEXT, Confidence(), "probabilities of trial answers"),
        (IDS, Confidence(), None),
        (IDS, EndMargin(), "needs the plugin"),
        (PLUGIN, EndMargin(), None),
        (PLUGIN, EntropyPlateau(), "reads an entropy"),
        (VLLM, TokenBudget(max_thinking_tokens=9), None),
        (VLLM, TokenBudget(max_thinking_tokens=9, wrap_up="so"), "wrap-up phrase"),
        (EFFORT, TokenBudget(max_thinking_tokens=100), None),
        (EFFORT, TokenBudget(max_thinking_tokens=99), "below the server's least reasoning_effort, 100"),
    ],
)
def test_what_a_server_cannot_do_has_a_reason(where: RemoteServer, policy: Policy, reason: str | None) -> None:
    said = refusal(where, policy)
    assert said is None if reason is None else reason in (said or "")


def test_a_clients_cap_needs_a_way_to_end_thinking() -> None:
    assert refusal(PLAIN, Full(), client_cap=5) is not None
    assert refusal(TEXT, Full(), client_cap=5) is None


@pytest.mark.parametrize(("cap", "effort"), [(100, "low"), (999, "low"), (1000, "high"), (10**6, "high")])
def test_the_largest_effort_within_a_limit_is_taken(cap: int, effort: str) -> None:
    assert effort_for(EFFORT, cap) == effort


# -- events ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_events_come_out_whole_however_their_bytes_come_in(size: int) -> None:
    raw = b": comment\r\ndata: {1}\r\n\r\nevent: x\ndata:two\ndata: lines\n\n\ndata: \xc3\xa9\n\n"
    reader = EventReader()
    found = [event for at in range(0, len(raw), size) for event in reader.feed(raw[at : at + size])]
    assert found == ["{1}", "two\nlines", "\u00e9"]


def test_an_endless_event_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        EventReader().feed(b"data: " + b"x" * MAX_EVENT_BYTES)


# -- pieces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_tags_are_pieces_of_their_own_however_the_text_is_cut(size: int) -> None:
    text = "a < b</think>7</thin"
    vocabulary = ChunkVocabulary(ThinkingProfile())
    chunker = Chunker(vocabulary, ("<think>", "</think>"))
    ids: list[int] = []
    for at in range(0, len(text), size):
        chunker.owe(None)
        ids += chunker.settle(chunker.take(text[at : at + size]))
    ids += chunker.settle(chunker.end(stopped=True))
    close = ids.index(vocabulary.close_ids[0])
    assert (vocabulary.text(ids[:close]), vocabulary.text(ids[close + 1 :])) == ("a < b", "7</thin")
    assert ids[-1] == vocabulary.end
    assert not chunker.exact


def test_a_piece_of_several_tokens_counts_all_of_them() -> None:
    vocabulary = ChunkVocabulary(ThinkingProfile())
    chunker = Chunker(vocabulary, ("</think>",))
    chunker.owe(4)
    ids = chunker.settle(chunker.take("</think>seven"))
    assert ids == [*vocabulary.close_ids, vocabulary.filler, vocabulary.filler, vocabulary.id("seven")]
    assert chunker.exact


def test_tokens_on_both_sides_of_a_tag_cannot_be_told_apart() -> None:
    chunker = Chunker(ChunkVocabulary(ThinkingProfile()), ("</think>",))
    chunker.owe(5)
    assert len(chunker.settle(chunker.take("a b</think>seven"))) == 5
    assert not chunker.exact


# -- accounts --------------------------------------------------------------------------------------------------


def result(thinking: int, answer: int, left: Exit | None = None) -> GenerationResult:
    left = left or Exit(ExitReason.END_OF_THINKING, thinking)
    counts = TokenCounts(prompt=1, thinking=thinking, answer=answer)
    return GenerationResult(FinishReason.STOP, "t", "a", "a", left, thinking, counts, 0, 0.0)


def test_the_servers_split_holds_where_it_tells_one() -> None:
    told = Streamed(exact=False, ended=True, prompt=12, completion=100, reasoning=80)
    counted = accounted(result(30, 10), [told], prompt_known=False, closing_known=True)
    assert counted.tokens == TokenCounts(prompt=12, thinking=80, answer=20)
    assert counted.applied_step == 80


def test_what_was_thought_past_the_decision_is_overrun() -> None:
    told = Streamed(exact=False, ended=True, prompt=12, completion=100, reasoning=80)
    left = Exit(ExitReason.TOKEN_BUDGET, 50)
    tokens = accounted(result(50, 10, left), [told], prompt_known=True, closing_known=True).tokens
    assert (tokens.thinking, tokens.overrun, tokens.answer) == (50, 30, 20)


def test_a_total_alone_is_split_as_the_pieces_were_and_marked() -> None:
    told = Streamed(exact=False, ended=True, completion=80)
    tokens = accounted(result(30, 10), [told], prompt_known=False, closing_known=True).tokens
    assert (tokens.thinking, tokens.answer) == (60, 20)
    assert tokens.estimated == ("answer", "overrun", "prompt", "thinking")


def test_a_total_that_equals_the_pieces_bears_them_out() -> None:
    told = Streamed(exact=False, ended=True, prompt=12, completion=40)
    assert accounted(result(30, 10), [told], prompt_known=False, closing_known=True).tokens.estimated == ()


def test_a_stream_that_was_left_without_figures_stays_an_estimate() -> None:
    told = [Streamed(exact=False), Streamed(exact=False, ended=True, completion=10)]
    tokens = accounted(result(30, 10), told, prompt_known=True, closing_known=True).tokens
    assert tokens.estimated == ("answer", "overrun", "thinking")


# -- errors ----------------------------------------------------------------------------------------------------


def test_a_servers_words_lose_addresses_and_keys() -> None:
    said = f"no {URL}/x at models.internal.example:8443 or models.internal.example for sk-abcd1234 and hunter2\n!"
    assert fit_for_clients(server(), said, "hunter2") == (
        "no [removed] at [removed] or [removed] for [removed] and [removed] !"
    )
    assert len(fit_for_clients(server(), "x" * 1000, None)) == MAX_MESSAGE


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "too long", "code": "context_length_exceeded"}}',
        b'{"error": {"message": "This model\\u0027s maximum context length is 10 tokens", "code": 400}}',
        b'{"message": "maximum context length is 10"}',
    ],
)
def test_a_prompt_beyond_the_context_has_its_code(body: bytes) -> None:
    error = error_of_status(server(), 400, body, None)
    assert (error.code, error.invalid_request) == ("context_length_exceeded", True)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "plain"}', b'{"error": {"message": 5}}'])
def test_an_answer_in_another_form_is_still_an_error(body: bytes) -> None:
    assert error_of_status(server(), 400, body, None).invalid_request
    assert error_of_status(server(), 500, body, None).code == "upstream_error"
