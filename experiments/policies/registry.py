"""The policies by name, and their JSON form: ``{"name": ..., "parameters": {...}}``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from experiments.policies.answer_convergence import AnswerConvergence
from experiments.policies.base import Policy
from experiments.policies.confidence import Confidence
from experiments.policies.full import Full
from experiments.policies.parameters import parameters_of
from experiments.policies.token_budget import TokenBudget

POLICIES: Mapping[str, type[Policy]] = {
    policy.name: policy for policy in (Full, TokenBudget, AnswerConvergence, Confidence)
}


def policy_from_spec(spec: object) -> Policy:
    """The policy that a JSON value describes.

    Raises:
        ValueError: the value has another shape, an unknown policy or parameter, a missing
            parameter, or one out of bounds; the message names it.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ValueError(f'policy must be an object {{"name": ..., "parameters": {{...}}}}, got {spec!r}')
    if unknown := sorted(set(spec) - {"name", "parameters"}):
        raise ValueError(f"policy has unknown fields: {', '.join(map(str, unknown))}")
    cls = POLICIES.get(spec["name"])
    if cls is None:
        raise ValueError(f"policy.name must be one of {', '.join(POLICIES)}, got {spec['name']!r}")
    values = spec.get("parameters", {})
    if not isinstance(values, Mapping):
        raise ValueError(f"policy.parameters must be an object, got {values!r}")
    declared = parameters_of(cls)
    if unknown := sorted(set(values) - set(declared)):
        raise ValueError(f"{cls.name} has no parameter {', '.join(map(str, unknown))}; it takes {', '.join(declared)}")
    missing = [n for n, (_, f) in declared.items() if f.default is dataclasses.MISSING and n not in values]
    if missing:
        raise ValueError(f"{cls.name} needs {', '.join(missing)}")
    return cls(**values)


def policy_to_spec(policy: Policy) -> dict[str, Any]:
    """The JSON form of a policy, every parameter written out."""
    return {
        "name": policy.name,
        "parameters": {name: getattr(policy, name) for name in parameters_of(type(policy))},
    }


def policy_version(policy: Policy) -> str:
    """Version of a policy by its content: equal policies have equal versions (12 hex digits)."""
    canonical = json.dumps(policy_to_spec(policy), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def policy_schema(cls: type[Policy]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a policy's parameters, with units, defaults and bounds."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, (parameter, field) in parameters_of(cls).items():
        properties[name] = parameter.schema()
        if field.default is dataclasses.MISSING:
            required.append(name)
        else:
            properties[name]["default"] = field.default
    return {
        "title": cls.title,
        "description": cls.summary,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
