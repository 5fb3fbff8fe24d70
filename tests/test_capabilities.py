"""The capability matrix: every cell is covered by the engines' contract, or refused with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from experiments.capabilities import ENGINES, EngineTraits, capability, matrix
from experiments.models import ModelProfile
from experiments.policies import BUILT_IN, Exit, Observation, Policy, RequestFeature, Signal
from tests.engines.contract import ADAPTIVE

DOCS = Path(__file__).resolve().parents[1] / "docs" / "engines.md"
ROWS = [(engine, policy) for engine in ENGINES.values() for policy in BUILT_IN]


@dataclass(frozen=True, slots=True, kw_only=True)
class Both(Policy):
    """Reads branches and the running request."""

    name: ClassVar[str] = "both"
    signals: ClassVar[frozenset[Signal]] = frozenset({Signal.END_MARGIN, Signal.TRIAL_ANSWER})

    def observe(self, state: Any, observation: Observation) -> tuple[Any, Exit | None]:
        return state, None


@pytest.mark.parametrize(("engine", "policy"), ROWS, ids=lambda value: getattr(value, "name", ""))
def test_every_built_in_policy_is_supported_and_in_the_contract(engine: EngineTraits, policy: type[Policy]) -> None:
    able = capability(engine, policy)
    assert able.supported or able.reason
    if able.supported and policy.signals:
        assert policy in {type(one) for one in ADAPTIVE}


@pytest.mark.parametrize(("engine", "policy"), ROWS, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("feature", list(RequestFeature))
def test_a_feature_that_is_refused_has_a_reason(
    engine: EngineTraits, policy: type[Policy], feature: RequestFeature
) -> None:
    able = capability(engine, policy, [feature])
    assert able.supported == (feature in policy.eligible and feature in engine.features and not policy.signals)
    assert bool(able.reason) != able.supported


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_exits_with_speculative_decoding_are_refused(engine: EngineTraits) -> None:
    assert "speculative decoding" in capability(engine, BUILT_IN[0], speculative=True).reason


def test_a_policy_that_reads_both_is_refused_where_one_excludes_the_other() -> None:
    assert "gives one or the other" in capability(ENGINES["vllm"], Both).reason
    assert capability(ENGINES["transformers"], Both).supported


def test_a_signal_that_an_engine_lacks_is_named() -> None:
    poor = EngineTraits("poor", "poor", frozenset(), why_not={Signal.END_MARGIN: "it hides its logits"})
    reason = capability(poor, Both).reason
    assert reason == "both reads end_margin, and poor does not: it hides its logits"


def test_every_engine_that_a_profile_may_name_has_traits() -> None:
    assert set(ENGINES) == set(ModelProfile.Engine.values)


def test_the_docs_show_the_matrix() -> None:
    assert matrix() in DOCS.read_text()
