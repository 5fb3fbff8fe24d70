"""Requests that a server gets as they are, with all their parameters, and whose choices come back as the server sent
them: tools, structured output, several choices, log-probabilities.

Only the first choice is read, for the record; the tokens are those of all choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments.policies import Exit, ExitReason, Full
from experiments.remote_capabilities import effective_cap
from workers.engines.base import Delta, DeltaKind, FinishReason, GenerationResult
from workers.engines.openai_engine.bodies import ending_of, native_fields
from workers.engines.openai_engine.relay import Relay
from workers.engines.vllm_engine.plan import Plan

_FINISHES = frozenset(FinishReason) - {FinishReason.CANCELLED}


class PassingRelay(Relay):
    """One such request on its way through."""

    def _body(self) -> dict[str, Any]:
        request = self._request
        body = {**(request.passthrough or {}), **super()._body(), **native_fields(self._server, self._plan())}
        return body | {"stop": list(request.stop)} if request.stop else body

    def _plan(self) -> Plan | None:
        policy, profile = self._request.policy, self._profile
        if policy.max_thinking_tokens is None and self._request.client_cap is None:
            return None
        return Plan(
            Full(max_thinking_tokens=policy.max_thinking_tokens, wrap_up=policy.wrap_up),
            "",
            self._request.client_cap,
            profile.think_open,
            profile.think_close,
            profile.template_opens_thinking,
            profile.step_boundary,
        )

    def _take(self, event: Mapping[str, Any], name: str) -> list[Delta]:
        choices = tuple(event["choices"])
        for choice in choices:
            source = choice.get(name)
            source = source if isinstance(source, Mapping) else {}
            self._read(choice, source, first=choice.get("index", 0) == 0)
        if usage := event.get("usage"):
            self._streamed.hear(usage)
        if name == "message":
            self._choices = choices
        return [Delta(DeltaKind.CHOICES, "", choices)] if choices else []

    def _read(self, choice: Mapping[str, Any], source: Mapping[str, Any], *, first: bool) -> None:
        thought = source.get("reasoning") or source.get("reasoning_content")
        said = source.get("content")
        if thought and isinstance(thought, str):
            self._pieces[0] += 1
            self._thoughts += [thought] if first else []
        if said and isinstance(said, str):
            self._texts += [said] if first else []
        self._pieces[1] += bool(said or source.get("tool_calls"))
        ending = ending_of(choice)
        if ending is not None and (first or self._finish is None):
            self._finish = ending if ending in _FINISHES else FinishReason.STOP.value

    def _result(self) -> GenerationResult:
        """With the cap as the reason, where thinking came to it: the server ends it there without a word."""
        result = super()._result()
        request, left = self._request, result.exit
        cap = effective_cap(request.policy, request.client_cap)
        if cap is None or left is None or left.reason is not ExitReason.END_OF_THINKING or left.decision_step < cap:
            return result
        reason = request.policy.cap_reason if cap == request.policy.max_thinking_tokens else ExitReason.CLIENT_CAP
        return replace(result, exit=Exit(reason, left.decision_step, "ended by the model's server"))
