"""What the demo prints about an experiment."""

from __future__ import annotations

import itertools
from io import StringIO

import pytest
from rich.console import Console

from demo.report import print_snapshot
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.arms import ArmAggregates, Outcomes
from experiments.statistics.design import Design
from experiments.statistics.snapshot import LookInputs, Snapshot, analyse


def arm(key: str, count: int, correct: int, tokens: int, spread: int) -> ArmAggregates:
    lengths = [tokens - spread, tokens + spread] * (count // 2)
    decoded = ClusterAggregate.from_values(lengths)
    em = ClusterAggregate.from_values([1] * correct + [0] * (count - correct))
    return ArmAggregates(key, count, em, decoded, decoded, count, count, Outcomes(answered=count))


@pytest.fixture
def snapshot() -> Snapshot:
    weights = {"last": 0.34, "much-earlier": 0.33, "conservative": 0.33}
    design = Design("last", weights, margin=0.05, min_saving=0.1, tuning_n=1000)
    arms = (
        arm("last", 500, 495, 270, 80),
        arm("much-earlier", 500, 260, 255, 80),
        arm("conservative", 500, 492, 145, 50),
    )
    return analyse(LookInputs(design, arms))


def printed(snapshot: Snapshot) -> list[str]:
    output = StringIO()
    print_snapshot(Console(file=output, width=80), "Early exit", snapshot)
    return output.getvalue().splitlines()


def test_the_table_fits_80_columns_uncut(snapshot: Snapshot) -> None:
    lines = printed(snapshot)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]


def test_each_arm_has_its_verdict(snapshot: Snapshot) -> None:
    # The table alone: of the sentences below it some line may begin with the name of an arm as well.
    table = itertools.takewhile(lambda line: not line.startswith("  conservative:"), printed(snapshot))
    found = {line.split()[0]: line.split()[-1] for line in table if line[:1].isalpha() and line.split()[1:]}
    assert found["last"] == "control"
    assert found["much-earlier"] == "revert"
    assert found["conservative"] == "ship"
