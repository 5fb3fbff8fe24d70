"""Which plans a request to a stock server may bring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curtail_vllm.workers.engines.vllm_engine.plan import ARGUMENT, Plan

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams


def check(params: SamplingParams) -> None:
    """Refuse a plan that cannot be followed.

    Raises:
        ValueError: the message names the field and the value.
    """
    plan = Plan.from_arguments(params.extra_args)
    # Both are for an engine that talks with its sampler; here two clients could choose the same key.
    if plan is not None and plan.key:
        raise ValueError(f"{ARGUMENT}.key is for Curtail's own engine, got {plan.key!r}")
    if plan is not None and plan.entropy:
        raise ValueError(f"{ARGUMENT}.entropy is for Curtail's own engine, got true")
