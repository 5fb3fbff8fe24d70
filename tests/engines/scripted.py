"""A word-level vocabulary, a scripted model, and the loop of an engine around one sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.policies import Policy
from workers.engines.base import Delta, GenerationRequest, GenerationResult, Sampling, ThinkingProfile
from workers.engines.sequence import Sequence as Decoding

END = "<end>"
PROMPT = ("what", "?")


@dataclass
class _Pieces:
    """Text of tokens one by one; a first half of a character waits for its second."""

    words: Sequence[str]
    waiting: str = ""

    def push(self, token: int) -> str:
        word = self.words[token]
        if word == END:
            return ""
        if word.endswith("\N{REPLACEMENT CHARACTER}"):
            self.waiting += word[:-1]
            return ""
        text, self.waiting = self.waiting + word, ""
        return text


class WordVocabulary:
    """One token per word; ids are given out as words come up."""

    def __init__(self, open_tag: Sequence[str], close_tag: Sequence[str], suffix: Sequence[str]) -> None:
        self._words: list[str] = []
        self.open_ids = self.ids(open_tag)
        self.close_ids = self.ids(close_tag)
        self.suffix_ids = self.ids(suffix)
        self.end_ids = frozenset(self.ids([END]))

    def ids(self, words: Sequence[str]) -> tuple[int, ...]:
        """Token ids of words."""
        for word in words:
            if word not in self._words:
                self._words.append(word)
        return tuple(self._words.index(word) for word in words)

    def words(self, ids: Sequence[int]) -> list[str]:
        """Words of token ids."""
        return [self._words[token] for token in ids]

    def text_stream(self) -> _Pieces:
        return _Pieces(self._words)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(word for word in self.words(tokens) if word != END)


@dataclass
class ScriptedModel:
    """Writes a script; once thinking is closed, the answer that belongs to so many thinking tokens.

    Attributes:
        script: what it writes by itself, closing tag included.
        answer: its words after thinking, by the number of tokens before the closing tag.
        confidence: probability of each answer token, by the same number.
    """

    script: Sequence[str]
    answer: Callable[[int], Sequence[str]] = lambda thinking: ("7", END)
    confidence: Callable[[int], float] = lambda thinking: 0.9
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
    """A new sequence. Options are those of ThinkingProfile, besides ``max_tokens`` and ``stream``."""
    vocabulary = WordVocabulary(model.open_tag, model.close_tag, model.suffix)
    sampling = Sampling(max_tokens=options.pop("max_tokens", None))
    request = GenerationRequest("r", [], policy, sampling, stream=options.pop("stream", True))
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
        if sequence.wants_logprob and len(pending) > 1:
            run.fed_at_probes.append(vocabulary.words(pending))
        word, logprob = model.next_word(vocabulary.words(cache[len(PROMPT) :]))
        sequence.advance(vocabulary.ids([word])[0], logprob)
        run.deltas += sequence.deltas
        sequence.deltas = []
    run.result = sequence.result()
    run.own = vocabulary.words(sequence._tokens[len(PROMPT) :])
    return run
