"""The Celery application, with the long-lived services that live inside its workers."""

from __future__ import annotations

import os

import click
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "curtail.settings")

app = Celery("curtail")
app.config_from_object("django.conf:settings", namespace="CELERY")
for subject in ("looks", "notifications", "shadow", "grading", "ramps", "overdue"):
    app.autodiscover_tasks(["workers.tasks"], related_name=subject)
app.user_options["worker"].add(
    click.Option(("--engine-host",), is_flag=True, help="Serve the registered checkpoints in this worker.")
)
app.user_options["worker"].add(
    click.Option(("--ledger-writer",), is_flag=True, help="Store admissions and completions in this worker.")
)
app.steps["worker"].add("workers.bootsteps:EngineHostStep")
app.steps["worker"].add("workers.bootsteps:LedgerWriterStep")
app.steps["worker"].add("workers.bootsteps:MetricsStep")
