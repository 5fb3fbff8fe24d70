"""A scripted model, and the loop of an engine around one sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.policies import Policy
from workers.engines.base import Delta, GenerationRequest, GenerationResult, Sampling, ThinkingProfile
from workers.engines.scripted_engine import END, WordVocabulary
from workers.engines.sequence import Measured
from workers.engines.sequence import Sequence as Decoding

PROMPT = ("what", "?")


@dataclass
class ScriptedModel:
    """Writes a script; once thinking is closed, the answer that belongs to so many thinking tokens.

    Attributes:
        script: what it writes by itself, closing tag included.
        answer: its words after thinking, by the number of tokens before the closing tag.
        confidence: probability of each answer token, by the same number.
        margin: log p(likeliest) - log p(end of thinking) after so many thinking tokens, nats.
        entropy: of the first token after the end of thinking, nats, by the number of tokens before it.
    """

    script: Sequence[str]
    answer: Callable[[int], Sequence[str]] = lambda thinking: ("7", END)
    confidence: Callable[[int], float] = lambda thinking: 0.9
    margin: Callable[[int], float] = lambda thinking: 20.0
    entropy: Callable[[int], float] = lambda thinking: 0.5
    open_tag: Sequence[str] = ("<think>",)
    close_tag: Sequence[str] = ("</think>",)
    suffix: Sequence[str] = ()

    def next_word(self, body: Sequence[str]) -> tuple[str, float]:
        """The next word after ``body`` (without the prompt), and its log-probability."""
        width = len(self.close_tag)
        for start in range(len(body) - width + 1):
            if tuple(body[start : start + width]) == tuple(self.close_tag):
                said = list(body[start + width :])
                if self.suffix and tuple(said[: len(self.suffix)]) == tuple(self.suffix):
                    said = said[len(self.suffix) :]
                words = self.answer(start)
                return (words[len(said)] if len(said) < len(words) else END), math.log(self.confidence(start))
        return self.script[len(body)], -1.0


@dataclass
class Run:
    """A sequence that was decoded.

    Attributes:
        deltas: the text that was streamed.
        own: the request's own tokens, prompt left out, as words.
        fed_at_probes: what each branch fed first, as words.
    """

    sequence: Decoding
    result: GenerationResult
    deltas: list[Delta]
    own: list[str]
    fed_at_probes: list[list[str]] = field(default_factory=list)


def begin(model: ScriptedModel, policy: Policy, **options: Any) -> tuple[Decoding, WordVocabulary]:
    """A new sequence. Options are those of ThinkingProfile, besides ``max_tokens``, ``stream`` and ``client_cap``."""
    vocabulary = WordVocabulary(model.open_tag, model.close_tag, model.suffix)
    sampling = Sampling(max_tokens=options.pop("max_tokens", None))
    request = GenerationRequest(
        "r", [], policy, sampling, stream=options.pop("stream", True), client_cap=options.pop("client_cap", None)
    )
    profile = ThinkingProfile(think_open="".join(model.open_tag), think_close="".join(model.close_tag), **options)
    return Decoding(request, list(vocabulary.ids(PROMPT)), vocabulary, profile), vocabulary


def decode(model: ScriptedModel, policy: Policy, *, cancel_after: int | None = None, **options: Any) -> Run:
    """Decode to the end (or for so many steps, then cancel), with a cache that is written as an engine would."""
    sequence, vocabulary = begin(model, policy, **options)
    limit = options.get("max_context_tokens", ThinkingProfile().max_context_tokens)
    run = Run(sequence, sequence.result(), [], [])
    cache: list[int] = []
    steps = 0
    while sequence.finish is None:
        if steps == cancel_after:
            sequence.cancel()
            break
        steps += 1
        pending, position = list(sequence.pending()), sequence.position()
        assert pending
        assert position <= len(cache), "a position before the first fed one has no keys"
        cache = [*cache[:position], *pending]
        assert len(cache) <= limit, "fed beyond the model's context"
        wanted = sequence.wanted
        if wanted is not None and wanted.logprob and len(pending) > 1:
            run.fed_at_probes.append(vocabulary.words(pending))
        word, logprob = model.next_word(vocabulary.words(cache[len(PROMPT) :]))
        measured = Measured(
            logprob=logprob,
            margin=model.margin(sequence.transcript.thinking_tokens),
            entropy=model.entropy(sequence.transcript.thinking_tokens),
        )
        sequence.advance(vocabulary.ids([word])[0], measured)
        run.deltas += sequence.take_deltas()
    run.result = sequence.result()
    run.own = vocabulary.words(sequence.transcript.tokens)
    return run
