"""The policies by name, and their JSON form: ``{"name": ..., "parameters": {...}}``.

A policy from outside the project is a subclass of :class:`~experiments.policies.base.Policy` that its package
names under the entry point group ``curtail.policies``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from experiments.policies.answer_convergence import AnswerConvergence
from experiments.policies.base import Policy
from experiments.policies.confidence import Confidence
from experiments.policies.end_margin import EndMargin
from experiments.policies.entropy_plateau import EntropyPlateau
from experiments.policies.full import Full
from experiments.policies.parameters import parameters_of
from experiments.policies.plateau import Plateau
from experiments.policies.run_jump import RunJump
from experiments.policies.token_budget import TokenBudget

ENTRY_POINT_GROUP = "curtail.policies"
BUILT_IN: tuple[type[Policy], ...] = (
    Full,
    TokenBudget,
    EndMargin,
    AnswerConvergence,
    Confidence,
    EntropyPlateau,
    Plateau,
    RunJump,
)


class BadPolicyPlugin(Exception):
    """An installed package names something under ``curtail.policies`` that is no usable policy."""


class PolicyRegistry(Mapping[str, type[Policy]]):
    """The built-in policies and the installed ones, by name; those are looked for at the first use."""

    def __init__(self, built_in: Iterable[type[Policy]], installed: Iterable[EntryPoint] | None = None) -> None:
        self._built_in = tuple(built_in)
        self._installed = installed

    @cached_property
    def _by_name(self) -> dict[str, type[Policy]]:
        found: dict[str, type[Policy]] = {policy.name: policy for policy in self._built_in}
        for point in entry_points(group=ENTRY_POINT_GROUP) if self._installed is None else self._installed:
            policy = _load(point)
            if policy.name in found:
                raise BadPolicyPlugin(f"{point.value}: a policy named {policy.name!r} exists already")
            found[policy.name] = policy
        return found

    def __getitem__(self, name: str) -> type[Policy]:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def _load(point: EntryPoint) -> type[Policy]:
    try:
        policy = point.load()
    except Exception as error:
        raise BadPolicyPlugin(f"{point.value} cannot be loaded: {error}") from error
    if not isinstance(policy, type) or not issubclass(policy, Policy):
        raise BadPolicyPlugin(f"{point.value} must be a subclass of experiments.policies.Policy, got {policy!r}")
    missing = [
        name
        for name in ("name", "title", "summary", "source")
        if not isinstance(getattr(policy, name, None), str) or not getattr(policy, name)
    ]
    if missing:
        raise BadPolicyPlugin(f"{point.value} must state its {', '.join(missing)}")
    undeclared = [f.name for f in dataclasses.fields(policy) if f.name not in parameters_of(policy)]
    if undeclared:
        raise BadPolicyPlugin(f"{point.value} has fields that are no declared parameters: {', '.join(undeclared)}")
    return policy


POLICIES: Mapping[str, type[Policy]] = PolicyRegistry(BUILT_IN)


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


def policies_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the JSON form of any policy.

    Each alternative also says, as annotations, which ``signals`` it reads, which features it is ``eligible``
    for (requests beyond plain text), and its ``source``.
    """
    return {
        "title": "Policy",
        "oneOf": [
            {
                "title": cls.title,
                "description": cls.summary,
                "type": "object",
                "properties": {"name": {"const": name}, "parameters": policy_schema(cls)},
                "required": ["name", "parameters"] if policy_schema(cls)["required"] else ["name"],
                "additionalProperties": False,
                "signals": sorted(cls.signals),
                "eligible": sorted(cls.eligible),
                "source": cls.source,
            }
            for name, cls in POLICIES.items()
        ],
    }
