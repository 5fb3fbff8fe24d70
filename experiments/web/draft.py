"""A new experiment while it is typed: the forms together, and what happens to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from django.http import QueryDict

from experiments.models import Experiment, UseCase
from experiments.services.errors import InvalidInput
from experiments.services.experiments import VariantSpec, create_experiment
from experiments.web.forms import PRESET, DesignForm, TreatmentForm, typed_values
from experiments.web.presets import PRESETS
from experiments.web.wording import plain

CONTROL_KEY = "full"
MAX_TREATMENTS = 8
# Percent by which typed weights may miss 100: three arms of 33.3 are meant to be thirds.
_TOLERANCE = 0.1


class Draft:
    """The forms of one new experiment, empty, as typed, or to be checked.

    Attributes:
        design: the question and the control.
        treatments: one form each.
    """

    def __init__(self, design: DesignForm, treatments: Sequence[TreatmentForm]) -> None:
        self.design = design
        self.treatments = list(treatments)

    @classmethod
    def new(cls, use_case: UseCase) -> Draft:
        """An empty form with the use case's margin and minimum saving, and one conservative treatment."""
        control, treatment = even_weights(2)
        initial = {"use_case": use_case.slug, "control_weight": control, **_defaults(use_case)}
        first = {"key": "conservative", "choice": f"{PRESET}conservative", "weight": treatment}
        return cls(DesignForm(initial=initial), [TreatmentForm(0, initial=first)])

    @classmethod
    def to_check(cls, data: QueryDict) -> Draft:
        """The forms with what was typed, to be validated."""
        return cls(DesignForm(data), [TreatmentForm(index, data) for index in _indices(data)])

    @classmethod
    def edited(cls, data: QueryDict) -> Draft:
        """The form as typed, not validated yet, after one of the buttons that only change the form itself."""
        typed = [typed_values(data, f"t{index}-") for index in _indices(data)]
        design = typed_values(data, "")
        weights = [design.get("control_weight", ""), *(item.get("weight", "") for item in typed)]
        was_even = weights == even_weights(len(weights))
        if "add" in data and len(typed) < MAX_TREATMENTS:
            typed.append(_another(typed))
        if (removed := data.get("remove", "")).isdecimal() and len(typed) > 1:
            typed = [item for index, item in zip(_indices(data), typed, strict=True) if index != int(removed)]
        if "even" in data or (was_even and len(typed) + 1 != len(weights)):
            design["control_weight"], *rest = even_weights(len(typed) + 1)
            for item, weight in zip(typed, rest, strict=True):
                item["weight"] = weight
        _follow_use_case(design)
        return cls(DesignForm(initial=design), [TreatmentForm(i, initial=item) for i, item in enumerate(typed)])

    @property
    def total_weight(self) -> str:
        """What the weights add up to, in percent, as typed; empty where one is no number."""
        typed = [self.design["control_weight"].value(), *(form["weight"].value() for form in self.treatments)]
        try:
            return plain(round(math.fsum(float(weight) for weight in typed), 2))
        except (TypeError, ValueError):
            return ""

    @property
    def has_errors(self) -> bool:
        """Whether any of the forms was refused."""
        return any(form.errors for form in (self.design, *self.treatments))

    def save(self, actor: str) -> Experiment | None:
        """Create the draft, or None: the errors stand at the fields."""
        forms = [self.design, *self.treatments]
        for form in forms:
            form.full_clean()
        self._check_together()
        if self.has_errors:
            return None
        values = self.design.cleaned_data
        try:
            return create_experiment(
                actor,
                values["use_case"],
                values["name"],
                self._variants(values["use_case"]),
                hypothesis=values["hypothesis"],
                unit=values["unit"],
                margin=values["margin"] / 100,
                min_saving=values["min_saving"] / 100,
                maximum_units=values["maximum_units"],
            )
        except InvalidInput as error:
            field = error.field if error.field in self.design.fields else None
            self.design.add_error(field, f"{error}.")
            return None

    def _check_together(self) -> None:
        seen = {CONTROL_KEY}
        for form in self.treatments:
            key = form.cleaned_data.get("key", "")
            if key in seen:
                form.add_error("key", f"Keys must differ, and {key!r} names another arm.")
            seen |= {key} - {""}
        percents = self._percents()
        total = math.fsum(percents)
        if len(percents) == 1 + len(self.treatments) and abs(total - 100) > _TOLERANCE + 1e-9:
            message = f"The weights of all arms must add up to 100%, they add up to {plain(round(total, 4))}%."
            self.design.add_error("control_weight", message)

    def _percents(self) -> list[float]:
        """The weights that are valid, the control's first."""
        typed = [self.design.cleaned_data.get("control_weight")]
        typed += [form.cleaned_data.get("weight") for form in self.treatments]
        return [weight for weight in typed if weight is not None]

    def _variants(self, use_case: UseCase) -> list[VariantSpec]:
        percents = self._percents()
        # Dividing by the sum makes 33.3, 33.3 and 33.3 into exact thirds.
        control_weight, *weights = (value / math.fsum(percents) for value in percents)
        checkpoint = self.design.cleaned_data["control_checkpoint"] or use_case.checkpoint
        control = VariantSpec(CONTROL_KEY, {"name": "full"}, checkpoint, control_weight, is_control=True)
        treatments = [
            VariantSpec(
                form.cleaned_data["key"],
                form.cleaned_data["policy"],
                form.cleaned_data["checkpoint"] or use_case.checkpoint,
                weight,
            )
            for form, weight in zip(self.treatments, weights, strict=True)
        ]
        return [control, *treatments]


def even_weights(arms: int) -> list[str]:
    """Equal shares in percent with two decimals; the first arm gets what is left over."""
    each = math.floor(10_000 / arms) / 100
    return [plain(round(100 - each * (arms - 1), 2)), *[plain(each)] * (arms - 1)]


def _indices(data: QueryDict) -> list[int]:
    """The numbers of the treatments in the form, in its order; never none, never more than allowed."""
    found = dict.fromkeys(int(text) for text in data.getlist("treatment") if text.isdecimal() and len(text) < 4)
    return list(found)[:MAX_TREATMENTS] or [0]


def _another(typed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The next treatment: the first preset whose name is free, else a numbered one."""
    taken = {item.get("key") for item in typed}
    preset = next((name for name in PRESETS if name not in taken), "conservative")
    numbered = (f"treatment-{number}" for number in range(2, len(typed) + 3))
    key = preset if preset not in taken else next(name for name in numbered if name not in taken)
    return {"key": key, "choice": f"{PRESET}{preset}", "weight": ""}


def _defaults(use_case: UseCase) -> dict[str, str]:
    """Margin in points and minimum saving in percent, as a person would type them."""
    return {
        "shown_use_case": use_case.slug,
        "margin": plain(round(100 * use_case.margin, 6)),
        "min_saving": plain(round(100 * use_case.min_saving, 6)),
    }


def _follow_use_case(design: dict[str, Any]) -> None:
    """Another use case was chosen: its margin and saving replace the former's, unless changed by hand."""
    slugs = [design.get("shown_use_case", ""), design.get("use_case", "")]
    known = {row.slug: _defaults(row) for row in UseCase.objects.filter(slug__in=slugs)}
    before, after = (known.get(slug) for slug in slugs)
    if before is None or after is None or before == after:
        return
    for name, value in after.items():
        if design.get(name) == before[name]:
            design[name] = value
