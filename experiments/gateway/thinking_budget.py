"""The client's own cap on thinking tokens, from the parameters by which clients send one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

# The engines' smallest cap is 1, so that is what "none" means. High and above leave thinking to the policy.
DEFAULT_EFFORT_CAPS: Mapping[str, int | None] = MappingProxyType(
    {"none": 1, "minimal": 256, "low": 1024, "medium": 4096, "high": None, "xhigh": None}
)
_MAX_CAP = 10**9
_UNLIMITED = "unlimited"


def read_effort_caps(items: Iterable[str]) -> Mapping[str, int | None]:
    """The caps of efforts, the default ones with those of ``effort=tokens`` in their place.

    Raises:
        ValueError: an item has another form, or its cap is out of bounds.
    """
    caps = dict(DEFAULT_EFFORT_CAPS)
    for item in items:
        name, _, tokens = (part.strip() for part in item.partition("="))
        if name not in caps:
            raise ValueError(f"an effort must be one of {', '.join(caps)}, got {name!r}")
        if tokens != _UNLIMITED and not (tokens.isascii() and tokens.isdigit() and 1 <= int(tokens[:12]) <= _MAX_CAP):
            raise ValueError(f"{name} must be {_UNLIMITED} or from 1 to {_MAX_CAP} tokens, got {tokens!r}")
        caps[name] = None if tokens == _UNLIMITED else int(tokens)
    return MappingProxyType(caps)


def client_cap(
    effort: str | None, budget: int | None, effort_caps: Mapping[str, int | None] = DEFAULT_EFFORT_CAPS
) -> int | None:
    """The smaller of an effort's cap and a budget; None when neither limits thinking."""
    caps = (None if effort is None else effort_caps[effort], budget)
    return min((cap for cap in caps if cap is not None), default=None)
