"""Parameters that ask for more than plain text: which feature each asks for, and what of it goes on to a server. Pure.

They are checked as far as the gateway must know them; the rest is for the server to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.gateway import fields
from experiments.gateway.dialect import UnknownParameters
from experiments.gateway.errors import invalid
from experiments.policies import RequestFeature

NAMES = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "response_format", "n", "logprobs", "top_logprobs"}
)  # fmt: skip
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
# Others would let the server call addresses of the client's choice.
_TOOL_TYPES = ("function", "custom")
# How tokens are drawn: these go well with any policy, and with the trial answers, which are greedy whatever they say.
_SAMPLING = frozenset({"top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"})
# They would steer the plugin that ends thinking, or make a server speak to others.
_NEVER_FORWARDED = frozenset({"vllm_xargs", "kv_transfer_params", "web_search_options", "plugins"})


@dataclass(slots=True)
class Special:
    """What a request asks for beyond plain text.

    Attributes:
        features: each with the parameter that asks for it.
        passed: parameters that go on as they are.
        sampling: forwarded parameters of sampling, which change nothing else.
    """

    features: dict[RequestFeature, str] = field(default_factory=dict)
    passed: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)

    def ask(self, feature: RequestFeature, param: str) -> None:
        """Note that ``param`` asks for a feature."""
        self.features.setdefault(feature, param)

    def add(self, feature: RequestFeature, name: str, value: Any) -> None:
        """Note a parameter that asks for a feature and goes on."""
        self.ask(feature, name)
        self.passed[name] = value


def read_special(data: Mapping[str, Any]) -> Special:
    """The special parameters of a body. Raises ApiError."""
    special = Special()
    _tools(data, special)
    _response_format(data, special)
    if (n := fields.integer(data, "n", 1, MAX_CHOICES)) is not None and n > 1:
        special.add(RequestFeature.SEVERAL_CHOICES, "n", n)
    _logprobs(data, special)
    return special


def read_unknown(data: Mapping[str, Any], known: frozenset[str], rule: UnknownParameters, special: Special) -> None:
    """Deal with the parameters that nobody knows. Raises ApiError where they are refused."""
    for name in sorted(set(data) - known):
        if rule is UnknownParameters.REFUSE or (rule is UnknownParameters.FORWARD and name in _NEVER_FORWARDED):
            raise invalid(name, f"parameter {fields.shown(name)} is not supported", "unsupported_parameter")
        if rule is UnknownParameters.FORWARD and data[name] is not None:
            if name in _SAMPLING:
                special.sampling[name] = data[name]
            else:
                special.add(RequestFeature.OTHER_PARAMETERS, name, data[name])


def _tools(data: Mapping[str, Any], special: Special) -> None:
    if (tools := data.get("tools")) is not None:
        if not isinstance(tools, list) or not tools or not all(isinstance(tool, dict) for tool in tools):
            raise invalid("tools", "tools must be a list of at least one object")
        for at, tool in enumerate(tools):
            if tool.get("type") not in _TOOL_TYPES:
                where, given = f"tools[{at}].type", fields.shown(tool.get("type"))
                raise invalid(where, f"{where} must be one of {', '.join(_TOOL_TYPES)}, got {given}")
        special.add(RequestFeature.TOOLS, "tools", tools)
    if (choice := data.get("tool_choice")) is not None:
        if not isinstance(choice, str | dict):
            raise invalid("tool_choice", f"tool_choice must be text or an object, got {fields.shown(choice)}")
        special.add(RequestFeature.TOOLS, "tool_choice", choice)
    if data.get("parallel_tool_calls") is not None:
        special.add(RequestFeature.TOOLS, "parallel_tool_calls", fields.boolean(data, "parallel_tool_calls"))


def _response_format(data: Mapping[str, Any], special: Special) -> None:
    wanted = data.get("response_format")
    if wanted is None:
        return
    if not isinstance(wanted, dict) or not isinstance(wanted.get("type"), str):
        raise invalid("response_format", "response_format must be an object with a type")
    if wanted["type"] != "text":
        special.add(RequestFeature.STRUCTURED_OUTPUT, "response_format", wanted)


def _logprobs(data: Mapping[str, Any], special: Special) -> None:
    wanted = fields.boolean(data, "logprobs")
    top = fields.integer(data, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top is not None and not wanted:
        raise invalid("top_logprobs", "top_logprobs is only allowed when logprobs is true")
    if wanted:
        special.add(RequestFeature.LOGPROBS, "logprobs", True)
        special.passed |= {} if top is None else {"top_logprobs": top}
