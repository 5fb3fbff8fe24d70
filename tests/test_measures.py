"""Plain numbers, read by Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from experiments.measures import Counter, Histogram, gauge


def samples(*parts: Any) -> dict[str, float]:
    class Everything:
        def collect(self) -> Iterator[Any]:
            for part in parts:
                yield from part.collect() if hasattr(part, "observe") or hasattr(part, "add") else [part]

    registry = CollectorRegistry()
    registry.register(Everything())
    text = generate_latest(registry).decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {f"{s.name}{sorted(s.labels.items())}": s.value for s in found}


def test_a_counter_adds_up_per_labels() -> None:
    counter = Counter("answers", "Answers", ("arm",))
    counter.add(("full",))
    counter.add(("full",), 2)
    counter.add(("short",))
    found = samples(counter)
    assert found["answers_total[('arm', 'full')]"] == 3
    assert found["answers_total[('arm', 'short')]"] == 1


def test_a_histograms_buckets_hold_their_bound_and_add_up() -> None:
    histogram = Histogram("wait_seconds", "Wait", (), bounds=(1, 2))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe((), value)
    found = samples(histogram)
    counts = [found[f"wait_seconds_bucket[('le', '{bound}')]"] for bound in ("1", "2", "+Inf")]
    assert counts == [2, 3, 4]
    assert (found["wait_seconds_count[]"], found["wait_seconds_sum[]"]) == (4, 12.0)


def test_a_gauge_shows_its_values() -> None:
    assert samples(gauge("depth", "Depth", ("queue",), {("1",): 5.0})) == {"depth[('queue', '1')]": 5.0}
