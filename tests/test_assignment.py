"""Deterministic assignment against published vectors, and what it promises."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.assignment import BUCKETS, bucket_ranges, choose_variant, fnv1a32, unit_position

PATH = Path(__file__).parent / "data" / "stat_vectors.json"
VECTORS = {vector["name"]: vector for vector in json.loads(PATH.read_text(encoding="utf-8"))}


def cases(name: str, key: str) -> list[tuple[Any, Any]]:
    vector = VECTORS[name]
    return list(zip(vector["inputs"]["cases"], vector["expected"][key], strict=True))


def equal_weights(count: int) -> list[float]:
    return [1 / count] * count


HASHES = [(seed, value, n) for (seed, value, version), n in cases("gb_hash", "n") if version == 2]
RANGES = [
    (weights or equal_weights(count), coverage, ranges)
    for (count, coverage, weights), ranges in cases("gb_bucket_ranges", "ranges")
    if 0 <= coverage <= 1 and (weights is None or (len(weights) == count and abs(math.fsum(weights) - 1) <= 1e-3))
]
# The published form mends these silently; here they are refused.
REFUSED = [
    (weights or equal_weights(count), coverage)
    for (count, coverage, weights), _ in cases("gb_bucket_ranges", "ranges")
    if not 0 <= coverage <= 1 or (weights is not None and abs(math.fsum(weights) - 1) > 1e-3)
]


def test_the_vectors_hold_cases_of_every_kind() -> None:
    assert (len(HASHES), len(RANGES), len(REFUSED)) == (7, 8, 4)


@pytest.mark.parametrize(("seed", "value", "expected"), HASHES)
def test_agrees_with_the_published_hash(seed: str, value: str, expected: float) -> None:
    assert unit_position(seed, value) == expected


@pytest.mark.parametrize(("weights", "coverage", "expected"), RANGES)
def test_agrees_with_the_published_ranges(weights: list[float], coverage: float, expected: list[list[float]]) -> None:
    found = bucket_ranges(weights, coverage)
    assert [bound for pair in found for bound in pair] == pytest.approx([b for p in expected for b in p], abs=1e-6)


@pytest.mark.parametrize(("weights", "coverage"), REFUSED)
def test_refuses_what_the_published_form_mends_silently(weights: list[float], coverage: float) -> None:
    with pytest.raises(ValueError, match=r"weights must sum to 1|coverage must be in \[0, 1\]"):
        bucket_ranges(weights, coverage)


@pytest.mark.parametrize(("case", "expected"), cases("gb_choose_variation", "variation"))
def test_agrees_with_the_published_choice(case: Any, expected: int) -> None:
    position, ranges = case
    assert choose_variant(position, ranges) == (None if expected == -1 else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    # RFC 9923, and the test vectors of Noll's reference implementation.
    [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)],
)
def test_hash_is_fnv1a(text: str, expected: int) -> None:
    assert fnv1a32(text) == expected


@pytest.mark.parametrize(
    ("weights", "coverage", "message"),
    [
        ([], 1.0, "weights must have at least one entry, got none"),
        ([1.5, -0.5], 1.0, "weights must be finite and at least 0"),
        ([math.nan, 1.0], 1.0, "weights must be finite and at least 0"),
        ([math.inf], 1.0, "weights must be finite and at least 0"),
        ([0.5, 0.5], math.nan, r"coverage must be in \[0, 1\], got nan"),
        ([0.5, 0.5], 1.01, r"coverage must be in \[0, 1\], got 1.01"),
    ],
)
def test_refuses_what_is_no_share(weights: list[float], coverage: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bucket_ranges(weights, coverage)


shares = st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any)


@settings(max_examples=80, deadline=None)
@given(shares, st.floats(0, 1), st.floats(0, 1), st.text(max_size=8), st.lists(st.text(max_size=12), max_size=20))
def test_raising_coverage_never_moves_a_unit_that_is_in(
    parts: list[int], one: float, other: float, salt: str, units: list[str]
) -> None:
    weights = [part / sum(parts) for part in parts]
    narrow, wide = (bucket_ranges(weights, coverage) for coverage in sorted((one, other)))
    for unit in units:
        position = unit_position(salt, unit)
        before = choose_variant(position, narrow)
        assert before is None or choose_variant(position, wide) == before


@settings(max_examples=80, deadline=None)
@given(shares)
def test_at_full_coverage_every_bucket_has_a_variant(parts: list[int]) -> None:
    weights = [part / sum(parts) for part in parts]
    ranges = bucket_ranges(weights)
    counts = [0] * len(weights)
    for bucket in range(0, BUCKETS, 7):
        chosen = choose_variant(bucket / BUCKETS, ranges)
        assert chosen is not None
        counts[chosen] += 1
    assert all(weights[i] > 0 for i, count in enumerate(counts) if count)


def test_shares_approach_the_weights() -> None:
    weights = [0.5, 0.3, 0.2]
    ranges = bucket_ranges(weights, 0.8)
    units = 20_000
    chosen = [choose_variant(unit_position("salt", f"unit-{n}"), ranges) for n in range(units)]
    for index, weight in enumerate(weights):
        share = 0.8 * weight
        # Four standard deviations of a binomial share.
        assert chosen.count(index) / units == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / units))


def test_salts_assign_independently() -> None:
    ranges = bucket_ranges([0.5, 0.5])
    units = 20_000
    same = sum(
        choose_variant(unit_position("one", str(n)), ranges) == choose_variant(unit_position("two", str(n)), ranges)
        for n in range(units)
    )
    assert same / units == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / units))
