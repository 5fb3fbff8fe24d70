"""The forms of a new experiment: the question, the control, and one form per treatment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.validators import validate_slug
from django.http import QueryDict

from experiments.models import Checkpoint, Experiment, UseCase
from experiments.policies import POLICIES
from experiments.web.fields import NumberField, ParameterForm
from experiments.web.presets import PRESETS
from experiments.web.wording import policy_words

PRESET, POLICY = "preset:", "policy:"
MAXIMUM_UNITS_BOUND = 2_147_483_647  # PostgreSQL's integer


# Generic for the type checker only.
if TYPE_CHECKING:
    _CheckpointField = forms.ModelChoiceField[Checkpoint]
else:
    _CheckpointField = forms.ModelChoiceField


def typed_values(data: QueryDict, prefix: str) -> dict[str, Any]:
    """Values by field name after the prefix; those of a treatment's policies one level deeper."""
    values: dict[str, Any] = {}
    for name in data:
        if name.startswith(prefix):
            head, _, tail = name.removeprefix(prefix).partition("-")
            if tail:
                values.setdefault(head, {})[tail] = data[name]
            else:
                values[head] = data[name]
    return values


class CheckpointChoice(_CheckpointField):
    """A checkpoint; empty means the one that the use case serves."""

    def __init__(self) -> None:
        super().__init__(
            queryset=Checkpoint.objects.select_related("model"),
            required=False,
            empty_label="The use case's own",
            label="Checkpoint",
            help_text="The weights that answer.",
            error_messages={"invalid_choice": "This checkpoint is not registered."},
        )

    def label_from_instance(self, obj: Checkpoint) -> str:
        """Model, name and training step."""
        return f"{obj}" if obj.step is None else f"{obj} (step {obj.step:,})"


def weight_field() -> NumberField:
    """Share of the units, in percent."""
    return NumberField(what="Weight", unit="%", low=0, high=100, label="Weight", help_text="Share of the units.")


class DesignForm(forms.Form):
    """The question and the control."""

    use_case = forms.ModelChoiceField(
        queryset=UseCase.objects.select_related("checkpoint__model").order_by("name", "slug"),
        to_field_name="slug",
        empty_label=None,
        label="Use case",
        help_text="Whose traffic is split. One experiment at a time runs on a use case.",
        error_messages={
            "required": "Choose a use case.",
            "invalid_choice": "This use case is not registered.",
        },
    )
    name = forms.CharField(
        max_length=120,
        label="Name",
        help_text="At most 120 characters.",
        error_messages={"required": "Name must not be empty."},
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    hypothesis = forms.CharField(
        required=False,
        max_length=4000,
        label="Hypothesis (optional)",
        help_text="What you expect, and why. For those who read the result.",
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    unit = forms.ChoiceField(
        choices=Experiment.Unit.choices,
        initial=Experiment.Unit.CONVERSATION,
        label="Unit",
        help_text="What is assigned to an arm and stays there.",
    )
    margin = NumberField(
        what="Margin",
        unit="points",
        low=0,
        high=100,
        label="Margin",
        help_text="The EM loss that is too much, in percentage points. With 5, falling from 90% to 85% is too much.",
    )
    min_saving = NumberField(
        what="Minimum saving",
        unit="%",
        low=-100,
        high=100,
        label="Minimum saving",
        help_text="How many percent of the control's decoded tokens must be saved. Negative: so many more "
        "may be spent.",
    )
    maximum_units = NumberField(
        what="Maximum units",
        unit="units",
        low=2,
        high=MAXIMUM_UNITS_BOUND,
        whole=True,
        initial=100_000,
        label="Maximum units",
        help_text="Over all arms. Reached without a decision, the experiment is inconclusive.",
    )
    control_weight = weight_field()
    control_checkpoint = CheckpointChoice()


class TreatmentForm(forms.Form):
    """One treatment: a preset or a policy with its parameters, a checkpoint and a weight."""

    key = forms.CharField(
        max_length=40,
        label="Key",
        help_text="Letters, digits, - and _; names the arm everywhere.",
        error_messages={"required": "Key must not be empty."},
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    choice = forms.ChoiceField(
        label="Stopping policy",
        choices=[
            ("Presets", [(f"{PRESET}{name}", preset.title) for name, preset in PRESETS.items()]),
            ("Policies", [(f"{POLICY}{name}", policy.title) for name, policy in POLICIES.items()]),
        ],
        help_text="When thinking ends. A preset is a policy with its parameters set.",
        error_messages={"invalid_choice": "The policy must be one of the list, got %(value)s."},
        widget=forms.Select(attrs={"data-panels": ""}),
    )
    checkpoint = CheckpointChoice()
    weight = weight_field()

    def __init__(self, index: int, data: QueryDict | None = None, initial: dict[str, Any] | None = None) -> None:
        super().__init__(data, prefix=f"t{index}", initial=initial)
        self.index = index
        shown = initial or ({} if data is None else typed_values(data, f"t{index}-"))
        self.parameter_forms = {}
        for name, policy in POLICIES.items():
            # Only what was chosen is checked: the others keep what was typed, without errors.
            checked = data if self.chosen == f"{POLICY}{name}" else None
            prefix = f"t{index}-{name}"
            self.parameter_forms[name] = ParameterForm(policy, data=checked, prefix=prefix, initial=shown.get(name))

    @property
    def chosen(self) -> str:
        """The choice as typed so far."""
        return str(self["choice"].value() or f"{PRESET}conservative")

    @property
    def panels(self) -> list[dict[str, Any]]:
        """What the page shows under each choice: a preset's words, or a policy's parameters."""
        presets = [
            {"value": f"{PRESET}{name}", "title": preset.title, "text": preset.expectation,
             "policy": policy_words(preset.spec)}
            for name, preset in PRESETS.items()
        ]  # fmt: skip
        policies = [
            {
                "value": f"{POLICY}{name}",
                "title": form.policy.title,
                "text": form.policy.summary,
                "form": form,
            }
            for name, form in self.parameter_forms.items()
        ]
        return [{**panel, "open": panel["value"] == self.chosen} for panel in presets + policies]

    def clean_key(self) -> str:
        """A key that can stand in addresses and tables."""
        key: str = self.cleaned_data["key"]
        try:
            validate_slug(key)
        except forms.ValidationError:
            raise forms.ValidationError(f"Key may hold letters, digits, - and _ only, got {key!r}.") from None
        return key

    def clean(self) -> dict[str, Any] | None:
        """Add ``policy``, the JSON form of what was chosen; other policies' parameters don't matter."""
        choice = self.cleaned_data.get("choice", "")
        if choice.startswith(PRESET):
            self.cleaned_data["policy"] = PRESETS[choice.removeprefix(PRESET)].spec
        elif choice.startswith(POLICY):
            form = self.parameter_forms[choice.removeprefix(POLICY)]
            if form.is_valid():
                self.cleaned_data["policy"] = form.spec()
            else:
                # Said next to the parameter itself; here it only keeps the form from being valid.
                self.add_error("choice", "A parameter below is not allowed.")
        return self.cleaned_data
