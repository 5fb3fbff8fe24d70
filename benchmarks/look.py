"""What a look costs over millions of completions: from accumulators, and recomputed from raw rows.

    python -m benchmarks.look [--completions 10000000] [--out FILE]

Makes a PostgreSQL and a Redis of its own in a temporary folder and fills them with completions of two arms, two per
unit. Then it times, interleaved, three times each: a look from the accumulators; the aggregation that such a look
replaces (a query over raw rows grouped by unit, in the same database); and, on the same rows in memory, the
relative change of tokens per completion by statsmodels (OLS with clustered errors) and by tea-tasting, where that
is installed (pip install tea-tasting==1.14.0).
"""

from __future__ import annotations

import argparse
import os
import platform as machine
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.installation import temporary_installation

REPEATS = 3
_RAW = """
CREATE UNLOGGED TABLE raw_completion AS
SELECT (u %% 2)::int AS arm, u AS unit, (CASE WHEN random() < 0.9 THEN 1 ELSE 0 END) AS correct,
       (exp(6.0 + random() * 2 - (u %% 2) * 0.5))::int AS tokens
FROM generate_series(1, %s) u, generate_series(1, 2)
"""
_AGGREGATE = """
SELECT arm, count(*), sum(n), sum(s), sum(s * s), sum(n * n), sum(n * s), sum(c), sum(c * c), sum(n * c)
FROM (SELECT arm, unit, count(*) AS n, sum(tokens) AS s, sum(correct) AS c FROM raw_completion GROUP BY arm, unit) unit
GROUP BY arm
"""


def main(arguments: list[str]) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--completions", type=int, default=10_000_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    with temporary_installation(durable=False):
        text = _measure(options.completions)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


def _measure(completions: int) -> str:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    rows = _fill(completions)
    from experiments.models import Experiment
    from experiments.services.looks import look

    experiment = Experiment.objects.get()
    tasks: dict[str, Callable[[], Any]] = {
        "a look from the accumulators (read, analyse, store)": lambda: look(experiment.pk),
        "aggregating the raw rows by unit in PostgreSQL": _from_raw,
        "statsmodels: OLS with clustered errors, rows in memory": lambda: _statsmodels(rows),
    }
    if tasting := _tea_tasting(rows):
        tasks["tea-tasting: ratio of means by unit, rows in memory"] = tasting
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(REPEATS):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    return _table(completions, seconds)


def _fill(completions: int) -> dict[str, np.ndarray]:
    """Fill the raw table, and the accumulators with what counting its rows one by one would leave; the rows."""
    from django.db import connection
    from django.utils import timezone

    from experiments.models import ArmMoments, Checkpoint, ModelProfile, UseCase
    from experiments.services import experiments as service
    from experiments.statistics.columns import UNIT_COLUMNS
    from experiments.statistics.moments import UnitMoments

    with connection.cursor() as cursor:
        cursor.execute(_RAW, [completions // 2])
        cursor.execute("SELECT arm, unit, correct, tokens FROM raw_completion")
        table = np.array(cursor.fetchall(), dtype=np.int64)
    rows = dict(zip(("arm", "unit", "correct", "tokens"), table.T, strict=True))
    model = ModelProfile.objects.create(name="m", max_context_tokens=512)
    checkpoint = Checkpoint.objects.create(model=model, name="c", path="/nowhere")
    full = {"name": "full", "parameters": {"max_thinking_tokens": None}}
    use_case = UseCase.objects.create(slug="u", name="U", checkpoint=checkpoint, policy=full)
    arms = [
        service.VariantSpec("full", full, checkpoint, 0.5, is_control=True),
        service.VariantSpec("early", {"name": "confidence"}, checkpoint, 0.5),
    ]
    phase = service.start(
        "benchmark", service.create_experiment("benchmark", use_case, "E", arms, maximum_units=2_000_000_000)
    ).phase
    assert phase is not None
    phase.counted_until = timezone.now()
    phase.save()
    order = np.lexsort((rows["unit"], rows["arm"]))
    for number, variant in enumerate(phase.experiment.variants.all()):
        mine = order[rows["arm"][order] == number]
        pairs = mine.reshape(-1, 2)
        columns = {name: np.zeros(len(pairs), dtype=np.int64) for name in UNIT_COLUMNS}
        for name in ("completions", "answered", "due", "labelled", "due_answered", "labelled_answered"):
            columns[name][:] = 2
        columns["labelled_units"][:] = 1
        columns["correct"] = rows["correct"][pairs].sum(axis=1)
        columns["thinking"] = rows["tokens"][pairs].sum(axis=1)
        moments = UnitMoments.empty(UNIT_COLUMNS)
        for start in range(0, len(pairs), 500_000):
            part = np.stack([columns[name][start : start + 500_000] for name in UNIT_COLUMNS], axis=1)
            moments += UnitMoments.from_totals(UNIT_COLUMNS, part)
        data = {
            "columns": list(moments.columns),
            "units": moments.units,
            "sums": list(moments.sums),
            "products": list(moments.products),
        }
        ArmMoments.objects.create(phase=phase, variant=variant, cohort="", moments=data)
    return rows


def _from_raw() -> list[Any]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(_AGGREGATE)
        return list(cursor.fetchall())


def _statsmodels(rows: dict[str, np.ndarray]) -> Any:
    import statsmodels.api as sm

    design = np.column_stack((np.ones(rows["arm"].size), rows["arm"]))
    return sm.OLS(rows["tokens"].astype(float), design).fit(cov_type="cluster", cov_kwds={"groups": rows["unit"]})


def _tea_tasting(rows: dict[str, np.ndarray]) -> Callable[[], Any] | None:
    try:
        import pandas as pd
        import tea_tasting as tt
    except ImportError:
        return None
    frame = pd.DataFrame({"variant": rows["arm"], "unit": rows["unit"], "tokens": rows["tokens"]})
    experiment = tt.Experiment(tokens=tt.RatioOfMeans("tokens", "completions"))

    def run() -> Any:
        by_unit = frame.groupby(["variant", "unit"], as_index=False).agg(
            tokens=("tokens", "sum"), completions=("tokens", "size")
        )
        return experiment.analyze(by_unit, control=0)

    return run


def _table(completions: int, seconds: dict[str, list[float]]) -> str:
    first = statistics.median(next(iter(seconds.values())))
    lines = [
        f"{completions:,} completions, two per unit; medians of {REPEATS} interleaved runs on {machine.machine()}, "
        f"{os.cpu_count()} cores:",
        "",
        "| what | median, ms | against the look |",
        "|---|---:|---:|",
    ]
    for name, values in seconds.items():
        middle = statistics.median(values)
        lines.append(f"| {name} | {1000 * middle:,.0f} | {middle / first:,.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
