"""Requests beyond plain text: which of them a model's engine serves, and when `full` serves them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from experiments.capabilities import ENGINES, capability
from experiments.policies import Full, Policy, RequestFeature, policy_from_spec, policy_to_spec, policy_version
from experiments.routing import Arm, Assignment, Route

# Whether what serves a checkpoint applies a policy to a request that it gets as it is.
Passes = Callable[[int, Policy], bool]
# The parameter of a request that a person knows a feature by.
NAMES: Mapping[RequestFeature, str] = {
    RequestFeature.TOOLS: "tools",
    RequestFeature.STRUCTURED_OUTPUT: "response_format",
    RequestFeature.SEVERAL_CHOICES: "n",
    RequestFeature.LOGPROBS: "logprobs",
    RequestFeature.INTERLEAVED_THINKING: "interleaved_thinking",
    RequestFeature.OTHER_PARAMETERS: "other_parameters",
}
_FULL = Full()
_FULL_SPEC, _FULL_VERSION = policy_to_spec(_FULL), policy_version(_FULL)


def never(checkpoint_id: int, policy: Policy) -> bool:
    """Of engines that pass nothing on."""
    return False


def unserved(
    engine: str, features: Mapping[RequestFeature, str], sampling: Iterable[str] = ()
) -> tuple[str, str] | None:
    """The first parameter that asks for what an engine does not serve, and why; None: it serves all.

    Args:
        engine: its name.
        features: what the request asks for beyond plain text, and by which parameter.
        sampling: names of forwarded parameters of sampling.
    """
    asked = [*features.items(), *((RequestFeature.OTHER_PARAMETERS, name) for name in sampling)]
    traits = ENGINES.get(engine)
    for feature, param in asked:
        if traits is None or feature not in traits.features:
            where = traits.title if traits is not None else "its engine"
            why = f"it runs on {where}, which decodes plain text; models behind an OpenAI-compatible server take it"
            return param, why
    return None


def set_aside(route: Route, features: Mapping[RequestFeature, str], passes: Passes) -> tuple[str, ...]:
    """Names of what one of the use case's policies is not made for; empty: all apply.

    All arms are judged, whichever would be drawn: else an experiment would lose such requests from one arm alone.
    """
    if not features:
        return ()
    lacking: set[RequestFeature] = set()
    for arm in route.arms:
        policy = policy_from_spec(arm.policy)
        traits = ENGINES[route.engine]
        found = {feature for feature in features if not capability(traits, policy, [feature]).supported}
        if not found and not passes(arm.checkpoint_id, policy):
            found = set(features)
        lacking |= found
    return tuple(sorted({NAMES[feature] for feature in lacking}))


def by_full(route: Route) -> Assignment:
    """`full` on the use case's own checkpoint, unexposed."""
    return Assignment(Arm(route.in_force.checkpoint_id, _FULL_SPEC, _FULL_VERSION), None, "")
