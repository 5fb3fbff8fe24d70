"""A decision that comes late is told from an exit that was missed."""

from __future__ import annotations

import pytest

from experiments.policies import AnswerConvergence, Exit, ExitReason
from workers.engines.base import EnforcementFailure, FinishReason, GenerationRequest, ThinkingProfile
from workers.engines.scripted_engine import END, WordVocabulary
from workers.engines.transcript import MAX_LAG_TOKENS, Transcript

DECISION = Exit(ExitReason.CONVERGED, 10)


def thought(tokens: int) -> tuple[Transcript, WordVocabulary]:
    """A transcript with so many thinking tokens."""
    vocabulary = WordVocabulary(["<think>"], ["</think>"], [])
    transcript = Transcript(GenerationRequest("a", [], AnswerConvergence()), 1, vocabulary, ThinkingProfile())
    take(transcript, vocabulary, *["w "] * tokens)
    return transcript, vocabulary


def take(transcript: Transcript, vocabulary: WordVocabulary, *words: str) -> None:
    for token in vocabulary.ids(words):
        transcript.take(token)


@pytest.mark.parametrize(("more", "missed"), [(0, False), (MAX_LAG_TOKENS, False), (MAX_LAG_TOKENS + 1, True)])
def test_an_exit_is_missed_by_how_long_thinking_went_on_after_the_decision(more: int, missed: bool) -> None:
    transcript, vocabulary = thought(200)  # the branch came back 190 tokens late
    assert transcript.decide(DECISION)
    take(transcript, vocabulary, *["w "] * more, "</think>", "7", END)
    result = transcript.result()
    assert (result.tokens.thinking, result.applied_step) == (10, 200 + more)
    assert result.failures == ((EnforcementFailure.EXIT_MISSED,) if missed else ())


def test_a_decision_after_the_whole_thought_was_missed() -> None:
    transcript, vocabulary = thought(200)
    take(transcript, vocabulary, "</think>")
    assert not transcript.decide(DECISION)
    take(transcript, vocabulary, "7", END)
    assert transcript.result().failures == (EnforcementFailure.EXIT_MISSED,)


def test_a_limit_from_outside_ends_a_request_once() -> None:
    transcript, vocabulary = thought(5)
    transcript.limit()
    assert transcript.finish is FinishReason.LENGTH
    take(transcript, vocabulary, "</think>")
    transcript.limit()
    assert transcript.result().finish_reason is FinishReason.LENGTH
