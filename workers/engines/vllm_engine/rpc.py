"""What the engine may call in vLLM's worker processes (vLLM mixes this class into its own worker)."""

from __future__ import annotations

from typing import Any

from workers.engines.vllm_engine.in_place import CONTROLS


class InPlaceRpc:
    """Reached by ``AsyncLLM.collective_rpc``. Names are long because the worker's own methods stand beside them."""

    def curtail_end_thinking(self, key: str) -> bool:
        """End the thinking of a running request; False: it is not known."""
        return CONTROLS.tell(key)

    def curtail_take_notes(self, key: str) -> dict[str, Any]:
        """What was read and decided in a request, which is forgotten (plain values: they cross processes)."""
        control = CONTROLS.take(key)
        if control is None:
            return {"readings": [], "decision": None}
        decision = control.decision
        return {
            "readings": control.readings,
            "decision": decision and [decision.reason.value, decision.decision_step, decision.detail],
        }
