"""The graders of stored rows: of a label, and of the models of admissions."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.grading import Grader, grader_from_spec
from experiments.models import Admission, Label, ModelProfile


def grader_of(label: Label) -> Grader:
    """The grader that a label was stored for, in the version that runs now."""
    return grader_from_spec(label.grader, label.grader_options)


def model_grader(model: ModelProfile) -> Grader:
    """The grader that a model profile declares."""
    return grader_from_spec(model.grader, model.grader_options)


def graders_of_admissions(admission_ids: Sequence[str]) -> dict[str, Grader]:
    """The grader of each known admission's model."""
    rows = Admission.objects.filter(pk__in=admission_ids).values_list("pk", "checkpoint__model_id")
    models = dict(rows)
    graders = {model.pk: model_grader(model) for model in ModelProfile.objects.filter(pk__in=set(models.values()))}
    return {pk: graders[model_id] for pk, model_id in models.items()}
