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


def read_end_ids(path: str) -> frozenset[int]:
    """The end-of-sequence tokens that a checkpoint's folder names; none where it names none.

    Raises:
        OSError, ValueError: the folder has neither a generation config nor a usable config.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        configured = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # a checkpoint without a generation config
        configured = AutoConfig.from_pretrained(path).eos_token_id
    if configured is None:
        return frozenset()
    return frozenset([configured] if isinstance(configured, int) else configured)


def encode_chat(tokenizer: Any, messages: Sequence[dict[str, str]], profile: ThinkingProfile) -> list[int]:
    """Prompt tokens of a conversation by the model's own chat template.

    Raises:
        EngineError: the template refuses the messages, or they fill the model's context.
    """
    try:
        prompt = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:  # templates raise what they like
        raise EngineError(
            f"the model's chat template refuses these messages: {error}",
            code="invalid_messages",
            invalid_request=True,
        ) from error
    limit = profile.max_context_tokens
    if len(prompt) >= limit:
        raise EngineError(
            f"messages have {len(prompt)} tokens, the model's context holds {limit}",
            code="context_length_exceeded",
            invalid_request=True,
        )
    return list(prompt)
