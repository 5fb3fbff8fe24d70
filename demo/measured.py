"""The published measurements: their file, their table, and whether new traffic agrees with them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy import stats

MEASURED = Path(__file__).resolve().parent / "measured.json"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One policy on one checkpoint over many prompts.

    Attributes:
        arm: name of the row.
        step: training step of the checkpoint.
        difficulty: "all", or the numbers of assignments ("2-3").
        prompts: how many.
        correct: how many of them were answered correctly.
        decoded_tokens: mean per prompt, probes included.
        decoded_sd: its sample standard deviation.
        thinking, answer, probe, overrun: mean tokens by kind.
        probes: mean trial answers.
    """

    arm: str
    step: int
    difficulty: str
    prompts: int
    correct: int
    decoded_tokens: float
    decoded_sd: float
    thinking: float
    answer: float
    probe: float
    overrun: float
    probes: float

    @property
    def em(self) -> float:
        """Exact match, a fraction."""
        return self.correct / self.prompts


def read_measurements(path: Path = MEASURED) -> list[Measurement]:
    """The published measurements."""
    return [Measurement(**record) for record in json.loads(path.read_text())["measurements"]]


def write_measurements(rows: Iterable[Measurement], about: Mapping[str, object], path: Path = MEASURED) -> None:
    """Store measurements, with what they were made with."""
    records = {"about": dict(about), "measurements": [asdict(row) for row in rows]}
    path.write_text(json.dumps(records, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class Observed:
    """One arm of an experiment, to be compared with the published row of its policy and checkpoint.

    Attributes:
        decoded_se: standard error of the mean.
    """

    arm: str
    step: int
    prompts: int
    correct: int
    decoded_tokens: float
    decoded_se: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether observed arms agree with the published rows.

    Attributes:
        tests: how many two-sided tests were made (EM and tokens of each arm).
        smallest_p: the smallest p-value, times ``tests`` (Bonferroni), at most 1.
        where: the arm and metric of that p-value.
    """

    tests: int
    smallest_p: float
    where: str

    def holds(self, alpha: float = 0.01) -> bool:
        """Whether no difference is found at ``alpha`` over all arms and both metrics together."""
        return self.smallest_p > alpha


def compare_with_published(observed: Sequence[Observed], published: Sequence[Measurement]) -> Agreement:
    """Fisher's exact test on EM and Welch's on tokens, arm by arm, against the rows over all difficulties.

    Raises:
        ValueError: an arm has no published row, or there is no arm.
    """
    rows = {(row.arm, row.step): row for row in published if row.difficulty == "all"}
    found: list[tuple[float, str]] = []
    for arm in observed:
        row = rows.get((arm.arm, arm.step))
        if row is None:
            raise ValueError(f"no published row for arm {arm.arm!r} at step {arm.step}")
        table = [[arm.correct, arm.prompts - arm.correct], [row.correct, row.prompts - row.correct]]
        found.append((float(stats.fisher_exact(table).pvalue), f"EM of {arm.arm}"))
        se = math.hypot(arm.decoded_se, row.decoded_sd / math.sqrt(row.prompts))
        z = abs(arm.decoded_tokens - row.decoded_tokens) / se
        found.append((float(2 * stats.norm.sf(z)), f"tokens of {arm.arm}"))
    if not found:
        raise ValueError("observed must have at least one arm, got none")
    smallest, where = min(found)
    return Agreement(len(found), min(1.0, smallest * len(found)), where)
