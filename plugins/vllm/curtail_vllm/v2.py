"""``--logits-processors curtail_vllm.v2:InPlaceExits``: for vLLM's second model runner (the default on GPUs)."""

from __future__ import annotations

from vllm.sampling_params import SamplingParams

from curtail_vllm.requests import check
from curtail_vllm.workers.engines.vllm_engine import sampler_v2


class InPlaceExits(sampler_v2.InPlaceExits):
    """Ends thinking in place, as each request's ``vllm_xargs`` say."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse an unusable plan when the request comes in: the client gets a 400 that says why."""
        check(sampling_params)
