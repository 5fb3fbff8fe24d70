"""Where everything is."""

from __future__ import annotations

from django.urls import include, path

from experiments.api import api

urlpatterns = [
    path("api/v1/", api.urls),
    path("", include("experiments.web.urls")),
]
