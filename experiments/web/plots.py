"""The two panels of the forest plot: EM difference in points, token change in percent."""

from __future__ import annotations

from experiments.statistics.comparison import Comparison, EMContrast, TokenContrast
from experiments.statistics.results import Estimate, Interval
from experiments.statistics.snapshot import Snapshot
from experiments.web.forest import Mark, Panel, panel
from experiments.web.report import Figure, change_figure, em_figure
from experiments.web.wording import DECISION_TONES, number, points


def forest_panels(snapshot: Snapshot) -> tuple[Panel, Panel]:
    """Both panels, arms in the snapshot's order, the control at zero."""
    return _em_panel(snapshot), _token_panel(snapshot)


def _em_panel(snapshot: Snapshot) -> Panel:
    design = snapshot.design
    marks = [_control(snapshot)]
    for comparison in snapshot.comparisons:
        em = comparison.em
        estimate = em.difference if isinstance(em, EMContrast) else None
        marks.append(_mark(snapshot, comparison, em_figure(comparison), estimate))
    return panel(
        "em",
        "EM difference",
        "EM difference from the control, points",
        marks,
        bound=-100 * design.margin,
        bound_label=f"margin {number(-100 * design.margin, 1)}",
        accepted_above=True,
        description=_description(marks, f"The margin is a loss of {points(design.margin)}."),
    )


def _token_panel(snapshot: Snapshot) -> Panel:
    design = snapshot.design
    marks = [_control(snapshot)]
    for comparison in snapshot.comparisons:
        tokens = comparison.decoded_tokens
        estimate = tokens.relative_change if isinstance(tokens, TokenContrast) else None
        marks.append(_mark(snapshot, comparison, change_figure(tokens), estimate))
    bound = number(-100 * design.min_saving, 1, sign=True)
    # A negative minimum saving allows a cost.
    name = "minimum saving" if design.min_saving >= 0 else "most that it may cost"
    return panel(
        "tokens",
        "Change of decoded tokens",
        "decoded tokens relative to the control, percent",
        marks,
        bound=-100 * design.min_saving,
        bound_label=f"{name} {bound}%",
        accepted_above=False,
        description=_description(marks, f"The change that is worth shipping is {bound}% or less."),
    )


def _control(snapshot: Snapshot) -> Mark:
    return Mark(label=snapshot.design.control, text="control", tone="plain", value=0.0)


def _mark(snapshot: Snapshot, comparison: Comparison, figure: Figure, estimate: Estimate | None) -> Mark:
    key = comparison.treatment
    tone = next(DECISION_TONES[v.decision] for v in snapshot.verdict.treatments if v.treatment == key)
    if estimate is None:
        return Mark(label=key, text="not estimable yet", tone=tone)
    interval = estimate.interval if isinstance(estimate.interval, Interval) else None
    return Mark(
        label=key,
        text=f"{figure.text} ({figure.interval})" if interval else f"{figure.text} (no interval yet)",
        tone=tone,
        value=100 * estimate.value,
        lower=None if interval is None else 100 * interval.lower,
        upper=None if interval is None else 100 * interval.upper,
    )


def _description(marks: list[Mark], bound: str) -> str:
    return "; ".join(f"{mark.label}: {mark.text}" for mark in marks) + f". {bound}"
