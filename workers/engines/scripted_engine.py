"""The scripted engine: plays given thoughts and answers with given probabilities, without a model.

It passes the same contract tests as the engines that decode, and is what load and fault tests put behind the gateway.
One word is one token. A script says what the model would think by itself, which answer it would give if its thinking
were closed after so many tokens, and what a policy would read there.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.engines.base import Delta, EngineError, Finished, GenerationRequest, ThinkingProfile
from workers.engines.sequence import Measured, Wanted
from workers.engines.sequence import Sequence as Decoding

END = "<|end|>"
SCRIPT_FILE = "script.json"
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@dataclass
class _Pieces:
    """Text of tokens one by one; a first half of a character waits for its second."""

    words: Sequence[str]
    waiting: str = ""

    def push(self, token: int) -> str:
        word = self.words[token]
        if word == END:
            return ""
        if word.endswith(_INCOMPLETE):
            self.waiting += word[:-1]
            return ""
        text, self.waiting = self.waiting + word, ""
        return text


class WordVocabulary:
    """One token per word; ids are given out as words come up. A word that ends with U+FFFD waits for the next one."""

    def __init__(self, open_tag: Sequence[str], close_tag: Sequence[str], suffix: Sequence[str]) -> None:
        self._words: list[str] = []
        self._ids: dict[str, int] = {}
        self.open_ids = self.ids(open_tag)
        self.close_ids = self.ids(close_tag)
        self.suffix_ids = self.ids(suffix)
        self.end_ids = frozenset(self.ids([END]))

    def ids(self, words: Sequence[str]) -> tuple[int, ...]:
        """Token ids of words."""
        for word in words:
            if word not in self._ids:
                self._ids[word] = len(self._words)
                self._words.append(word)
        return tuple(self._ids[word] for word in words)

    def words(self, ids: Sequence[int]) -> list[str]:
        """Words of token ids."""
        return [self._words[token] for token in ids]

    def text_stream(self) -> _Pieces:
        return _Pieces(self._words)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(word for word in self.words(tokens) if word != END)

    def encode(self, text: str) -> list[int]:
        return list(self.ids(split_words(text)))


def split_words(text: str) -> list[str]:
    """Words of a text, each with the white space behind it; every line break is a word of its own."""
    words: list[str] = []
    for line in text.splitlines(keepends=True):
        body = line.removesuffix("\n")
        words += [word + " " for word in body.split(" ")]
        words[-1] = words[-1].removesuffix(" ")
        if line.endswith("\n"):
            words.append("\n")
    return [word for word in words if word]


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """What the model would answer if thinking were closed after ``since`` thinking tokens or more.

    Attributes:
        since: thinking tokens.
        words: the answer, the end of the sequence left out.
        probability: of each of its tokens, in (0, 1].
        entropy: of its first token's distribution, nats, >= 0.
    """

    since: int
    words: tuple[str, ...]
    probability: float = 0.9
    entropy: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must be in (0, 1], got {self.probability}")
        if not self.entropy >= 0 or not math.isfinite(self.entropy):
            raise ValueError(f"entropy must be >= 0, got {self.entropy}")


@dataclass(frozen=True, slots=True)
class Script:
    """What the model would do with one prompt.

    Attributes:
        thinking: the words that it would think by itself, tags left out.
        answers: the answers in the order of ``since``; the first must hold from 0.
        margins: log p(likeliest) - log p(end of thinking), nats, after so many thinking tokens; elsewhere it is 20.
    """

    thinking: tuple[str, ...]
    answers: tuple[ScriptedAnswer, ...]
    margins: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.answers or self.answers[0].since != 0:
            raise ValueError("answers must begin with one since 0")
        if [a.since for a in self.answers] != sorted({a.since for a in self.answers}):
            raise ValueError(f"answers must rise by since, got {[a.since for a in self.answers]}")

    def answer_after(self, thinking: int) -> ScriptedAnswer:
        """The answer if thinking were closed after so many of its tokens."""
        return [answer for answer in self.answers if answer.since <= thinking][-1]

    @classmethod
    def from_json(cls, value: Any) -> Script:
        """The script that a JSON object describes.

        Raises:
            ValueError: it has another shape; the message says which.
        """
        try:
            answers = [
                ScriptedAnswer(
                    int(a.get("since", 0)),
                    tuple(split_words(a["text"])),
                    float(a.get("probability", 0.9)),
                    float(a.get("entropy", 0.5)),
                )
                for a in value["answers"]
            ]
            margins = {int(step): float(margin) for step, margin in value.get("margins", {}).items()}
            return cls(tuple(split_words(value["thinking"])), tuple(answers), margins)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a script needs thinking (text) and answers (a list of objects): {error!r}") from error


Scripts = Callable[[Sequence[Mapping[str, str]]], Script]


def read_scripts(folder: str) -> Scripts:
    """Scripts of a folder's ``script.json``: an object from the last message's text to its script; "*" for any other.

    Raises:
        EngineError: the file is missing or unusable.
    """
    try:
        value = json.loads((Path(folder) / SCRIPT_FILE).read_text())
        scripts = {prompt: Script.from_json(script) for prompt, script in value.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise EngineError(f"cannot read {SCRIPT_FILE} in {folder!r}: {error}", code="bad_model") from error

    def choose(messages: Sequence[Mapping[str, str]]) -> Script:
        found = scripts.get(messages[-1]["content"], scripts.get("*"))
        if found is None:
            raise EngineError("no script for this prompt", code="invalid_messages", invalid_request=True)
        return found

    return choose


@dataclass(slots=True)
class _Playing:
    """One request that is being played."""

    decoding: Decoding
    script: Script
    vocabulary: WordVocabulary
    prompt: int
    cache: list[int] = field(default_factory=list)
    events: asyncio.Queue[Delta | Finished | EngineError] = field(default_factory=asyncio.Queue)

    def step(self) -> None:
        """One forward pass: feed what is pending, sample the scripted next token."""
        pending, position = self.decoding.pending(), self.decoding.position()
        self.cache = [*self.cache[:position], *pending]
        body = self.cache[self.prompt :]
        token, measured = self._next(body, self.decoding.wanted or Wanted())
        self.decoding.advance(token, measured)

    def _next(self, body: list[int], wanted: Wanted) -> tuple[int, Measured]:
        closes = _find(body, self.vocabulary.close_ids)
        if closes is None:
            opened = _find(body, self.vocabulary.open_ids)
            skipped = 0 if opened is None else opened + len(self.vocabulary.open_ids)
            done = len(body) - skipped
            words = [*self.script.thinking]
            margin = self.script.margins.get(len(body), 20.0)
            if done < len(words):
                return self.vocabulary.ids([words[done]])[0], Measured(margin=margin)
            wrapped = body[skipped + len(words) :]
            return self.vocabulary.close_ids[len(wrapped) % len(self.vocabulary.close_ids)], Measured(margin=0.0)
        answer = self.script.answer_after(closes)
        said = body[closes + len(self.vocabulary.close_ids) :]
        if self.vocabulary.suffix_ids and tuple(said[: len(self.vocabulary.suffix_ids)]) == self.vocabulary.suffix_ids:
            said = said[len(self.vocabulary.suffix_ids) :]
        word = answer.words[len(said)] if len(said) < len(answer.words) else END
        entropy = answer.entropy if wanted.entropy else None
        return self.vocabulary.ids([word])[0], Measured(logprob=math.log(answer.probability), entropy=entropy)


class ScriptedEngine:
    """Plays scripts, many at once: each step gives every request one token.

    Args:
        scripts: the script of a conversation.
        profile: how the model thinks; each tag and the trial suffix is one token.
        max_concurrency: requests played at once.
        seconds_per_step: pause between steps; 0 goes on at once, but lets others run.
    """

    def __init__(
        self, scripts: Scripts, profile: ThinkingProfile, *, max_concurrency: int = 64, seconds_per_step: float = 0.0
    ) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, got {max_concurrency}")
        if seconds_per_step < 0:
            raise ValueError(f"seconds_per_step must be >= 0, got {seconds_per_step}")
        self._scripts = scripts
        self._profile = profile
        self._max_concurrency = max_concurrency
        self._pause = seconds_per_step
        self._playing: dict[str, _Playing] = {}
        self._room: asyncio.Semaphore | None = None
        self._loop: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def max_concurrency(self) -> int:
        return self._max_concurrency

    @property
    def alive(self) -> bool:
        return self._loop is not None and not self._loop.done()

    @property
    def running(self) -> int:
        """Requests being played."""
        return len(self._playing)

    async def start(self) -> None:
        """Begin to play."""
        self._room = asyncio.Semaphore(self._max_concurrency)
        self._loop = asyncio.create_task(self._play())

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta | Finished]:
        if self._room is None or self._loop is None or self._loop.done():
            raise EngineError("the engine is not running", code="unavailable")
        if request.id in self._playing:
            raise EngineError(f"request {request.id} is already being decoded", code="duplicate_request")
        playing = self._prepare(request)
        self._playing[request.id] = playing
        try:
            async with self._room:
                self._wake.set()
                while True:
                    event = await playing.events.get()
                    if isinstance(event, EngineError):
                        raise event
                    yield event
                    if isinstance(event, Finished):
                        return
        finally:
            if self._playing.get(request.id) is playing:
                del self._playing[request.id]

    def cancel(self, request_id: str) -> None:
        playing = self._playing.get(request_id)
        if playing is not None and playing.decoding.finish is None:
            playing.decoding.cancel()
            self._deliver(playing)

    async def close(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        for playing in self._playing.values():
            playing.events.put_nowait(EngineError("the engine was shut down", code="unavailable"))

    def _prepare(self, request: GenerationRequest) -> _Playing:
        profile = self._profile
        if not request.messages or any(not isinstance(m.get("content"), str) for m in request.messages):
            raise EngineError("messages must have a text as content", code="invalid_messages", invalid_request=True)
        vocabulary = WordVocabulary(
            [profile.think_open], [profile.think_close], [profile.trial_suffix] if profile.trial_suffix else []
        )
        prompt = [token for message in request.messages for token in vocabulary.encode(message["content"])]
        if len(prompt) >= profile.max_context_tokens:
            raise EngineError(
                f"messages have {len(prompt)} tokens, the model's context holds {profile.max_context_tokens}",
                code="context_length_exceeded",
                invalid_request=True,
            )
        decoding = Decoding(request, prompt, vocabulary, profile)
        return _Playing(decoding, self._scripts(request.messages), vocabulary, len(prompt))

    async def _play(self) -> None:
        while True:
            playing = [p for p in list(self._playing.values())[: self._max_concurrency] if p.decoding.finish is None]
            if not playing:
                self._wake.clear()
                await self._wake.wait()
                continue
            for one in playing:
                self._step(one)
            await asyncio.sleep(self._pause)

    def _step(self, playing: _Playing) -> None:
        try:
            playing.step()
        except Exception as error:  # this request's own
            playing.decoding.cancel()
            playing.events.put_nowait(EngineError(f"decoding failed: {error}"))
            return
        self._deliver(playing)

    def _deliver(self, playing: _Playing) -> None:
        for delta in playing.decoding.take_deltas():
            playing.events.put_nowait(delta)
        if playing.decoding.finish is not None:
            playing.events.put_nowait(Finished(playing.decoding.result()))


def _find(tokens: Sequence[int], part: tuple[int, ...]) -> int | None:
    """Where ``part`` begins within ``tokens``; None: nowhere."""
    width = len(part)
    return next((at for at in range(len(tokens) - width + 1) if tuple(tokens[at : at + width]) == part), None)
