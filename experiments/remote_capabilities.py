"""Which policies can be applied on a remote server, and how. Pure."""

from __future__ import annotations

from enum import Enum

from experiments.policies import Policy, Signal
from experiments.remote_server import Budget, Continues, RemoteServer, Tokens


class Way(Enum):
    """How thinking is ended early."""

    NATIVE = "native"  # by the server, which is told with the request
    CUT = "cut"  # by leaving the stream and continuing with the end of thinking behind the text


def refusal(server: RemoteServer, policy: Policy, client_cap: int | None = None) -> str | None:
    """Why a policy cannot be applied on a server; None: it can.

    Args:
        server: the server.
        policy: the policy.
        client_cap: the client's own limit on thinking tokens, or None.
    """
    if (reason := _signals_refusal(server, policy)) is not None:
        return reason
    cap = effective_cap(policy, client_cap)
    may_end = cap is not None or bool(policy.signals)
    if not may_end:
        return None
    if server.continues is Continues.NO and server.budget is Budget.NONE:
        return f"policy {policy.name} ends thinking early; the server has no thinking budget and continues no text"
    if policy.wrap_up and way(server, policy) is Way.NATIVE and server.budget is not Budget.CURTAIL:
        return f"policy {policy.name} has a wrap-up phrase, which the server's own {server.budget} cannot write"
    if way(server, policy) is Way.NATIVE and server.budget is Budget.REASONING_EFFORT:
        least = min(server.efforts.values())
        if cap is not None and cap < least:
            return f"a limit of {cap} thinking tokens is below the server's least reasoning_effort, {least}"
    return None


def passing_refusal(server: RemoteServer, policy: Policy, client_cap: int | None = None) -> str | None:
    """Why a policy cannot be applied to a request that is passed on to a server as it is; None: it can."""
    if policy.signals:
        return f"policy {policy.name} reads signals, and nothing is measured in a request that is passed on as it is"
    if effective_cap(policy, client_cap) is not None and way(server, policy) is Way.CUT:
        return "the server has no thinking budget, and a request that is passed on as it is cannot be cut and continued"
    return refusal(server, policy, client_cap)


def way(server: RemoteServer, policy: Policy) -> Way:
    """How the thinking of a request with this policy is ended early."""
    if policy.needs_branch or server.budget is Budget.NONE:
        return Way.CUT
    if policy.wrap_up and server.budget is not Budget.CURTAIL and server.continues is not Continues.NO:
        return Way.CUT
    return Way.NATIVE


def effective_cap(policy: Policy, client_cap: int | None) -> int | None:
    """The smaller of the policy's and the client's limit on thinking tokens; None: neither has one."""
    return min((cap for cap in (policy.max_thinking_tokens, client_cap) if cap is not None), default=None)


def effort_for(server: RemoteServer, cap: int) -> str:
    """The largest effort within a limit.

    Raises:
        ValueError: there is none.
    """
    within = {name: tokens for name, tokens in server.efforts.items() if tokens <= cap}
    return max(within, key=lambda name: within[name])


def _signals_refusal(server: RemoteServer, policy: Policy) -> str | None:
    if Signal.END_ENTROPY in policy.signals:
        return f"policy {policy.name} reads an entropy; a server tells a few likely tokens only, which gives none"
    if Signal.END_MARGIN in policy.signals:
        if policy.needs_branch:
            return f"policy {policy.name} reads the running request and branches of it; a server gives one or the other"
        if server.budget is not Budget.CURTAIL or server.tokens is not Tokens.IDS:
            return f"policy {policy.name} reads the running request, which needs the plugin and token ids in the server"
        if not server.logprobs:
            return f"policy {policy.name} reads log-probabilities, which the server does not tell"
    if policy.needs_branch:
        if server.continues is Continues.NO:
            return f"policy {policy.name} needs trial answers; the server continues no text"
        if Signal.TRIAL_CONFIDENCE in policy.signals and not server.logprobs:
            return f"policy {policy.name} reads the probabilities of trial answers, which the server does not tell"
    return None
