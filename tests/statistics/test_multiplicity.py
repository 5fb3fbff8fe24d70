"""Adjusted p-values agree with statsmodels, whatever their order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from experiments.statistics.multiplicity import benjamini_hochberg, holm


@pytest.mark.parametrize(("method", "name"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_it_agrees_with_statsmodels(method: Callable[..., dict[str, float]], name: str, values: list[float]) -> None:
    found = method({str(i): p for i, p in enumerate(values)})
    assert list(found.values()) == pytest.approx(multipletests(values, method=name)[1].tolist())


@pytest.mark.parametrize("method", [holm, benjamini_hochberg])
@pytest.mark.parametrize(
    ("p_values", "message"),
    [({}, "p_values must have at least 1 entry, got 0"), ({"a": 1.5}, r"p_values\['a'\] must be in \[0, 1\], got 1.5")],
)
def test_what_is_no_p_value_is_refused(
    method: Callable[..., dict[str, float]], p_values: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        method(p_values)
