"""The results page as one file that can be mailed and kept: no other file, no script, no link back."""

from __future__ import annotations

from functools import cache

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from experiments.models import Experiment
from experiments.web.detail import results_context
from experiments.web.pages import page


@page
@require_safe
def report_file(request: HttpRequest, pk: int) -> HttpResponse:
    """The newest snapshot as a self-contained HTML file."""
    experiment = get_object_or_404(Experiment.objects.select_related("use_case"), pk=pk)
    context = results_context(experiment)
    if "report" not in context:
        raise Http404("the experiment has not been looked at yet")
    answer = render(request, "experiments/report_file.html", context | {"style": _style()})
    answer["content-disposition"] = f'attachment; filename="experiment-{pk}.html"'
    return answer


@cache
def _style() -> str:
    return (settings.BASE_DIR / "static" / "curtail.css").read_text(encoding="utf-8")
