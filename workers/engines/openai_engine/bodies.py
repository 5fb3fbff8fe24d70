"""Parts of requests to a server and of its answers, shared by the decoders. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments.remote_capabilities import effective_cap, effort_for
from experiments.remote_server import Budget, RemoteServer
from workers.engines.base import EngineError
from workers.engines.driver import Ask
from workers.engines.vllm_engine.plan import ARGUMENT, Plan

_FINISHES = frozenset({"stop", "length"})


def sampling_fields(ask: Ask, extra: Mapping[str, Any]) -> dict[str, Any]:
    """How tokens are drawn; ``extra`` of the request itself, and not of its trial answers."""
    drawn = {**({} if ask.branch else extra), "temperature": ask.temperature, "top_p": ask.top_p}
    return drawn if ask.seed is None else drawn | {"seed": ask.seed}


def native_fields(server: RemoteServer, plan: Plan | None) -> dict[str, Any]:
    """What tells a server to end thinking early by itself; nothing where there is no plan."""
    if plan is None:
        return {}
    if server.budget is Budget.CURTAIL:
        # No key: nobody could fetch over HTTP what the sampler would remember under it.
        return {"vllm_xargs": {ARGUMENT: replace(plan, key="").to_json()}}
    cap = effective_cap(plan.policy, plan.client_cap)
    if cap is None:
        return {}
    if server.budget is Budget.THINKING_TOKEN_BUDGET:
        return {"thinking_token_budget": cap}
    if server.budget is Budget.THINKING:
        return {"thinking": {"type": "enabled", "budget_tokens": cap}}
    return {"reasoning_effort": effort_for(server, cap)}


def ending_of(choice: Mapping[str, Any]) -> str | None:
    """How the server ended decoding, in its own word; None: it goes on."""
    finish = choice.get("finish_reason")
    return None if finish is None or finish == "" else str(finish)


def finish_of(choice: Mapping[str, Any]) -> str | None:
    """How the server ended decoding: stop or length; None: it goes on.

    Raises:
        EngineError: it ended for another reason (a filter, a failure).
    """
    finish = ending_of(choice)
    if finish is not None and finish not in _FINISHES:
        raise EngineError("the model's server ended the request for a reason of its own", code="upstream_error")
    return finish


def cached_tokens(event: Mapping[str, Any], before: int | None) -> int | None:
    """Tokens of the prompt that the server's cache held; ``before`` where this event does not say."""
    details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return cached if isinstance(cached, int) else before
