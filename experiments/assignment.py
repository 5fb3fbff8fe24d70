"""Deterministic assignment of units to variants. Pure.

The published FNV-1a hash, version 2 (GrowthBook SDK specification, "build your own SDK",
hash version 2, MIT test cases): n = fnv1a32(str(fnv1a32(seed + unit))) mod 10,000 / 10,000,
compared with ranges [lo, hi). Any SDK that follows it computes the same variant for units and salts of
ASCII characters; of others this module hashes the UTF-8 bytes, while some SDKs hash UTF-16 code units.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

BUCKETS = 10_000
_FNV_OFFSET = 0x811C9DC5
_FNV_PRIME = 0x01000193
_MASK = 0xFFFFFFFF


def fnv1a32(text: str) -> int:
    """32-bit FNV-1a hash of the text's UTF-8 bytes (Fowler, Noll and Vo; RFC 9923)."""
    value = _FNV_OFFSET
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & _MASK
    return value


def unit_bucket(salt: str, unit: str) -> int:
    """The unit's bucket under a salt, 0 to 9,999."""
    return fnv1a32(str(fnv1a32(salt + unit))) % BUCKETS


def unit_position(salt: str, unit: str) -> float:
    """Where the unit lies in [0, 1), a multiple of 1/10,000."""
    return unit_bucket(salt, unit) / BUCKETS


@dataclass(frozen=True, slots=True)
class Slice:
    """Some buckets [low, high) of a salt's 10,000: an experiment's part of a layer, or a holdout."""

    salt: str
    low: int
    high: int

    def holds(self, unit: str) -> bool:
        """Whether the unit lies in it."""
        return self.low <= unit_bucket(self.salt, unit) < self.high


def layer_salt(use_case: str, layer: str) -> str:
    """What is hashed before a unit to place it in a layer of a use case."""
    return f"layer:{use_case}:{layer}:"


def bucket_ranges(weights: Sequence[float], coverage: float = 1.0) -> list[tuple[float, float]]:
    """The range [lo, hi) of each variant.

    Coverage shrinks each range in place, so that raising it never moves a unit.

    Args:
        weights: share of each variant, each >= 0, summing to 1 within 0.001.
        coverage: share of the traffic that is in the experiment, in [0, 1].

    Raises:
        ValueError: no variant, a negative weight, weights that do not sum to 1, coverage outside [0, 1].
    """
    if not weights:
        raise ValueError("weights must have at least one entry, got none")
    if any(not math.isfinite(w) or w < 0 for w in weights):
        raise ValueError(f"weights must be finite and at least 0, got {list(weights)}")
    total = math.fsum(weights)
    if abs(total - 1) > 1e-3:
        raise ValueError(f"weights must sum to 1 (within 0.001), got {total:g}")
    if not 0 <= coverage <= 1:
        raise ValueError(f"coverage must be in [0, 1], got {coverage!r}")
    ranges = []
    start = 0.0
    for weight in weights:
        ranges.append((start, start + coverage * weight))
        start += weight
    return ranges


def choose_variant(position: float, ranges: Sequence[tuple[float, float]]) -> int | None:
    """Index of the first range that holds ``position``, or None: the unit is not in the experiment."""
    for index, (low, high) in enumerate(ranges):
        if low <= position < high:
            return index
    return None


def is_drawn(salt: str, purpose: str, request_id: str, share: float) -> bool:
    """Whether a random sample of requests holds this one: always the same answer for the same request.

    Args:
        salt: the experiment's.
        purpose: of the sample; samples for different purposes are independent.
        request_id: the request.
        share: probability of being drawn, in [0, 1].
    """
    digest = hashlib.blake2b(f"{salt}:{purpose}:{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
