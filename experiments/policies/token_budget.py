"""`token_budget`: a fixed number of thinking tokens, whatever the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.policies.base import MAX_TOKENS, Exit, ExitReason, Observation, Policy
from experiments.policies.parameters import Parameter, declare


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBudget(Policy):
    """Ends thinking at exactly ``max_thinking_tokens`` (budget forcing: Muennighoff et al. 2025, s1, section 3.1)."""

    name: ClassVar[str] = "token_budget"
    title: ClassVar[str] = "Token budget"
    summary: ClassVar[str] = "End thinking after a fixed number of tokens."
    source: ClassVar[str] = "budget forcing (s1, arXiv:2501.19393); thinking budgets of vLLM, Qwen, Anthropic, Gemini"
    cap_reason: ClassVar[ExitReason] = ExitReason.TOKEN_BUDGET

    max_thinking_tokens: int = declare(
        Parameter(int, "Thinking ends after so many tokens.", unit="tokens", minimum=1, maximum=MAX_TOKENS)
    )

    def observe(self, state: Any, observation: Observation) -> tuple[Any, Exit | None]:
        return state, None
