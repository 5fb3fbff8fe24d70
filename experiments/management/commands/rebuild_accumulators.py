"""manage.py rebuild_accumulators: count an experiment's traffic again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from experiments.models import Experiment
from experiments.services.accumulators import load_moments, rebuild
from experiments.services.looks import LOST_AFTER_SECONDS


class Command(BaseCommand):
    """Rebuilds the accumulators of an experiment's newest phase from its requests, completions and labels."""

    help = "Count the requests of an experiment's newest phase again, and say whether anything changed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("experiment", type=int, help="id of the experiment")

    def handle(self, *args: Any, **options: Any) -> None:
        experiment = Experiment.objects.filter(pk=options["experiment"]).first()
        phase = experiment.phase if experiment else None
        if experiment is None or phase is None:
            raise CommandError(f"experiment must be one that was started, got {options['experiment']}")
        before = load_moments(phase)
        rebuild(experiment, phase, timezone.now() - timedelta(seconds=LOST_AFTER_SECONDS))
        same = load_moments(phase) == before
        self.stdout.write(f"{experiment}: rebuilt, {'nothing changed' if same else 'something changed'}")
