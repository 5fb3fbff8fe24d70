"""Layers: experiments of one use case that run at once, each on its own part of the units."""

from __future__ import annotations

from experiments.models import Experiment, UseCase
from experiments.services.errors import WrongState


def check_room(experiment: Experiment) -> None:
    """Hold the use case until the transaction ends, and see that no unit could be in two running experiments.

    Raises:
        WrongState: another one runs that may not run beside it; the message names both.
    """
    use_case = UseCase.objects.select_for_update(no_key=True).get(pk=experiment.use_case_id)
    running = Experiment.objects.filter(use_case=use_case, state=Experiment.State.RUNNING).exclude(pk=experiment.pk)
    for other in running.order_by("pk"):
        _check_beside(use_case, experiment, other)


def _check_beside(use_case: UseCase, experiment: Experiment, other: Experiment) -> None:
    if not experiment.layer or experiment.layer != other.layer:
        raise WrongState(
            f"use case {use_case.slug!r} already runs an experiment, {other.name!r} {_place(other)}, and "
            f"{experiment.name!r} is {_place(experiment)}: several run at once only in one layer"
        )
    if experiment.unit != other.unit:
        raise WrongState(
            f"experiments of one layer must have one type of unit, but {experiment.name!r} has {experiment.unit} "
            f"and the running {other.name!r} has {other.unit}"
        )
    if max(experiment.layer_low, other.layer_low) < min(experiment.layer_high, other.layer_high):
        raise WrongState(
            f"layer_range of {experiment.name!r}, {_buckets(experiment)}, must not overlap that of the running "
            f"{other.name!r}, {_buckets(other)}, in layer {experiment.layer!r}"
        )


def _place(experiment: Experiment) -> str:
    return f"in layer {experiment.layer!r}" if experiment.layer else "in no layer"


def _buckets(experiment: Experiment) -> str:
    return f"[{experiment.layer_low}, {experiment.layer_high})"
