"""Early exit as it is published: a loop outside the engine that asks for every chunk anew.

Each chunk is a request of its own over the whole text so far, and each trial answer another one, before the next chunk
is asked for (DEER's and Dynasor's released code work like this). Curtail's own engine is used as the server, so that
nothing but the way of asking differs.
"""

from __future__ import annotations

import time
from typing import Any

from experiments.policies import Exit, Observation, Policy, PolicyRun, Step
from workers.engines.base import ThinkingProfile
from workers.engines.driver import Ask
from workers.engines.sequence import trial_answer
from workers.engines.vocabulary import encode_chat


class ReissueProxy:
    """Serves one request at a time and counts what it costs.

    Args:
        engine: a started VLLMEngine.
        profile: how the model thinks.
        chunk: thinking tokens that are asked for at once.
    """

    def __init__(self, engine: Any, profile: ThinkingProfile, chunk: int) -> None:
        self._decoder = engine._decoder
        self._tokenizer = engine._tokenizer
        self._vocabulary = engine._vocabulary
        self._profile = profile
        self._chunk = chunk
        self.decoded = 0
        self.prefilled = 0

    async def serve(self, request: Any, policy: Policy) -> float:
        """Think in chunks until the policy or the model ends it, then answer; the seconds it took."""
        began = time.perf_counter()
        prompt = encode_chat(self._tokenizer, request.messages, self._profile)
        own: list[int] = []
        run = PolicyRun(policy)
        number = 0
        close = self._vocabulary.close_ids[0]
        while close not in own:
            own += await self._ask(f"{request.id}/c{number}", [*prompt, *own], self._chunk)
            number += 1
            if close in own or len(prompt) + len(own) + 64 > self._profile.max_context_tokens:
                break
            step = run.after_token(len(own), at_boundary=True)
            if isinstance(step, Exit):
                break
            if step is Step.PROBE:
                branch = [*prompt, *own, *self._vocabulary.close_ids, *self._vocabulary.suffix_ids]
                said = await self._ask(f"{request.id}/p{number}", branch, self._profile.max_trial_tokens)
                ended = said[-1] in self._vocabulary.end_ids
                words = said[:-1] if ended else said
                trial = trial_answer(words, [0.0] * len(words), ended, self._vocabulary, self._profile)
                if run.observe(Observation(len(own), trial)) is not None:
                    break
        if close not in own:
            own.append(close)
        await self._ask(f"{request.id}/a", [*prompt, *own], 32)
        return time.perf_counter() - began

    async def _ask(self, name: str, prompt: list[int], limit: int) -> list[int]:
        tokens: list[int] = []
        cached = 0
        async for piece in self._decoder.decode(Ask(name, prompt, limit)):
            tokens += piece.tokens
            cached = max(cached, piece.cached)
        self.decoded += len(tokens)
        self.prefilled += len(prompt) - cached
        return tokens
