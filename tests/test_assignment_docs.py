"""The code and the tables of docs/assignment.md agree with each other and with what is served."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.assignment import bucket_ranges, choose_variant, layer_salt, unit_bucket, unit_position
from experiments.ramp import ramp_from_json

PAGE = (Path(__file__).parents[1] / "docs" / "assignment.md").read_text(encoding="utf-8")
SALT, WEIGHTS = "demo-decoding-1", [0.5, 0.3, 0.2]


def rows(heading: str) -> list[list[str]]:
    """The rows of the table with this heading row."""
    _, _, rest = PAGE.partition(f"{heading}\n")
    lines = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


VARIANTS = rows("| unit | bucket | coverage 0.1 | coverage 0.5 | coverage 1 |")
LAYER = rows("| unit | layer bucket | experiment |")


@pytest.fixture(scope="module")
def sdk() -> dict[str, Any]:
    """What the code on the page defines."""
    names: dict[str, Any] = {}
    exec(block("python"), names)
    return names


def test_the_tables_were_found() -> None:
    assert (len(VARIANTS), len(LAYER)) == (6, 6)


@pytest.mark.parametrize("row", VARIANTS)
def test_the_units_have_the_variants_of_the_table(row: list[str], sdk: dict[str, Any]) -> None:
    unit, bucket, *expected = row
    assert sdk["bucket"](SALT, unit) == unit_bucket(SALT, unit) == int(bucket)
    for coverage, shown in zip((0.1, 0.5, 1.0), expected, strict=True):
        served = choose_variant(unit_position(SALT, unit), bucket_ranges(WEIGHTS, coverage))
        assert sdk["variant"](SALT, unit, WEIGHTS, coverage) == served == (None if shown == "-" else int(shown))


@pytest.mark.parametrize("row", LAYER)
def test_the_units_are_in_the_experiments_of_the_table(row: list[str], sdk: dict[str, Any]) -> None:
    unit, bucket, experiment = row
    salt = layer_salt("arithmetic", "prompts")
    assert f"`{layer_salt('<use case>', '<layer>')}`" in PAGE
    assert sdk["bucket"](salt, unit) == unit_bucket(salt, unit) == int(bucket)
    assert experiment == ("A" if int(bucket) < 5_000 else "B")


def test_the_ramp_is_one() -> None:
    assert [step.coverage for step in ramp_from_json(json.loads(block("json")))] == [0.01, 0.05, 0.1, 0.25, 0.5, 1.0]
