"""What a sequence needs of a tokenizer: ids of the think tags, end tokens, text of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from workers.engines.base import EngineError, ThinkingProfile


class TextStream(Protocol):
    """Turns token ids into text piece by piece, never cutting a multi-byte character."""

    def push(self, token: int) -> str:
        """Text that became certain with this token ("" while a character is incomplete)."""
        ...


class Vocabulary(Protocol):
    """The tokenizer as a sequence sees it."""

    open_ids: tuple[int, ...]
    close_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    end_ids: frozenset[int]

    def text_stream(self) -> TextStream:
        """A new incremental decoder."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the tokens, special tokens left out."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokens of a text that was decoded before."""
        ...


@dataclass(slots=True)
class _DecodeStream:
    """Incremental decoding by the `tokenizers` library."""

    tokenizer: Any
    stream: Any

    def push(self, token: int) -> str:
        return self.stream.step(self.tokenizer, token) or ""


class HuggingFaceVocabulary:
    """A vocabulary over a fast Hugging Face tokenizer.

    Raises:
        EngineError: a think tag or the end of a sequence has no token.
    """

    def __init__(self, tokenizer: Any, profile: ThinkingProfile, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.open_ids = self._encode("think_open", profile.think_open)
        self.close_ids = self._encode("think_close", profile.think_close)
        self.suffix_ids = self._encode("trial_suffix", profile.trial_suffix) if profile.trial_suffix else ()
        if not end_ids:
            raise EngineError("the model's generation config names no end-of-sequence token", code="bad_model")
        self.end_ids = end_ids

    def _encode(self, name: str, text: str) -> tuple[int, ...]:
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        if not ids or self._tokenizer.unk_token_id in ids:
            raise EngineError(f"{name} {text!r} is not in the model's vocabulary", code="bad_model")
        return ids

    def text_stream(self) -> _DecodeStream:
        from tokenizers.decoders import DecodeStream

        return _DecodeStream(self._tokenizer.backend_tokenizer, DecodeStream(skip_special_tokens=True))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))
