"""The page for a new experiment."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from experiments.models import UseCase
from experiments.services.errors import ServiceError
from experiments.services.experiments import start
from experiments.services.roles import Role
from experiments.web.definitions import DEFINITIONS
from experiments.web.draft import CONTROL_KEY, MAX_TREATMENTS, Draft
from experiments.web.pages import actor, page_for

# Buttons that change the form and save nothing.
EDITS = ("add", "remove", "even", "refresh")


@page_for(Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def create(request: HttpRequest) -> HttpResponse:
    """Show the form, change it, or save it as a draft and perhaps start it."""
    if request.method != "POST":
        use_case = UseCase.objects.order_by("name", "slug").first()
        return _show(request, Draft.new(use_case) if use_case else None)
    if any(name in request.POST for name in EDITS):
        return _show(request, Draft.edited(request.POST))
    draft = Draft.to_check(request.POST)
    experiment = draft.save(actor(request))
    if experiment is None:
        return _show(request, draft, status=422)
    if "start" in request.POST:
        try:
            start(actor(request), experiment)
            messages.success(request, "Saved and started: new units are assigned from now on.")
        except ServiceError as error:
            messages.error(request, f"Saved as a draft, but not started: {error}.")
    else:
        messages.success(request, "Saved as a draft. Nothing is served by it until it starts.")
    return redirect("experiment", pk=experiment.pk)


def _show(request: HttpRequest, draft: Draft | None, status: int = 200) -> HttpResponse:
    context = {
        "draft": draft,
        "control_key": CONTROL_KEY,
        "may_add": draft is not None and len(draft.treatments) < MAX_TREATMENTS,
        "may_remove": draft is not None and len(draft.treatments) > 1,
        "define": DEFINITIONS,
    }
    return render(request, "experiments/new.html", context, status=status)
