"""Exits that were not put into effect are counted, and what was counted before the column came stays right."""

from __future__ import annotations

import importlib

import numpy as np
from django.apps import apps

from experiments.models import ArmMoments, Phase
from experiments.services import accumulators
from experiments.statistics.columns import UNIT_COLUMNS, arm_aggregates
from experiments.statistics.moments import UnitMoments
from tests.service_layer.conftest import NOON, Admit, answered
from tests.service_layer.test_accumulators import count, ingest, moments

migration = importlib.import_module("experiments.migrations.0003_honest_accounting")


def test_completions_whose_exit_failed_are_counted_once_each(admit: Admit, phase: Phase) -> None:
    names = "abc"
    ingest(
        [admit(n, phase=phase, variant="short", unit=n, admitted_at=NOON + i) for i, n in enumerate(names)],
        [
            answered("a", enforcement_failures="exit_missed"),
            answered("b", enforcement_failures="cut_character,empty_answer"),
            answered("c"),
        ],
    )
    count(phase)
    assert arm_aggregates("short", moments(phase, "short")).enforcement_failures == 2


def test_moments_from_before_gain_a_column_of_zeros(phase: Phase) -> None:
    then = (*UNIT_COLUMNS[:22], *UNIT_COLUMNS[-2:])
    old_columns = tuple(name for name in then if name != "unenforced")
    totals = np.random.default_rng(4).integers(0, 50, (6, len(old_columns)))
    old = UnitMoments.from_totals(old_columns, totals)
    variant = phase.experiment.variants.get(key="full")
    row = ArmMoments.objects.create(phase=phase, variant=variant, moments=accumulators._encode(old))
    migration.widen_moments(apps, None)
    row.refresh_from_db()
    widened = np.insert(totals, then.index("unenforced"), 0, axis=1)
    assert accumulators._decode(row.moments) == UnitMoments.from_totals(then, widened)
