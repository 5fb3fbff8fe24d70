"""Continuous batching: each step feeds every running sequence and every branch its next tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from workers.engines.base import Sampling
from workers.engines.sequence import NOTHING_MEASURED, Measured, Sequence
from workers.engines.slots import SlotStore, SlotView

MAX_PREFILL_TOKENS = 4096


class Batch:
    """Running sequences of one model, and the forward passes that advance them.

    Row r of the store belongs to ``running[r]``. Sequences that feed one token (decoding, branches)
    share one forward pass over rows 0 .. n-1; those that feed several (prompts, long trial suffixes,
    forced end tags) share another.

    Args:
        model: a causal language model of transformers.
        max_rows: sequences decoded at once.
    """

    def __init__(self, model: Any, max_rows: int) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        self._model = model
        self._device = model.device
        self._max_rows = max_rows
        self._store = SlotStore()
        self._generators: dict[str, torch.Generator] = {}
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it joins the batch when a row is free."""
        self.waiting.append(sequence)

    @torch.inference_mode()
    def step(self, on_start: Callable[[Sequence], None] = lambda sequence: None) -> list[Sequence]:
        """Advance every sequence by one token (or its whole prompt); return those that took part.

        Finished sequences are returned once and have left the batch.

        Args:
            on_start: called for each sequence that joins the batch in this step.
        """
        self._retire()
        while self.waiting and len(self.running) < self._max_rows:
            sequence = self.waiting.popleft()
            if sequence.finish is None:
                on_start(sequence)
                self.running.append(sequence)
        took_part = list(self.running)
        several = self._take_several()
        if several:
            self._forward_several(several)
        if any(len(s.pending()) == 1 for s in self.running if s.finish is None):
            self._forward_single()
        self._retire()
        return took_part

    def drop_all(self) -> list[Sequence]:
        """Forget every sequence (after an error, or at the end); return them."""
        dropped = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        self._generators.clear()
        return dropped

    # -- rows --------------------------------------------------------------------------------------

    def _retire(self) -> None:
        """Close the gaps that finished sequences leave: the last row moves into each."""
        row = 0
        while row < len(self.running):
            if self.running[row].finish is None:
                row += 1
                continue
            self._generators.pop(self.running[row].request.id, None)
            last = self.running.pop()
            if row < len(self.running):
                self._store.move(len(self.running), row, last.position())
                self.running[row] = last

    def _take_several(self) -> list[int]:
        """Rows that feed more than one token now, within the prefill budget (at least one)."""
        rows: list[int] = []
        widest = 0
        for row, sequence in enumerate(self.running):
            fed = len(sequence.pending())
            if sequence.finish is None and fed > 1:
                widest = max(widest, fed)
                if rows and widest * (len(rows) + 1) > MAX_PREFILL_TOKENS:
                    break
                rows.append(row)
        return rows

    # -- forward passes ------------------------------------------------------------------------------

    def _forward_several(self, rows: list[int]) -> None:
        fed = [self.running[row].pending() for row in rows]
        starts = [self.running[row].position() for row in rows]
        width = max(map(len, fed))
        reach = max(start + len(tokens) for start, tokens in zip(starts, fed, strict=True))
        self._store.reserve(len(self.running), reach)
        # Left padding: the last column is the last real token of every row. Padding looks at
        # position 0 (never written by it) so that no row of the softmax is empty.
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        positions = torch.zeros((len(rows), width), dtype=torch.long)
        valid = torch.zeros((len(rows), width), dtype=torch.bool)
        for i, (tokens, start) in enumerate(zip(fed, starts, strict=True)):
            ids[i, width - len(tokens) :] = torch.tensor(tokens)
            positions[i, width - len(tokens) :] = torch.arange(start, start + len(tokens))
            valid[i, width - len(tokens) :] = True
        ids, positions, valid = (t.to(self._device) for t in (ids, positions, valid))
        view = SlotView(self._store, torch.tensor(rows, device=self._device), positions, valid, reach)
        self._advance([self.running[row] for row in rows], self._logits(ids, positions, view, reach))

    def _forward_single(self) -> None:
        """One token for every row. Rows that feed several tokens ride along without effect.

        Their place holder is written at their next position, which their own tokens overwrite.
        """
        rows = len(self.running)
        single = [s.finish is None and len(s.pending()) == 1 for s in self.running]
        ids = torch.tensor([[s.pending()[0] if ok else 0] for s, ok in zip(self.running, single, strict=True)])
        positions = torch.tensor([[s.position()] for s in self.running])
        reach = int(positions.max()) + 1
        self._store.reserve(rows, reach)
        ids, positions = ids.to(self._device), positions.to(self._device)
        logits = self._logits(ids, positions, SlotView(self._store, None, positions, None, reach), reach)
        chosen = [row for row in range(rows) if single[row]]
        if len(chosen) < rows:
            logits = logits[torch.tensor(chosen, device=self._device)]
        self._advance([self.running[row] for row in chosen], logits)

    def _logits(self, ids: torch.Tensor, positions: torch.Tensor, view: SlotView, reach: int) -> torch.Tensor:
        """Logits after the last column, float32 [batch, vocabulary].

        Args:
            ids: int64 [batch, fed].
            positions: int64 [batch, fed].
            view: where keys and values go.
            reach: positions to attend over.
        """
        visible = torch.arange(reach, device=self._device) <= positions[:, None, :, None]
        mask = torch.zeros(visible.shape, dtype=self._model.dtype, device=self._device)
        mask.masked_fill_(~visible, torch.finfo(self._model.dtype).min)
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=view,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    # -- sampling --------------------------------------------------------------------------------------

    def _advance(self, sequences: list[Sequence], logits: torch.Tensor) -> None:
        greedy = logits.argmax(-1)
        tokens = greedy.tolist()
        measured = self._measure(sequences, logits)
        for i, sequence in enumerate(sequences):
            token = tokens[i] if sequence.greedy else self._sample(sequence, logits[i])
            sequence.advance(token, measured.get(i, NOTHING_MEASURED))

    def _measure(self, sequences: list[Sequence], logits: torch.Tensor) -> dict[int, Measured]:
        """What some sequences want to know of their next token, by their place in the batch."""
        wanted = {i: wanted for i, sequence in enumerate(sequences) if (wanted := sequence.wanted) is not None}
        if not wanted:
            return {}
        rows = list(wanted)
        logprobs = logits[torch.tensor(rows, device=logits.device)].log_softmax(-1)
        best = logprobs.amax(-1)
        ends = torch.tensor([wanted[i].margin_to or 0 for i in rows], device=logits.device)
        columns = [best, best - logprobs.gather(-1, ends[:, None])[:, 0]]
        if any(w.entropy for w in wanted.values()):
            columns.append(torch.special.entr(logprobs.exp()).sum(-1))
        read = torch.stack(columns, -1).tolist()  # one transfer, whatever was asked
        return {
            i: Measured(
                logprob=read[row][0] if wanted[i].logprob else None,
                margin=read[row][1] if wanted[i].margin_to is not None else None,
                entropy=read[row][2] if wanted[i].entropy else None,
            )
            for row, i in enumerate(rows)
        }

    def _sample(self, sequence: Sequence, logits: torch.Tensor) -> int:
        sampling = sequence.request.sampling
        probabilities = (logits / sampling.temperature).softmax(-1)
        if sampling.top_p < 1:
            probabilities = _nucleus(probabilities, sampling.top_p)
        # Drawn on the CPU, so that a seed gives the same tokens whatever the device.
        generator = self._generator(sequence.request.id, sampling)
        return int(torch.multinomial(probabilities.cpu(), 1, generator=generator))

    def _generator(self, request_id: str, sampling: Sampling) -> torch.Generator:
        generator = self._generators.get(request_id)
        if generator is None:
            generator = torch.Generator()
            if sampling.seed is None:
                generator.seed()
            else:
                generator.manual_seed(sampling.seed)
            self._generators[request_id] = generator
        return generator


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of most likely tokens whose mass reaches ``top_p`` (Holtzman et al. 2020, section 3.1)."""
    ordered, index = probabilities.sort(descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    ordered = ordered.masked_fill(outside, 0.0)
    return torch.zeros_like(probabilities).scatter_(0, index, ordered)
