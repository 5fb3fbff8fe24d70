"""The tokenizer inside vLLM's processes: one vocabulary for each way to write the think tags."""

from __future__ import annotations

from typing import Any

from workers.engines.base import ThinkingProfile
from workers.engines.vllm_engine.plan import Plan
from workers.engines.vocabulary import HuggingFaceVocabulary

# Tags come with requests: so many ways to write them are kept.
MAX_TAGS = 64


class Vocabularies:
    """Vocabularies over one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        end_ids: end-of-sequence tokens.
    """

    def __init__(self, tokenizer: Any, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._by_tags: dict[tuple[str, str], HuggingFaceVocabulary] = {}

    @classmethod
    def of(cls, vllm_config: Any) -> Vocabularies:
        """Those of the model that vLLM serves."""
        from transformers import AutoTokenizer

        model = vllm_config.model_config
        tokenizer = AutoTokenizer.from_pretrained(model.tokenizer, trust_remote_code=model.trust_remote_code)
        # vLLM itself ends requests: here any end token will do.
        return cls(tokenizer, frozenset({tokenizer.eos_token_id or 0}))

    def get(self, plan: Plan) -> HuggingFaceVocabulary:
        """The vocabulary with a plan's tags.

        Raises:
            EngineError: a tag has no token.
        """
        tags = plan.think_open, plan.think_close
        if tags not in self._by_tags:
            if len(self._by_tags) >= MAX_TAGS:
                self._by_tags.clear()
            profile = ThinkingProfile(think_open=plan.think_open, think_close=plan.think_close)
            self._by_tags[tags] = HuggingFaceVocabulary(self._tokenizer, profile, self._end_ids)
        return self._by_tags[tags]
