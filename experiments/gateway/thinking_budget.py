"""The client's own cap on thinking tokens, from the parameters by which clients send one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# The engines' smallest cap is 1, so that is what "none" means. High leaves thinking to the policy.
DEFAULT_EFFORT_CAPS: Mapping[str, int | None] = MappingProxyType(
    {"none": 1, "minimal": 256, "low": 1024, "medium": 4096, "high": None}
)


def client_cap(
    effort: str | None, budget: int | None, effort_caps: Mapping[str, int | None] = DEFAULT_EFFORT_CAPS
) -> int | None:
    """The smaller of an effort's cap and a budget; None when neither limits thinking."""
    caps = (None if effort is None else effort_caps[effort], budget)
    return min((cap for cap in caps if cap is not None), default=None)
