"""How many units an experiment needs, at a fixed sample size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy import optimize, stats
from statsmodels.stats.power import TTestIndPower

from experiments.statistics import checks
from experiments.statistics.results import NotEstimable


@dataclass(frozen=True, slots=True)
class SampleSize:
    """What a question needs.

    Attributes:
        control: units of the control, rounded up.
        treatment: units of one treatment, rounded up.
        unrounded: units of the treatment before rounding.
        power: probability of the wanted answer, in (0, 1).
        alpha: error probability of the test.
        method: whose formula.
    """

    control: int
    treatment: int
    unrounded: float
    power: float
    alpha: float
    method: str

    @property
    def total(self) -> int:
        """Units of both arms."""
        return self.control + self.treatment


@dataclass(frozen=True, slots=True)
class EMQuestion:
    """Is EM not worse by more than the margin?

    Attributes:
        p_control: expected EM of the control, in (0, 1).
        p_treatment: of the treatment, in (0, 1).
        margin: a fraction in (0, 1).
        design_effect: variance with clusters over variance without, >= 1.
    """

    p_control: float
    p_treatment: float
    margin: float
    design_effect: float = 1.0

    def __post_init__(self) -> None:
        for name in ("p_control", "p_treatment", "margin"):
            checks.fraction(name, getattr(self, name))
        if checks.finite("design_effect", self.design_effect) < 1:
            raise ValueError(f"design_effect must be >= 1, got {self.design_effect}")

    @property
    def distance(self) -> float:
        """How far the expected difference is above -margin."""
        return self.p_treatment - self.p_control + self.margin

    def variance(self, ratio: float) -> float:
        """Variance of the difference times the treatment's units, with `ratio` control units for each of them."""
        spread = self.p_treatment * (1 - self.p_treatment) + self.p_control * (1 - self.p_control) / ratio
        return spread * self.design_effect


@dataclass(frozen=True, slots=True)
class TokenQuestion:
    """Is at least the minimum saved?

    Attributes:
        mean_control: expected tokens of the control, > 0.
        sd_control: standard deviation per unit, > 0.
        saving: expected saving, a fraction < 1.
        min_saving: what must be shown, a fraction in [-1, 1).
        sd_treatment: of the treatment, > 0; None: shrunk like its mean.
        design_effect: variance with clusters over variance without, >= 1.
    """

    mean_control: float
    sd_control: float
    saving: float
    min_saving: float
    sd_treatment: float | None = None
    design_effect: float = 1.0

    def __post_init__(self) -> None:
        checks.positive("mean_control", self.mean_control)
        checks.positive("sd_control", self.sd_control)
        if self.sd_treatment is not None:
            checks.positive("sd_treatment", self.sd_treatment)
        for name in ("saving", "min_saving"):
            if not -1 <= checks.finite(name, getattr(self, name)) < 1:
                raise ValueError(f"{name} must be in [-1, 1), got {getattr(self, name)}")
        if checks.finite("design_effect", self.design_effect) < 1:
            raise ValueError(f"design_effect must be >= 1, got {self.design_effect}")

    @property
    def distance(self) -> float:
        """How far the expected contrast mean_t - (1 - min_saving) mean_c is below 0, in tokens."""
        return (self.saving - self.min_saving) * self.mean_control

    def variance(self, ratio: float) -> float:
        """Variance of the contrast times the treatment's units, with `ratio` control units for each of them."""
        treated = self.sd_treatment if self.sd_treatment is not None else self.sd_control * (1 - self.saving)
        kept = 1 - self.min_saving
        return (treated**2 + (kept * self.sd_control) ** 2 / ratio) * self.design_effect


Question = EMQuestion | TokenQuestion


def require_power(power: float, alpha: float) -> float:
    """Returns `power` when alpha < power < 1, or raises ValueError: below alpha the formulas' sizes mean nothing."""
    if not alpha < checks.finite("power", power) < 1:
        raise ValueError(f"power must be in (alpha = {alpha:g}, 1), got {power}")
    return power


def sample_size(
    question: Question, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0
) -> SampleSize | NotEstimable:
    """Units for one one-sided question.

    n = variance (z_alpha + z_beta)² / distance², with unpooled variances: Chow, Shao and Wang, Sample Size
    Calculations in Clinical Research (2008), section 4.2.2 for proportions and 3.2.2 for means.

    Args:
        question: of EM or of tokens.
        alpha: one-sided, in (0, .5).
        power: in (alpha, 1): a test of no effect at all rejects with probability alpha already.
        ratio: control units for each unit of the treatment, > 0.
    """
    checks.fraction("alpha", alpha, high=0.5)
    require_power(power, alpha)
    checks.positive("ratio", ratio)
    if question.distance <= 0:
        return _impossible(question)
    quantiles = float(stats.norm.isf(alpha) + stats.norm.ppf(power))
    n = question.variance(ratio) * quantiles**2 / question.distance**2
    return SampleSize(math.ceil(n * ratio), math.ceil(n), n, power, alpha, "normal_one_sided")


def _impossible(question: Question) -> NotEstimable:
    if isinstance(question, EMQuestion):
        return NotEstimable(
            f"the expected EM difference of {question.p_treatment - question.p_control:+.3f} is not above "
            f"-margin = {-question.margin:+.3f}: no sample size shows it"
        )
    return NotEstimable(
        f"the expected saving of {question.saving:.1%} is not above the minimum of {question.min_saving:.1%}: "
        "no sample size shows it"
    )


def power_at(question: Question, n_treatment: float, alpha: float = 0.05, ratio: float = 1.0) -> float:
    """Probability that a fixed sample answers the question.

    Args:
        question: of EM or of tokens.
        n_treatment: units of the treatment, > 0.
        alpha: one-sided, in (0, .5).
        ratio: control units for each unit of the treatment, > 0.
    """
    checks.fraction("alpha", alpha, high=0.5)
    se = math.sqrt(question.variance(checks.positive("ratio", ratio)) / checks.positive("n_treatment", n_treatment))
    return float(stats.norm.cdf(question.distance / se - stats.norm.isf(alpha)))


def joint_sample_size(
    em: EMQuestion, tokens: TokenQuestion, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0
) -> SampleSize | NotEstimable:
    """Units at which both questions together are answered with the wanted power.

    Each is tested at alpha (intersection-union, no split). The power of both is at least 1 minus the sum of what
    each misses (Bonferroni), whatever their correlation; that bound is what is asked to reach `power`.
    """
    alone = [sample_size(question, alpha, power, ratio) for question in (em, tokens)]
    for found in alone:
        if isinstance(found, NotEstimable):
            return found
    least = max(found.unrounded for found in alone if isinstance(found, SampleSize))

    def lacking(n: float) -> float:
        missed = sum(1 - power_at(question, n, alpha, ratio) for question in (em, tokens))
        return 1 - missed - power

    # Twice each one's own need is enough for both: the miss of each then is far less than half.
    n = least if lacking(least) >= 0 else float(optimize.brentq(lacking, least, 4 * least, xtol=1e-9 * least))
    return SampleSize(math.ceil(n * ratio), math.ceil(n), n, power, alpha, "joint_bonferroni")


def two_sided_mean_size(sd: float, effect: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Units per arm to tell two means `effect` apart, two-sided by Student's t (statsmodels)."""
    checks.positive("sd", sd)
    checks.fraction("alpha", alpha)
    require_power(power, alpha)
    if checks.finite("effect", effect) == 0:
        raise ValueError("effect must not be 0")
    return float(TTestIndPower().solve_power(effect_size=abs(effect) / sd, alpha=alpha, power=power, ratio=1))


def paired_sample_size(
    discordance: float, margin: float, difference: float = 0.0, alpha: float = 0.05, power: float = 0.8
) -> SampleSize | NotEstimable:
    """Pairs for non-inferiority on pairs: n = (psi - d²) (z_alpha + z_beta)² / (margin + d)².

    Nam (Biometrics 1997), with the variance at the expected difference d.

    Args:
        discordance: psi, share of pairs in which one side is right and the other wrong, in (0, 1].
        margin: a fraction in (0, 1).
        difference: expected EM of the treatment minus that of the control, |d| <= psi.
        alpha: one-sided, in (0, .5).
        power: in (alpha, 1).
    """
    checks.fraction("margin", margin)
    checks.fraction("alpha", alpha, high=0.5)
    require_power(power, alpha)
    if not abs(checks.finite("difference", difference)) <= discordance <= 1 or discordance <= 0:
        raise ValueError(f"discordance must be in (0, 1] and at least |difference|, got {discordance}, {difference}")
    if discordance <= difference**2:
        raise ValueError(f"discordance must be > difference² for pairs to vary, got {discordance}, {difference}")
    if difference + margin <= 0:
        return NotEstimable(f"the expected difference of {difference:+.3f} is not above -margin = {-margin:+.3f}")
    quantiles = float(stats.norm.isf(alpha) + stats.norm.ppf(power))
    n = (discordance - difference**2) * quantiles**2 / (margin + difference) ** 2
    return SampleSize(math.ceil(n), math.ceil(n), n, power, alpha, "paired")


def detectable_margin(
    p: float,
    n_treatment: float,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    design_effect: float = 1.0,
) -> float | NotEstimable:
    """The smallest margin that a traffic can exclude when EM is really equal.

    Args:
        p: EM of both arms, in (0, 1).
        n_treatment: labelled units of the treatment, > 0.
        alpha: one-sided, in (0, .5).
        power: in (alpha, 1).
        ratio: control units for each unit of the treatment, > 0.
        design_effect: >= 1.
    """
    checks.fraction("alpha", alpha, high=0.5)
    require_power(power, alpha)
    variance = EMQuestion(p, p, 0.5, design_effect).variance(checks.positive("ratio", ratio))
    quantiles = float(stats.norm.isf(alpha) + stats.norm.ppf(power))
    margin = quantiles * math.sqrt(variance / checks.positive("n_treatment", n_treatment))
    if margin >= 1:
        return NotEstimable(f"{n_treatment:g} units exclude no margin below 1")
    return margin


def design_effect(completions_per_unit: float, intra_class_correlation: float, size_variation: float = 0.0) -> float:
    """Variance with clusters over variance without: 1 + ((1 + cv²) m - 1) rho (Kish 1965; Eldridge et al. 2006).

    Args:
        completions_per_unit: m, mean, >= 1.
        intra_class_correlation: rho, in [0, 1].
        size_variation: cv, standard deviation over mean of the completions per unit, >= 0.
    """
    if checks.finite("completions_per_unit", completions_per_unit) < 1:
        raise ValueError(f"completions_per_unit must be >= 1, got {completions_per_unit}")
    if not 0 <= checks.finite("intra_class_correlation", intra_class_correlation) <= 1:
        raise ValueError(f"intra_class_correlation must be in [0, 1], got {intra_class_correlation}")
    spread = 1 + checks.non_negative("size_variation", size_variation) ** 2
    return 1 + max(0.0, spread * completions_per_unit - 1) * intra_class_correlation


def detectable_saving(
    tokens: TokenQuestion, n_treatment: float, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0
) -> float | NotEstimable:
    """The smallest true saving at which a traffic shows that at least `min_saving` is saved.

    Args:
        tokens: the question; its own `saving` does not matter.
        n_treatment: units of the treatment, > 0.
        alpha: one-sided, in (0, .5).
        power: in (alpha, 1).
        ratio: control units for each unit of the treatment, > 0.
    """
    require_power(power, checks.fraction("alpha", alpha, high=0.5))

    def lacking(saving: float) -> float:
        return power_at(replace(tokens, saving=saving), n_treatment, alpha, ratio) - power

    highest = 1 - 1e-6
    if lacking(highest) < 0:
        return NotEstimable(f"{n_treatment:g} units show no saving of at least {tokens.min_saving:.1%}")
    return float(optimize.brentq(lacking, tokens.min_saving, highest, xtol=1e-10))
