"""Policies from outside the project, by entry point."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, ClassVar

import pytest

from experiments.policies import BUILT_IN, BadPolicyPlugin, Exit, ExitReason, Observation, Policy
from experiments.policies.parameters import Parameter, declare
from experiments.policies.registry import ENTRY_POINT_GROUP, PolicyRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryOther(Policy):
    """A policy as somebody else would write it."""

    name: ClassVar[str] = "every_other"
    title: ClassVar[str] = "Every other"
    summary: ClassVar[str] = "End thinking at the second look."
    source: ClassVar[str] = "a test"

    looks: int = declare(Parameter(int, "Looks.", unit="probes", minimum=1, maximum=9), default=2)

    def observe(self, state: Any, observation: Observation) -> tuple[Any, Exit | None]:
        return state, Exit(ExitReason.CONVERGED, observation.thinking_tokens)


class Undeclared(EveryOther):
    """Has no source."""

    name: ClassVar[str] = "undeclared"
    source: ClassVar[str] = ""


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the entry point of an object in an importable module."""
    module = ModuleType("somebody_elses_policies")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make(value: object) -> EntryPoint:
        module.thing = value  # type: ignore[attr-defined]
        return EntryPoint("thing", "somebody_elses_policies:thing", ENTRY_POINT_GROUP)

    return make


def test_an_installed_policy_stands_beside_the_built_in_ones(point: Any) -> None:
    registry = PolicyRegistry(BUILT_IN, [point(EveryOther)])
    assert registry["every_other"] is EveryOther
    assert list(registry) == [*(policy.name for policy in BUILT_IN), "every_other"]


def test_a_name_that_is_taken_is_refused(point: Any) -> None:
    with pytest.raises(BadPolicyPlugin, match="a policy named 'full' exists already"):
        len(PolicyRegistry(BUILT_IN, [point(BUILT_IN[0])]))


@pytest.mark.parametrize(
    ("value", "message"),
    [(7, "must be a subclass of experiments.policies.Policy, got 7"), (Undeclared, "must state its source")],
)
def test_what_is_no_policy_is_refused(point: Any, value: object, message: str) -> None:
    with pytest.raises(BadPolicyPlugin, match=message):
        len(PolicyRegistry(BUILT_IN, [point(value)]))


def test_what_cannot_be_imported_is_named() -> None:
    missing = EntryPoint("x", "no_such_module:Policy", ENTRY_POINT_GROUP)
    with pytest.raises(BadPolicyPlugin, match="no_such_module:Policy cannot be loaded"):
        len(PolicyRegistry(BUILT_IN, [missing]))
