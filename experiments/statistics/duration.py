"""How many days an experiment takes, and which question makes it so long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from experiments.statistics import checks
from experiments.statistics.phases import alpha_in_phase
from experiments.statistics.power import EMQuestion, TokenQuestion, require_power
from experiments.statistics.results import NotEstimable
from experiments.statistics.sequential_power import sequential_sample_size


@dataclass(frozen=True, slots=True)
class Traffic:
    """What arrives.

    Attributes:
        units_per_day: of the use case, > 0.
        coverage: share of them in the experiment, in (0, 1].
        control_weight: the control's share of those, in (0, 1).
        treatment_weight: the treatment's, in (0, 1).
        label_rate: share of the units that get a label, in (0, 1].
    """

    units_per_day: float
    coverage: float
    control_weight: float
    treatment_weight: float
    label_rate: float = 1.0

    def __post_init__(self) -> None:
        checks.positive("units_per_day", self.units_per_day)
        for name in ("coverage", "label_rate"):
            if not 0 < checks.finite(name, getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        checks.fraction("control_weight", self.control_weight)
        checks.fraction("treatment_weight", self.treatment_weight)

    @property
    def ratio(self) -> float:
        """Control units for each unit of the treatment."""
        return self.control_weight / self.treatment_weight

    @property
    def treated_per_day(self) -> float:
        """Units of the treatment per day."""
        return self.units_per_day * self.coverage * self.treatment_weight


@dataclass(frozen=True, slots=True)
class Duration:
    """How long until a decision, at the latest with the wanted power.

    Attributes:
        days: rounded up.
        binding: the question that takes longest.
        em_days: that of EM alone, not rounded.
        token_days: that of tokens alone, not rounded.
        units: of the treatment.
        message: one sentence with the numbers.
    """

    days: int
    binding: Literal["em", "tokens"]
    em_days: float
    token_days: float
    units: int
    message: str


def duration(
    em: EMQuestion, tokens: TokenQuestion, traffic: Traffic, alpha: float = 0.05, power: float = 0.8
) -> Duration | NotEstimable:
    """Days by which both questions are answered under continuous looks; each may miss half of 1 - power.

    Args:
        em: the question of EM; it counts labelled units only.
        tokens: the question of tokens.
        traffic: what arrives.
        alpha: the experiment's, in (0, .5); its first phase is planned for, which has three quarters of it.
        power: in (alpha, 1).
    """
    each = 1 - (1 - require_power(power, checks.fraction("alpha", alpha, high=0.5))) / 2
    alpha = alpha_in_phase(alpha, 1)
    days = {}
    for name, question, rate in (("em", em, traffic.label_rate), ("tokens", tokens, 1.0)):
        size = sequential_sample_size(question, alpha, each, traffic.ratio)
        if isinstance(size, NotEstimable):
            return size
        days[name] = size.unrounded / (traffic.treated_per_day * rate)
    binding: Literal["em", "tokens"] = "em" if days["em"] >= days["tokens"] else "tokens"
    longest = max(days.values())
    units = math.ceil(longest * traffic.treated_per_day)
    name = "EM" if binding == "em" else "decoded_tokens"
    message = (
        f"About {math.ceil(longest)} days ({units} units in the treatment) until {name} is decided; "
        f"EM needs {days['em']:.1f} days, decoded_tokens {days['tokens']:.1f}."
    )
    return Duration(math.ceil(longest), binding, days["em"], days["tokens"], units, message)
