"""Chat messages: text, and those of the tool protocol. Pure."""

from __future__ import annotations

from typing import Any

from experiments.gateway.errors import invalid
from experiments.gateway.fields import shown
from experiments.gateway.special import Special
from experiments.policies import RequestFeature

ROLES = ("system", "developer", "user", "assistant", "tool")


def read_messages(value: object, special: Special) -> list[dict[str, Any]]:
    """The messages of a body; those of the tool protocol are noted in ``special``. Raises ApiError."""
    if not isinstance(value, list) or not value:
        raise invalid("messages", "messages must be a list of at least one message")
    return [_message(f"messages[{number}]", message, special) for number, message in enumerate(value)]


def _message(where: str, message: object, special: Special) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise invalid(where, f"{where} must be an object")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise invalid(f"{where}.role", f"{where}.role must be one of {', '.join(ROLES)}, got {shown(role)}")
    protocol = _tool_protocol(where, message, special)
    if isinstance(content, list):
        content = "".join(_text_part(where, part) for part in content)
    if not isinstance(content, str) and not (content is None and "tool_calls" in protocol):
        raise invalid(f"{where}.content", f"{where}.content must be text or a list of text parts")
    return {"role": role, "content": content, **protocol}


def _tool_protocol(where: str, message: dict[str, Any], special: Special) -> dict[str, Any]:
    """What a message has for the sake of tools."""
    if message["role"] == "tool":
        special.ask(RequestFeature.TOOLS, f"{where}.role")
        special.ask(RequestFeature.INTERLEAVED_THINKING, f"{where}.role")
        call = message.get("tool_call_id")
        if call is not None and not isinstance(call, str):
            raise invalid(f"{where}.tool_call_id", f"{where}.tool_call_id must be text, got {shown(call)}")
        return {} if call is None else {"tool_call_id": call}
    calls = message.get("tool_calls")
    if message["role"] != "assistant" or calls is None:
        return {}
    if not isinstance(calls, list) or not calls or not all(isinstance(call, dict) for call in calls):
        raise invalid(f"{where}.tool_calls", f"{where}.tool_calls must be a list of at least one object")
    special.ask(RequestFeature.TOOLS, f"{where}.tool_calls")
    return {"tool_calls": calls}


def _text_part(where: str, part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise invalid(f"{where}.content", f"{where}.content must hold text parts only")
