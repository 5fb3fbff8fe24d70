"""A sampler as vLLM has one: logits of a scripted model in, the control's word about the next token, a token out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from tests.engines.scripted import ScriptedModel
from workers.engines.scripted_engine import END, WordVocabulary, split_words
from workers.engines.vllm_engine.in_place import Control, Row, apply
from workers.engines.vllm_engine.plan import Plan

# Width of the logits: more words than any script here has.
WIDTH = 64


def vocabulary_of(model: ScriptedModel, wrap_up: str = "") -> WordVocabulary:
    """All words that may come up, in a fixed order."""
    vocabulary = WordVocabulary(model.open_tag, model.close_tag, model.suffix)
    vocabulary.ids([*model.script, *split_words(wrap_up), *model.answer(0)])
    return vocabulary


@dataclass
class Sampler:
    """Decodes one request, greedily.

    Attributes:
        model: what it would write by itself.
        plan: of the request.
        tokens: its own tokens.
        forced: the places of those that the control forced.
    """

    model: ScriptedModel
    plan: Plan
    vocabulary: WordVocabulary = field(init=False)
    control: Control = field(init=False)
    tokens: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.vocabulary = vocabulary_of(self.model, self.plan.policy.wrap_up)
        self.control = Control(self.plan, self.vocabulary)

    @property
    def words(self) -> list[str]:
        """Its own tokens as words."""
        return self.vocabulary.words(self.tokens)

    def logits(self) -> torch.Tensor:
        """float [1, words]: the next word is the likeliest, the end of thinking lies the model's margin below."""
        logits = torch.full((1, WIDTH), -50.0)
        logits[0, self.vocabulary.close_ids[0]] = -self.model.margin(len(self.tokens))
        logits[0, self._next()] = 0.0
        return logits

    def _next(self) -> int:
        """What the model writes by itself."""
        # What is forced may reach beyond the script: what the model would write there does not matter.
        word, _ = replace(self.model, script=[*self.model.script, *["\n"] * WIDTH]).next_word(self.words)
        return self.vocabulary.ids([word])[0]

    def look(self, logits: torch.Tensor) -> torch.Tensor:
        """What the control makes of the logits of a step, whatever becomes of its token."""

        def fetch(row: Row, start: int, end: int) -> Sequence[int]:
            return self.tokens[start:end]

        return apply(logits, [Row(0, self.control, len(self.tokens))], fetch)

    def step(self) -> str:
        """Decode one token."""
        logits = self.look(self.logits())
        token = self._next()
        if int(logits.isfinite().sum()) == 1:
            self.forced.append(len(self.tokens))
            token = int(logits[0].argmax())
        self.tokens.append(token)
        return self.words[-1]

    def run(self, steps: int = 200) -> list[str]:
        """Decode to the end of the sequence, or for so many steps; the words."""
        for _ in range(steps):
            if self.step() == END:
                break
        return self.words
