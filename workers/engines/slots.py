"""The keys and values of all running sequences: one row each, grown on demand."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache


@dataclass(slots=True)
class _Layer:
    """Keys and values of one layer, each [rows, kv_heads, length, head_dim]."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(slots=True)
class SlotStore:
    """Storage that outlives forward passes. Row r belongs to the r-th running sequence."""

    layers: list[_Layer | None] = field(default_factory=list)
    rows: int = 0
    length: int = 0

    def reserve(self, rows: int, length: int) -> None:
        """Make room for so many rows and positions (grows by doubling; contents are kept)."""
        if rows <= self.rows and length <= self.length:
            return
        self.rows = max(self.rows, 1 << max(rows - 1, 7).bit_length()) if rows > self.rows else self.rows
        self.length = max(self.length, 1 << max(length - 1, 127).bit_length()) if length > self.length else self.length
        for layer in self.layers:
            if layer is not None:
                layer.keys = self._grown(layer.keys)
                layer.values = self._grown(layer.values)

    def layer(self, index: int, like: torch.Tensor) -> _Layer:
        """Storage of one layer; made when the first keys arrive, whose heads, width and type it takes."""
        while len(self.layers) <= index:
            self.layers.append(None)
        layer = self.layers[index]
        if layer is None:
            shape = (self.rows, like.shape[1], self.length, like.shape[3])
            layer = _Layer(like.new_zeros(shape), like.new_zeros(shape))
            self.layers[index] = layer
        return layer

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of row ``source`` over row ``target``."""
        for layer in self.layers:
            if layer is not None:
                layer.keys[target, :, :length] = layer.keys[source, :, :length]
                layer.values[target, :, :length] = layer.values[source, :, :length]

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        new = old.new_zeros((self.rows, old.shape[1], self.length, old.shape[3]))
        new[: old.shape[0], :, : old.shape[2]] = old
        return new


class SlotView(Cache):
    """One forward pass over some rows of a store, in the shape that transformers models expect.

    Args:
        store: where keys and values live.
        rows: row of each batch entry, int64 [batch]; None: rows 0 .. batch-1, which are then
            read as a view, without a copy.
        positions: cache position of each fed token, int64 [batch, fed].
        valid: which fed tokens are real, bool [batch, fed]; None: all.
        width: positions to attend over (more than the largest fed position).
    """

    def __init__(
        self,
        store: SlotStore,
        rows: torch.Tensor | None,
        positions: torch.Tensor,
        valid: torch.Tensor | None,
        width: int,
    ) -> None:
        # Not Cache.__init__: it would build layers of its own.
        self.layers = []
        self._store = store
        self._rows = rows
        self._width = width
        batch = positions.shape[0]
        every = torch.arange(batch, device=positions.device) if rows is None else rows
        self._valid = valid
        if valid is None:
            self._write_rows = every[:, None].expand_as(positions).reshape(-1)
            self._write_positions = positions.reshape(-1)
        else:
            self._write_rows = every[:, None].expand_as(positions)[valid]
            self._write_positions = positions[valid]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the fed tokens' keys and values; return those to attend over.

        Args:
            key_states: [batch, kv_heads, fed, head_dim].
            value_states: the same shape.
            layer_idx: the layer.

        Returns:
            Keys and values, each [batch, kv_heads, width, head_dim].
        """
        layer = self._store.layer(layer_idx, key_states)
        layer.keys[self._write_rows, :, self._write_positions] = self._flat(key_states)
        layer.values[self._write_rows, :, self._write_positions] = self._flat(value_states)
        if self._rows is None:
            batch = key_states.shape[0]
            return layer.keys[:batch, :, : self._width], layer.values[:batch, :, : self._width]
        return layer.keys[self._rows, :, : self._width], layer.values[self._rows, :, : self._width]

    def _flat(self, states: torch.Tensor) -> torch.Tensor:
        by_token = states.transpose(1, 2)  # [batch, fed, kv_heads, head_dim]
        return by_token.flatten(0, 1) if self._valid is None else by_token[self._valid]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions to attend over; transformers reads it only when no position ids are given."""
        return self._width
