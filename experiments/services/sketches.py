"""Sketches of skewed metrics by arm, for quantiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.models import ArmMoments, Phase
from experiments.services.counted_requests import Batch
from experiments.statistics import codec
from experiments.statistics.quantiles import QuantileSketch

TOKENS, LATENCY = "decoded_tokens", "latency_seconds"


def update(phase: Phase, batch: Batch) -> None:
    """Add the requests that are counted for the first time."""
    new = np.array([row.is_new for row in batch.rows], dtype=bool)
    if not new.any():
        return
    variants = np.array([row.variant_id for row in batch.rows])
    tokens = sum(batch.column(name) for name in ("thinking", "answer", "probe", "overrun"))
    latencies = np.array([np.nan if row.latency_seconds is None else row.latency_seconds for row in batch.rows])
    for variant_id in np.unique(variants[new]):
        mine = new & (variants == variant_id)
        row = ArmMoments.objects.get(phase=phase, variant_id=int(variant_id), cohort="")
        row.sketches = {
            TOKENS: _extended(row.sketches, TOKENS, np.asarray(tokens)[mine]),
            LATENCY: _extended(row.sketches, LATENCY, latencies[mine & ~np.isnan(latencies)]),
        }
        row.save(update_fields=["sketches"])


def load(phase: Phase) -> dict[int, dict[str, QuantileSketch]]:
    """The sketches of a phase by variant and metric."""
    rows = ArmMoments.objects.filter(phase=phase, cohort="")
    return {
        row.variant_id: {name: codec.decode(QuantileSketch, data) for name, data in row.sketches.items()}
        for row in rows
    }


def _extended(stored: Mapping[str, Any], name: str, values: np.ndarray[Any, Any]) -> Any:
    sketch = codec.decode(QuantileSketch, stored[name]) if name in stored else QuantileSketch.empty()
    return codec.encode(sketch.update(values))
