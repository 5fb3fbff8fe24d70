"""Geometry of the forest plot: one panel per metric, drawn by the template as inline SVG.

Everything is in the panel's own units: 0,0 is the top left, and the template adds no arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.web.wording import number

WIDTH = 440.0
_LEFT = _RIGHT = 14.0
_TOP = 30.0
_ROW = 48.0
_STRIP = 24.0  # of a row, for its text: the lines of the plot stop there
_BAR = 36.0  # from the top of a row to its interval bar
_AXIS = 44.0
_MOST_TICKS = 6


@dataclass(frozen=True, slots=True)
class Mark:
    """One arm to draw: its estimate and interval in shown units, or None where there is none."""

    label: str
    text: str
    tone: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None

    @property
    def ends(self) -> tuple[float, ...]:
        """The numbers that the axis must hold."""
        return tuple(v for v in (self.value, self.lower, self.upper) if v is not None)


@dataclass(frozen=True, slots=True)
class Row:
    """A drawn arm: its text in a strip of its own, the bar below; x of the point and the interval's ends."""

    mark: Mark
    top: float
    text_y: float
    bar_y: float
    x: float | None
    x_lower: float | None
    x_upper: float | None
    strip_height: float = _STRIP


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of the axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric: everything that the template draws."""

    key: str
    title: str
    description: str
    axis_title: str
    height: float
    axis_y: float
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    zero_x: float
    bound_x: float
    bound_label: str
    bound_label_x: float
    bound_anchor: str
    accepted_x: float
    accepted_width: float
    width: float = WIDTH
    top: float = _TOP
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    middle: float = WIDTH / 2
    bound_top: float = _TOP - 6

    @property
    def plot_height(self) -> float:
        """From the top of the plot to its axis."""
        return self.axis_y - self.top

    @property
    def tick_y(self) -> float:
        """Baseline of the axis' numbers."""
        return self.axis_y + 17

    @property
    def axis_title_y(self) -> float:
        """Baseline of the axis' title."""
        return self.axis_y + 36


def panel(
    key: str,
    title: str,
    axis_title: str,
    marks: Sequence[Mark],
    *,
    bound: float,
    bound_label: str,
    accepted_above: bool,
    description: str,
) -> Panel:
    """Lay out one panel.

    Args:
        key: for element ids.
        title: name of the metric.
        axis_title: the metric with its unit.
        marks: one per arm in the order to be drawn, in the axis' units.
        bound: where the dashed line stands, same units.
        bound_label: what it is.
        accepted_above: whether values above the bound are the acceptable ones.
        description: the same content in words, for those who don't see the plot.
    """
    low, high = _domain([end for mark in marks for end in mark.ends], bound)
    span = WIDTH - _LEFT - _RIGHT

    def place(value: float) -> float:
        return round(_LEFT + span * (value - low) / (high - low), 1)

    rows = tuple(
        Row(
            mark=mark,
            top=_TOP + _ROW * i,
            text_y=_TOP + _ROW * i + 17,
            bar_y=_TOP + _ROW * i + _BAR,
            x=None if mark.value is None else place(mark.value),
            x_lower=None if mark.lower is None else place(mark.lower),
            x_upper=None if mark.upper is None else place(mark.upper),
        )
        for i, mark in enumerate(marks)
    )
    axis_y = _TOP + _ROW * len(marks)
    bound_x = place(bound)
    to_the_right = bound_x < WIDTH / 2
    return Panel(
        key=key,
        title=title,
        description=description,
        axis_title=axis_title,
        height=axis_y + _AXIS,
        axis_y=axis_y,
        rows=rows,
        ticks=tuple(Tick(place(value), text) for value, text in _ticks(low, high)),
        zero_x=place(0.0),
        bound_x=bound_x,
        bound_label=bound_label,
        bound_label_x=bound_x + (5 if to_the_right else -5),
        bound_anchor="start" if to_the_right else "end",
        accepted_x=bound_x if accepted_above else _LEFT,
        accepted_width=round((WIDTH - _RIGHT - bound_x) if accepted_above else (bound_x - _LEFT), 1),
    )


def _domain(ends: Sequence[float], bound: float) -> tuple[float, float]:
    """The axis' ends: everything drawn, the bound and zero, with room at both sides."""
    low, high = min(0.0, bound, *ends), max(0.0, bound, *ends)
    room = 0.08 * (high - low)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers within the axis, at most ``_MOST_TICKS``, with their texts."""
    power = 10.0 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    step = next(m * power for m in (1, 2, 5, 10, 20) if (high - low) / (m * power) <= _MOST_TICKS)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step), math.floor(high / step)
    values = [round(i * step, digits) + 0.0 for i in range(first, last + 1)]
    return [(value, number(value, digits, sign=True) if value else "0") for value in values]
