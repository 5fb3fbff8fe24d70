"""What each engine can do with each policy and each kind of request: the one place that says so. Pure.

A cell is supported, and tested by the engines' contract suite, or refused with its reason when an experiment starts.
What a given remote server lacks beyond that is for `experiments.remote_capabilities`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from experiments.policies import BUILT_IN, Policy, RequestFeature, Signal


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """What an engine can do.

    Attributes:
        name: as model profiles name it.
        title: for people.
        signals: what it can measure.
        mixes: whether one policy may read branches and the running request.
        speculative: whether exits are applied with speculative decoding; None: it has none.
        features: requests beyond plain text; it passes them on to its server as they are.
        along_records: what it can measure along a recorded thought that is fed, which shadow runs need; None: it feeds
            no records.
        why_not: reasons for what it cannot, by signal.
    """

    name: str
    title: str
    signals: frozenset[Signal]
    mixes: bool = True
    speculative: bool | None = None
    features: frozenset[RequestFeature] = frozenset()
    along_records: frozenset[Signal] | None = frozenset(Signal)
    why_not: Mapping[Signal, str] | None = None


@dataclass(frozen=True, slots=True)
class Capability:
    """One cell.

    Attributes:
        supported: whether the policy is applied.
        reason: why not; "" where it is.
    """

    supported: bool
    reason: str = ""


YES = Capability(True)

ENGINES: Mapping[str, EngineTraits] = {
    traits.name: traits
    for traits in (
        EngineTraits("transformers", "transformers", frozenset(Signal)),
        EngineTraits(
            "vllm",
            "vLLM in the worker",
            frozenset(Signal),
            mixes=False,
            speculative=False,
            along_records=frozenset(Signal) - {Signal.END_MARGIN},
        ),
        EngineTraits(
            "openai",
            "an OpenAI-compatible server",
            frozenset(Signal) - {Signal.END_ENTROPY},
            mixes=False,
            features=frozenset(RequestFeature),
            along_records=None,
            why_not={Signal.END_ENTROPY: "it tells a few likely tokens only, which gives no entropy"},
        ),
        EngineTraits("scripted", "scripted", frozenset(Signal)),
    )
}


def capability(
    engine: EngineTraits,
    policy: Policy | type[Policy],
    features: Iterable[RequestFeature] = (),
    *,
    speculative: bool = False,
) -> Capability:
    """Whether an engine applies a policy to a kind of request.

    Args:
        engine: the engine.
        policy: the policy, or its class.
        features: what the request asks for beyond plain text.
        speculative: whether the engine runs with speculative decoding.
    """
    if unseen := sorted(policy.signals - engine.signals):
        why = (engine.why_not or {}).get(unseen[0], "it cannot measure that")
        return Capability(False, f"{policy.name} reads {unseen[0]}, and {engine.title} does not: {why}")
    branches = {signal for signal in policy.signals if signal.needs_branch}
    if not engine.mixes and branches and branches != policy.signals:
        return Capability(
            False, f"{policy.name} reads branches and the running request; {engine.title} gives one or the other"
        )
    if speculative and not engine.speculative:
        if engine.speculative is None:
            return Capability(False, "the engine has no speculative decoding")
        return Capability(False, "with speculative decoding a step has several tokens, and an exit would come late")
    for feature in features:
        if feature not in policy.eligible:
            return Capability(False, "the policy judges a plain answer behind one think phase: not eligible")
        if feature not in engine.features:
            return Capability(False, "the engine serves no such requests")
        if policy.signals:
            return Capability(False, "such a request is passed on as it is: nothing is measured in it")
    return YES


def shadow_capability(engine: EngineTraits, policy: Policy) -> Capability:
    """Whether a policy's requests can be shadowed: a recorded thought is fed and goes on under another policy."""
    if engine.along_records is None:
        return Capability(False, f"{engine.title} feeds no recorded thoughts")
    if unseen := sorted(policy.signals - engine.along_records):
        return Capability(False, f"{engine.title} cannot measure {unseen[0]} along a recorded thought")
    return YES


def matrix() -> str:
    """The matrix of the built-in policies as a Markdown table, with the reasons below it."""
    notes: dict[str, int] = {}
    lines = ["| policy | engine | plain text | speculative decoding | " + " | ".join(RequestFeature) + " |"]
    lines.append("|---|---|---|---|" + "---|" * len(RequestFeature))
    for policy in BUILT_IN:
        for engine in ENGINES.values():
            cells = [capability(engine, policy, speculative=speculative) for speculative in (False, True)]
            cells += [capability(engine, policy, [feature]) for feature in RequestFeature]
            lines.append(f"| `{policy.name}` | {engine.name} | " + " | ".join(_cell(c, notes) for c in cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for reason, number in notes.items())])


def _cell(cell: Capability, notes: dict[str, int]) -> str:
    if cell.supported:
        return "yes"
    return f"no ({notes.setdefault(cell.reason, len(notes) + 1)})"
