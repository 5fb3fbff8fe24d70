"""What a person may do with an experiment. Each is a POST that ends on the experiment's page."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.http import require_POST
from kombu.exceptions import OperationalError

from curtail.celery_app import app as celery
from experiments.models import Experiment
from experiments.services import experiments as service
from experiments.services.errors import InvalidInput, ServiceError
from experiments.services.roles import Role
from experiments.web.pages import actor

logger = logging.getLogger(__name__)
LOOK_TASK = "workers.tasks.looks.take_look"
_SHIP = "ship:"


@require_POST
def act(request: HttpRequest, pk: int, action: str) -> HttpResponse:
    """Do it, or say in words why not. ``action`` comes from the address, one of ``ACTIONS``.

    The addresses wrap it in a page for the action's role.
    """
    experiment = get_object_or_404(Experiment, pk=pk)
    address = reverse("experiment", args=[pk])
    try:
        done = ACTIONS[action](request, experiment)
    except ServiceError as error:
        messages.error(request, f"Nothing was changed: {error}.")
        return redirect(address)
    if action == "look":
        return redirect(f"{address}?looking=1")
    messages.success(request, done)
    return redirect(address)


def _why(request: HttpRequest) -> str:
    return request.POST.get("why", "").strip()


def _start(request: HttpRequest, experiment: Experiment) -> str:
    service.start(actor(request), experiment, _why(request))
    return "Started: new units are assigned from now on."


def _pause(request: HttpRequest, experiment: Experiment) -> str:
    service.pause(actor(request), experiment, _why(request))
    return "Paused: the policy in force serves everybody until the experiment resumes."


def _resume(request: HttpRequest, experiment: Experiment) -> str:
    service.resume(actor(request), experiment, _why(request))
    return "Resumed, in a new phase: results start afresh."


def _stop(request: HttpRequest, experiment: Experiment) -> str:
    """``end`` is a conclusion, or ``ship:`` and the key of a treatment."""
    if request.POST.get("confirm") != "stop":
        raise InvalidInput("stopping needs its confirmation", "confirm")
    end = request.POST.get("end", "")
    if not end.startswith(_SHIP):
        service.stop(actor(request), experiment, end, _why(request))
        return "Stopped: the policy in force is unchanged."
    key = end.removeprefix(_SHIP)
    variant = experiment.variants.filter(key=key, is_control=False).first()
    if variant is None:
        raise InvalidInput(f"ship must name a treatment of this experiment, got {key!r}", "end")
    service.stop(actor(request), experiment, Experiment.Conclusion.SHIPPED, _why(request), ship=variant)
    return f"Shipped: {key} is now in force for {experiment.use_case.name}."


def _look(request: HttpRequest, experiment: Experiment) -> str:
    if experiment.state == Experiment.State.DRAFT:
        raise ServiceError("a draft has nothing to look at")
    try:
        celery.send_task(LOOK_TASK, args=[experiment.pk], retry=False)
    except (OperationalError, OSError) as error:
        logger.warning("no look at experiment %d: %s", experiment.pk, error)
        raise ServiceError("the task queue (Redis) does not answer") from error
    return "A look was asked for."


ACTIONS: dict[str, Callable[[HttpRequest, Experiment], str]] = {
    "start": _start,
    "pause": _pause,
    "resume": _resume,
    "stop": _stop,
    "look": _look,
}
# Whoever ends an experiment decides what serves everybody. An action without a role has no address.
ACTION_ROLES = {
    "start": Role.EDITOR,
    "pause": Role.EDITOR,
    "resume": Role.EDITOR,
    "stop": Role.OWNER,
    "look": Role.EDITOR,
}
