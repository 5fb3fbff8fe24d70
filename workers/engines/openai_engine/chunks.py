"""A vocabulary for streams of text: a piece of text that came at once is a token.

What a driver counts and where it may probe or cut are tokens. A server that sends text gives no ids; so each piece gets
an id here, and a piece that stands for several tokens is preceded by fillers, which have no text. Counts are then exact
as far as the server tells how many tokens came with each piece. Tags of the think phase are pieces of their own,
wherever the server cut its text, and count one token each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workers.engines.base import ThinkingProfile


@dataclass(slots=True)
class _Texts:
    """Texts of ids as they are."""

    texts: list[str]

    def push(self, token: int) -> str:
        return self.texts[token]


class ChunkVocabulary:
    """The pieces of one request.

    Args:
        profile: how the model thinks.
        count: number of tokens of a text by the model's own tokenizer; None: it is not known, and a text counts one.

    Attributes:
        prompt_ids: stands for a conversation whose template is applied by the server.
    """

    def __init__(self, profile: ThinkingProfile, count: Callable[[str], int] | None = None) -> None:
        self._texts: list[str] = []
        self._ids: dict[str, int] = {}
        self._count = count
        self.end = self._new("")
        self.filler = self._new("")
        self.prompt_ids = (self._new(""),)
        self.open_ids: tuple[int, ...] = (self.id(profile.think_open),)
        self.close_ids: tuple[int, ...] = (self.id(profile.think_close),)
        self.suffix_ids = tuple(self.encode(profile.trial_suffix))
        self.end_ids = frozenset({self.end})

    def id(self, text: str) -> int:
        """The id of a piece."""
        if text not in self._ids:
            self._ids[text] = self._new(text)
        return self._ids[text]

    def text(self, tokens: Sequence[int]) -> str:
        """All text of tokens, tags included."""
        return "".join(self._texts[token] for token in tokens)

    def text_stream(self) -> _Texts:
        return _Texts(self._texts)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.text(tokens)

    def encode(self, text: str) -> list[int]:
        """A text that is put in from outside, with as many fillers as it has further tokens."""
        if not text:
            return []
        more = self._count(text) - 1 if self._count is not None else 0
        return [self.filler] * max(more, 0) + [self.id(text)]

    def _new(self, text: str) -> int:
        self._texts.append(text)
        return len(self._texts) - 1


class Chunker:
    """Cuts a stream of text into pieces.

    Args:
        vocabulary: gives the pieces their ids.
        tags: texts that are to be pieces of their own.

    Attributes:
        exact: whether each token that came has been given out where it belongs.
        grouped: whether a piece stood for several tokens.
    """

    def __init__(self, vocabulary: ChunkVocabulary, tags: Sequence[str]) -> None:
        self.exact = True
        self.grouped = False
        self._vocabulary = vocabulary
        self._tags = [tag for tag in tags if tag]
        self._held = ""
        self._owed = 0  # tokens that came, less those given out

    def owe(self, tokens: int | None) -> None:
        """So many tokens came; None: the server does not say, and each piece counts one."""
        self._owed += tokens or 0
        self.exact = self.exact and tokens is not None

    def take(self, text: str) -> list[int]:
        """The ids of what is certain now; a text that may turn out to begin a tag is held."""
        text = self._held + text
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return self._ids(self._cut(text[: len(text) - keep]))

    def put(self, tag: str) -> list[int]:
        """The id of a tag that the server leaves out of its text; what was held comes before it."""
        return [*self._release(), self._vocabulary.id(tag)]

    def end(self, *, stopped: bool) -> list[int]:
        """What is left when the stream has ended, with the end of the sequence where the model ``stopped``."""
        return [*self._release(), *([self._vocabulary.end] if stopped else [])]

    def settle(self, ids: list[int]) -> list[int]:
        """All ids that came at once, with fillers for the tokens that are owed."""
        spare = self._owed - len(ids)
        self.exact = self.exact and spare >= 0
        if not ids or self._held or spare <= 0:
            # Tokens without a text yet may be a tag's that the server leaves out: they wait for what comes next.
            self._owed = max(spare, 0)
            return ids
        self._owed, self.grouped = 0, True
        single = (self._vocabulary.end, *self._vocabulary.open_ids, *self._vocabulary.close_ids)
        texts = [at for at, token in enumerate(ids) if token not in single]
        self.exact = self.exact and len(texts) <= 1  # else nobody knows whose they are
        # Fillers come first: at a piece all its tokens have been counted.
        at = texts[0] if texts else 0
        return [*ids[:at], *[self._vocabulary.filler] * spare, *ids[at:]]

    def _release(self) -> list[int]:
        held, self._held = self._held, ""
        return self._ids([held] if held else [])

    def _ids(self, pieces: list[str]) -> list[int]:
        return [self._vocabulary.id(piece) for piece in pieces]

    def _undecided(self, text: str) -> int:
        longest = min(max(map(len, self._tags), default=0) - 1, len(text))
        return next((n for n in range(longest, 0, -1) if any(tag.startswith(text[-n:]) for tag in self._tags)), 0)

    def _cut(self, text: str) -> list[str]:
        places = {0, len(text)}
        for tag in self._tags:
            at = text.find(tag)
            while at >= 0:
                places |= {at, at + len(tag)}
                at = text.find(tag, at + len(tag))
        return [text[a:b] for a, b in pairwise(sorted(places))]
