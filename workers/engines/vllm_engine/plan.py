"""What a sampler is told about one request, as it travels in ``SamplingParams.extra_args`` or ``vllm_xargs``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from experiments.policies import Full, Policy, Signal, policy_from_spec, policy_to_spec

ARGUMENT = "curtail"
MAX_TEXT_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request's thinking is ended in place.

    Attributes:
        policy: one that reads nothing, or the margin to the end of thinking; its caps and wrap-up phrase hold.
        key: name under which the request can be told to end its thinking, and asked what was read; "" for neither.
        client_cap: the client's own limit on thinking tokens, or None.
        think_open: text that opens the think phase.
        think_close: text that ends it.
        template_opens_thinking: whether the prompt already ends with ``think_open``.
        step_boundary: text that ends a step; "": every token ends one.
        entropy: only note the entropy of the first token (for branches of a request).
    """

    policy: Policy = field(default_factory=Full)
    key: str = ""
    client_cap: int | None = None
    think_open: str = "<think>"
    think_close: str = "</think>"
    template_opens_thinking: bool = True
    step_boundary: str = ""
    entropy: bool = False

    def to_json(self) -> str:
        """The plan as a JSON text."""
        return json.dumps(asdict(self) | {"policy": policy_to_spec(self.policy)}, separators=(",", ":"))

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any] | None) -> Plan | None:
        """The plan among a request's extra arguments; None where there is none.

        Raises:
            ValueError: it is there and unusable; the message names the field, the value and the bound.
        """
        value = (arguments or {}).get(ARGUMENT)
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{ARGUMENT} must be a JSON object, got {value[:100]!r}: {error}") from None
        if not isinstance(value, Mapping):
            raise ValueError(f"{ARGUMENT} must be a JSON object, got {value!r}")
        known = {each.name for each in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"{ARGUMENT} has unknown fields: {', '.join(map(str, unknown))}; it takes {sorted(known)}")
        _check_types(value)
        policy = policy_from_spec(value["policy"]) if "policy" in value else Full()
        refuse_branches(policy)
        _check_text("policy.parameters.wrap_up", policy.wrap_up)
        return cls(**{**value, "policy": policy})


def refuse_branches(policy: Policy) -> None:
    """Raise ValueError for a policy whose signals a running request does not show."""
    unseen = sorted(signal.value for signal in policy.signals - {Signal.END_MARGIN})
    if unseen:
        raise ValueError(
            f"policy {policy.name} reads {', '.join(unseen)}, which a running request does not show; "
            "in place there are full, token_budget, end_margin and caps"
        )


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{ARGUMENT}.{name} must be a text, got {value!r}")
    if len(value) > MAX_TEXT_LENGTH:
        raise ValueError(f"{ARGUMENT}.{name} must have at most {MAX_TEXT_LENGTH} characters, got {len(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        # No tokenizer takes one, and by then the request is inside the engine.
        raise ValueError(f"{ARGUMENT}.{name} must be valid Unicode, got half of a surrogate pair in {value!r}")


def _check_types(value: Mapping[str, Any]) -> None:
    for name in ("key", "think_open", "think_close", "step_boundary"):
        _check_text(name, value.get(name, ""))
    for name in ("template_opens_thinking", "entropy"):
        if not isinstance(value.get(name, False), bool):
            raise ValueError(f"{ARGUMENT}.{name} must be true or false, got {value[name]!r}")
    for name in ("think_open", "think_close"):
        if name in value and not value[name]:
            raise ValueError(f"{ARGUMENT}.{name} must not be empty")
    cap = value.get("client_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ValueError(f"{ARGUMENT}.client_cap must be an integer of at least 1, got {cap!r}")
