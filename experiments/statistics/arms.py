"""What a look knows about one arm: counts and aggregates over its mature exposures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from experiments.statistics import checks
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.guardrails import GuardrailMetric
from experiments.statistics.proportions import require_proportion


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Completions by how they ended, each >= 0."""

    answered: int = 0
    error: int = 0
    timeout: int = 0
    cancelled: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            checks.count(f"outcomes.{item.name}", getattr(self, item.name))

    @property
    def total(self) -> int:
        return self.answered + self.error + self.timeout + self.cancelled


@dataclass(frozen=True, slots=True)
class TokenMeans:
    """Mean tokens per completion by kind, for display; `decoded_tokens` is their sum."""

    thinking: float
    answer: float
    probe: float
    overrun: float

    def __post_init__(self) -> None:
        for item in fields(self):
            checks.non_negative(f"token_means.{item.name}", getattr(self, item.name))


@dataclass(frozen=True, slots=True)
class ArmAggregates:
    """One arm at one look, by intention to treat.

    Whoever builds it applies the declared rules: only exposures older than the deadline plus the label window
    are counted; a completion that was not answered (error, timeout, cancelled) and has a reference counts as
    an incorrect answer in `em`; its tokens count as decoded; the assigned variant decides the arm, whatever
    was applied.

    Attributes:
        key: the variant's key.
        exposures: units first admitted to this variant.
        em: correct answers (s_i) out of labelled completions (n_i) over units with a label; None without
            labels. An audit draws every completion of a phase with one probability, so no weights are needed.
        decoded_tokens: thinking + answer + probe + overrun tokens over units, all completions.
        tokens_without_probes: the same without probe tokens.
        completions: admitted requests that ended.
        labels_due: completions that are to be labelled: all of them, or those that the audit drew.
        labelled_completions: those with a label from the experiment's source and grader.
        outcomes: completions by how they ended.
        enforcement_failures: completions whose assigned policy was not in effect.
        token_means: means by kind, for display.
        watched: 0/1 outcomes over units by guardrail metric, as far as there are any.
        answered_due: answered completions that are to be labelled; None: all of `labels_due`.
        answered_labelled: those of them with a label; None: all of `labelled_completions`.
        late_labels: labels that came after their completion was first counted without one.
        corrected_labels: completions whose correctness is not what it was when they were first counted with a label.

    Raises:
        ValueError: counts that contradict each other; the message names the field, the value and the bound.
    """

    key: str
    exposures: int
    em: ClusterAggregate | None
    decoded_tokens: ClusterAggregate
    tokens_without_probes: ClusterAggregate
    completions: int
    labelled_completions: int
    outcomes: Outcomes
    enforcement_failures: int = 0
    token_means: TokenMeans | None = None
    labels_due: int | None = None
    watched: Mapping[GuardrailMetric, ClusterAggregate] = field(default_factory=dict)
    answered_due: int | None = None
    answered_labelled: int | None = None
    late_labels: int = 0
    corrected_labels: int = 0

    def __post_init__(self) -> None:
        checks.count("exposures", self.exposures)
        checks.count("completions", self.completions)
        if self.labels_due is None:
            object.__setattr__(self, "labels_due", self.completions)
        self._at_most("labels_due", self.due, "completions", self.completions)
        self._at_most("labelled_completions", self.labelled_completions, "labels_due", self.due)
        if self.answered_due is None:
            object.__setattr__(self, "answered_due", self.due)
        if self.answered_labelled is None:
            object.__setattr__(self, "answered_labelled", self.labelled_completions)
        answered_due, answered_labelled = self.due_and_labelled
        self._at_most("answered_due", answered_due, "labels_due", self.due)
        self._at_most("answered_labelled", answered_labelled, "answered_due", answered_due)
        self._at_most("late_labels", self.late_labels, "completions", self.completions)
        self._at_most("corrected_labels", self.corrected_labels, "completions", self.completions)
        self._at_most("enforcement_failures", self.enforcement_failures, "completions", self.completions)
        self._equal("outcomes.total", self.outcomes.total, "completions", self.completions)
        self._require_tokens("decoded_tokens", self.decoded_tokens)
        self._require_tokens("tokens_without_probes", self.tokens_without_probes)
        if self.tokens_without_probes.sum_s > self.decoded_tokens.sum_s:
            bound = f"decoded_tokens.sum_s = {self.decoded_tokens.sum_s}"
            raise ValueError(self._say("tokens_without_probes.sum_s", self.tokens_without_probes.sum_s, f"<= {bound}"))
        labelled = 0 if self.em is None else self.em.sum_n
        self._equal("em.sum_n", labelled, "labelled_completions", self.labelled_completions)
        if self.em is not None:
            require_proportion(f"{self.key}: em", self.em)
            self._at_most("em.units", self.em.units, "exposures", self.exposures)

    @property
    def due(self) -> int:
        """Completions that are to be labelled."""
        return self.completions if self.labels_due is None else self.labels_due

    @property
    def due_and_labelled(self) -> tuple[int, int]:
        """Answered completions that are to be labelled, and those of them that are."""
        due = self.due if self.answered_due is None else self.answered_due
        return due, self.labelled_completions if self.answered_labelled is None else self.answered_labelled

    def _require_tokens(self, name: str, tokens: ClusterAggregate) -> None:
        self._equal(f"{name}.sum_n", tokens.sum_n, "completions", self.completions)
        self._at_most(f"{name}.units", tokens.units, "exposures", self.exposures)
        if tokens.sum_s < 0:
            raise ValueError(self._say(f"{name}.sum_s", tokens.sum_s, ">= 0"))

    def _at_most(self, name: str, value: int, bound_name: str, bound: int) -> None:
        checks.count(f"{self.key}: {name}", value)
        if value > bound:
            raise ValueError(self._say(name, value, f"<= {bound_name} = {bound}"))

    def _equal(self, name: str, value: float, bound_name: str, bound: int) -> None:
        if value != bound:
            raise ValueError(self._say(name, value, f"{bound_name} = {bound}"))

    def _say(self, name: str, value: float, bound: str) -> str:
        return f"{self.key}: {name} must be {bound}, got {value}"
