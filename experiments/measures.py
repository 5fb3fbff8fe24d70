"""Counters and histograms as plain numbers, shown to Prometheus only when it asks. Pure.

prometheus-client's own counters take a lock per change; ours are changed in one event loop and cost a
dictionary access. A scrape copies them, which other threads may do at any time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

# From a millisecond (a refused request) to the longest deadlines.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
Labels = tuple[str, ...]


class Counter:
    """A number per combination of label values, which only grows.

    Args:
        name: without ``_total``.
        text: one sentence.
        labels: names of the labels.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._values: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count ``amount`` more under these label values."""
        self._values[labels] = self._values.get(labels, 0) + amount

    def collect(self) -> Iterator[Metric]:
        """The family as Prometheus has it."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in list(self._values.items()):
            family.add_metric(labels, value)
        yield family


class Histogram:
    """How values are spread over buckets, per combination of label values.

    Args:
        name: with its unit.
        text: one sentence.
        labels: names of the labels.
        bounds: upper bounds of the buckets, ascending; one without bound is added.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float] = SECONDS) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        # Per label values: the count of each bucket, then the sum.
        self._values: dict[Labels, list[float]] = {}

    def observe(self, labels: Labels, value: float) -> None:
        """Count one value."""
        row = self._values.get(labels)
        if row is None:
            row = self._values[labels] = [0.0] * (len(self._bounds) + 2)
        row[bisect_left(self._bounds, value)] += 1
        row[-1] += value

    def collect(self) -> Iterator[Metric]:
        """The family as Prometheus has it: cumulative buckets."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, row in list(self._values.items()):
            *counts, total = list(row)
            below, buckets = 0.0, []
            for name, count in zip(self._names, counts, strict=True):
                below += count
                buckets.append((name, below))
            family.add_metric(labels, buckets, total)
        yield family


def gauge(name: str, text: str, labels: Sequence[str], values: dict[Labels, float]) -> Metric:
    """A gauge family with these values."""
    family = GaugeMetricFamily(name, text, labels=tuple(labels))
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
