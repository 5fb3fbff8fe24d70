"""A remote server: where it is, and what it can do, as ``server.json`` of a checkpoint's folder says. Pure.

Only who can write that file decides which address is spoken to, and which environment variable holds the key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

SERVER_FILE = "server.json"
_MAX_SECONDS = 3600.0
_MAX_RETRIES = 10


class Tokens(StrEnum):
    """What a stream consists of."""

    IDS = "ids"  # token ids, in both directions (vLLM's return_token_ids); needs the tokenizer's files
    TEXT = "text"


class Continues(StrEnum):
    """How a text that was begun is continued."""

    NO = "none"
    COMPLETIONS = "completions"  # /completions takes a raw prompt; needs the tokenizer's files for the chat template
    CHAT = "chat"  # /chat/completions takes continue_final_message


class Budget(StrEnum):
    """How the server itself limits thinking."""

    NONE = "none"
    THINKING_TOKEN_BUDGET = "thinking_token_budget"  # vLLM's field, an exact number of tokens
    THINKING = "thinking"  # {"type": "enabled", "budget_tokens": n}; how strictly it holds is the server's affair
    REASONING_EFFORT = "reasoning_effort"  # a word; `efforts` says how many tokens each stands for
    CURTAIL = "curtail"  # the plugin of this project, told by vllm_xargs


class Usage(StrEnum):
    """When the server says how many tokens it decoded."""

    NONE = "none"
    FINAL = "final"  # stream_options.include_usage
    CHUNKS = "chunks"  # also stream_options.continuous_usage_stats (vLLM, SGLang): in each chunk


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """A remote server. The API key is not part of it, so that it can be shown.

    Attributes:
        base_url: up to and without ``/chat/completions``, usually ending in ``/v1``.
        model: the model's name there.
        api_key_variable: environment variable that holds the key; "": no key is sent.
        tokens: what its streams consist of.
        continues: how it continues a text.
        budget: how it limits thinking by itself.
        efforts: thinking tokens that each ``reasoning_effort`` stands for; only with that budget.
        reasoning_fields: whether thinking comes as ``reasoning`` or ``reasoning_content`` apart from ``content``.
        reasoning_usage: whether its usage tells the reasoning's share of the tokens. A request whose policy decides
            nothing is then passed on as it is, in one piece unless its client streams.
        logprobs: whether it tells log-probabilities of tokens while it streams.
        usage: when it says how many tokens it decoded.
        max_tokens_field: name of the limit in chat requests (``/completions`` always has ``max_tokens``).
        connect_seconds: limit on connecting, (0, 3600].
        silence_seconds: limit on waiting for the next byte, (0, 3600].
        retries: how often a request that got no byte back is tried again, 0 to 10.

    Raises:
        ValueError: a field is out of its bounds, or does not go with another.
    """

    base_url: str
    model: str
    api_key_variable: str = ""
    tokens: Tokens = Tokens.TEXT
    continues: Continues = Continues.NO
    budget: Budget = Budget.NONE
    efforts: Mapping[str, int] = field(default_factory=dict)
    reasoning_fields: bool = False
    reasoning_usage: bool = False
    logprobs: bool = False
    usage: Usage = Usage.FINAL
    max_tokens_field: str = "max_tokens"
    connect_seconds: float = 10.0
    silence_seconds: float = 120.0
    retries: int = 2

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if not self.model:
            raise ValueError("model must not be empty")
        if self.max_tokens_field not in ("max_tokens", "max_completion_tokens"):
            raise ValueError(
                f"max_tokens_field must be max_tokens or max_completion_tokens, got {self.max_tokens_field!r}"
            )
        for name in ("connect_seconds", "silence_seconds"):
            value = getattr(self, name)
            if not math.isfinite(value) or not 0 < value <= _MAX_SECONDS:
                raise ValueError(f"{name} must be in (0, {_MAX_SECONDS:g}], got {value}")
        if not 0 <= self.retries <= _MAX_RETRIES:
            raise ValueError(f"retries must be in 0..{_MAX_RETRIES}, got {self.retries}")
        if self.tokens is Tokens.IDS and self.continues is not Continues.COMPLETIONS:
            raise ValueError(f'tokens "ids" needs continues "completions", got {self.continues.value!r}')
        if (self.budget is Budget.REASONING_EFFORT) != bool(self.efforts):
            raise ValueError(f"efforts go with budget reasoning_effort, got {dict(self.efforts)} with {self.budget}")
        for effort, tokens in self.efforts.items():
            if tokens < 1:
                raise ValueError(f"efforts.{effort} must be at least 1, got {tokens}")

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the chat template is applied here."""
        return self.continues is Continues.COMPLETIONS

    @classmethod
    def from_json(cls, value: Any) -> RemoteServer:
        """The server that a JSON object describes.

        Raises:
            ValueError: the object has an unknown or missing field, or one with another type or out of bounds.
        """
        if not isinstance(value, Mapping):
            raise ValueError(f"must be an object, got {value!r}")
        known = {each.name for each in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"unknown fields: {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
        if missing := [name for name in ("base_url", "model") if name not in value]:
            raise ValueError(f"needs {', '.join(missing)}")
        return cls(**{name: _typed(name, given) for name, given in value.items()})


def parse_server(text: str) -> RemoteServer:
    """The server that the text of a ``server.json`` describes.

    Raises:
        ValueError: the text is no JSON, or no server; the message says why.
    """
    return RemoteServer.from_json(json.loads(text))


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url must begin with http:// or https:// and name a host, got {url!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must not hold a user or a password; name the key's variable in api_key_variable")
    if parts.query or parts.fragment or url.endswith("/"):
        raise ValueError(f"base_url must have no query and no slash at its end, got {url!r}")


_ENUMS: Mapping[str, type[StrEnum]] = {"tokens": Tokens, "continues": Continues, "budget": Budget, "usage": Usage}


def _typed(name: str, value: Any) -> Any:
    if name in _ENUMS:
        allowed = [member.value for member in _ENUMS[name]]
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        return _ENUMS[name](value)
    if name in ("reasoning_fields", "reasoning_usage", "logprobs"):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")
        return value
    if name == "efforts":
        if not isinstance(value, Mapping) or not all(_is_number(v) and isinstance(v, int) for v in value.values()):
            raise ValueError(f"efforts must be an object from words to whole numbers, got {value!r}")
        return dict(value)
    if name == "retries" and not (_is_number(value) and isinstance(value, int)):
        raise ValueError(f"retries must be a whole number, got {value!r}")
    if name in ("connect_seconds", "silence_seconds", "retries"):
        if not _is_number(value):
            raise ValueError(f"{name} must be a number, got {value!r}")
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}")
    if name == "api_key_variable" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*|", value):
        # It may be a key that somebody put into the wrong place: it is not shown.
        raise ValueError("api_key_variable must be the name of an environment variable")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
