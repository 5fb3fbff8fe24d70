"""What was declared before the first exposure: the question, its error rates and its maximum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.statistics import checks
from experiments.statistics.guardrails import Guardrail, GuardrailAction

# Of the asymptotic comparisons: below it an arm's mean is too far from normal for them (see Design.tuning_n).
MINIMUM_UNITS = 30
SMALLEST_TUNING_N = 500


@dataclass(frozen=True, slots=True)
class Design:
    """The declared question of an experiment's phase.

    The null is: EM loss >= margin OR saving < min_saving.

    Attributes:
        control: key of the control variant.
        weights: declared share of exposures by variant key, control included; they sum to 1.
        margin: EM that may be lost, a fraction in (0, 1).
        min_saving: share of the control's `decoded_tokens` that must be saved, in [-1, 1). A negative value
            allows a treatment (a checkpoint, say) to cost up to that many more tokens.
        tuning_n: N*, units of control and treatment together at which the sequences are about tightest.
            Choose it near the sample at which a decision is hoped for. At least SMALLEST_TUNING_N: a smaller value
            (one that was stored before there was a bound) is raised to it. The sequences are asymptotic, and a
            small N* spends their error probability on the first few units, where they do not hold yet: looked at
            from 2 units per arm on, lognormal tokens gave 13 % two-sided errors for 5 % at N* = 2, 9 % at 100 and
            3 % at 500.
        maximum_units: exposures over all variants and phases at which the experiment ends, or None for no maximum.
        alpha: probability of shipping a treatment that should not be shipped, over all looks and treatments of this
            phase (`alpha_in_phase` of the experiment's); in (0, .5).
        level: coverage of the two-sided anytime-valid intervals, in (0, 1).
        false_revert_alpha: each treatment's probability of a wrong revert over all looks of this phase, in (0, .5).
        guardrails: metrics that revert a treatment by themselves, each named once.
        segments: declared segments; each has its own test for harm.
    """

    control: str
    weights: Mapping[str, float]
    margin: float
    min_saving: float
    tuning_n: float = 5_000.0
    maximum_units: int | None = None
    alpha: float = 0.05
    level: float = 0.95
    false_revert_alpha: float = 0.05
    guardrails: tuple[Guardrail, ...] = ()
    segments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checks.weights("weights", self.weights))
        if self.control not in self.weights:
            raise ValueError(f"control must be one of {sorted(self.weights)}, got {self.control!r}")
        checks.fraction("margin", self.margin)
        if not -1 <= checks.finite("min_saving", self.min_saving) < 1:
            raise ValueError(f"min_saving must be in [-1, 1), got {self.min_saving}")
        checks.positive("tuning_n", self.tuning_n)
        object.__setattr__(self, "tuning_n", max(self.tuning_n, SMALLEST_TUNING_N))
        if self.maximum_units is not None:
            checks.positive("maximum_units", checks.count("maximum_units", self.maximum_units))
        checks.fraction("alpha", self.alpha, high=0.5)
        checks.fraction("level", self.level)
        checks.fraction("false_revert_alpha", self.false_revert_alpha, high=0.5)
        for name, names in (("guardrails", [item.metric for item in self.guardrails]), ("segments", self.segments)):
            if len(set(names)) != len(names):
                raise ValueError(f"{name} must be different, got {[str(item) for item in names]}")

    @property
    def treatments(self) -> tuple[str, ...]:
        """Keys of the treatments, in alphabetical order (stored mappings may lose theirs)."""
        return tuple(sorted(key for key in self.weights if key != self.control))

    @property
    def harm_alpha(self) -> float:
        """Probability of a wrong revert of a treatment by one of the tests that can revert it.

        Those are the EM margin, each guardrail that reverts and each declared segment: false_revert_alpha is split
        evenly over them (Bonferroni).
        """
        reverting = sum(item.action is GuardrailAction.REVERT for item in self.guardrails)
        return self.false_revert_alpha / (1 + reverting + len(self.segments))
