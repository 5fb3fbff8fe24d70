"""One policy watching one request: the only place where schedule, caps and state meet."""

from __future__ import annotations

from enum import Enum

from experiments.policies.base import Exit, ExitReason, Observation, Policy


class Step(Enum):
    """What an engine does after a thinking token."""

    GO_ON = "go on"
    PROBE = "probe"


class PolicyRun:
    """Drives one policy through one think phase; every engine and the replay use it.

    The engine calls :meth:`after_token` for each thinking token. On ``Step.PROBE`` it measures
    the policy's signals at this very point and calls :meth:`observe`: at once, or later in the order
    of the probe points while thinking runs ahead. An :class:`Exit` from either ends thinking.

    Attributes:
        observations: what the policy has seen so far, in order.

    Args:
        policy: the policy.
        client_cap: a limit on thinking tokens that came with the request, or None. The smaller of
            it and the policy's own cap holds.
    """

    def __init__(self, policy: Policy, client_cap: int | None = None) -> None:
        self.policy = policy
        self.observations: list[Observation] = []
        self._state = policy.initial_state()
        self._schedule = policy.schedule()
        self._next_probe = self._schedule.first() if self._schedule else None
        caps = [
            (cap, reason)
            for cap, reason in (
                (policy.max_thinking_tokens, policy.cap_reason),
                (client_cap, ExitReason.CLIENT_CAP),
            )
            if cap is not None
        ]
        self._cap = min(caps, key=lambda pair: pair[0]) if caps else None

    def after_token(self, thinking_tokens: int, at_boundary: bool) -> Step | Exit:
        """What to do after thinking token number ``thinking_tokens`` (1, 2, ...).

        Args:
            thinking_tokens: tokens decoded inside the think phase so far, this one included.
            at_boundary: whether this token ends a step. A model without a step boundary passes True.
        """
        if self._cap is not None and thinking_tokens >= self._cap[0]:
            limit, reason = self._cap
            return Exit(reason, thinking_tokens, f"{thinking_tokens} thinking tokens (limit {limit})")
        if self._schedule is None or self._next_probe is None:
            return Step.GO_ON
        if not at_boundary or thinking_tokens < self._next_probe:
            return Step.GO_ON
        self._next_probe = self._schedule.after(thinking_tokens)
        return Step.PROBE

    @property
    def asleep_until(self) -> int | None:
        """Thinking tokens before which :meth:`after_token` has nothing to say; None: it never has."""
        points = [self._cap[0]] if self._cap is not None else []
        if self._next_probe is not None:
            points.append(self._next_probe)
        return min(points) if points else None

    def observe(self, observation: Observation) -> Exit | None:
        """Feed the measured signals of a probe point; an exit if thinking is to end there."""
        if self._schedule is None:
            raise RuntimeError(f"policy {self.policy.name} declared no probe schedule, so it takes no observation")
        self.observations.append(observation)
        self._state, decision = self.policy.observe(self._state, observation)
        return decision

    def foresee(self, observation: Observation) -> Exit | None:
        """What :meth:`observe` would say, with nothing remembered (a policy never changes, its state is a value)."""
        return self.policy.observe(self._state, observation)[1]
