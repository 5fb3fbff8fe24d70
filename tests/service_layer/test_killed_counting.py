"""Counting in a process that is killed in the middle of a chunk."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from experiments.models import Phase
from experiments.services import accumulators
from experiments.services.ledger import ingest
from tests.service_layer.conftest import NOON, Admit, answered
from tests.service_layer.test_accumulators import LATER, contents, count

REQUESTS, CHUNK, KILLED_IN = 60, 10, 3
# Kills itself when a chunk's totals and moments are written and its transaction is still open.
CHILD = f"""
import os, signal, sys
import django
django.setup()
from datetime import UTC, datetime
from experiments.models import Phase
from experiments.services import accumulators, sketches
accumulators.CHUNK = {CHUNK}
update, calls = sketches.update, []
def kill_in_third(*arguments):
    calls.append(1)
    if len(calls) == {KILLED_IN}:
        os.kill(os.getpid(), signal.SIGKILL)
    update(*arguments)
sketches.update = kill_in_third
phase = Phase.objects.get(pk=int(sys.argv[1]))
moment = datetime.fromtimestamp({NOON} + 3600, UTC)
accumulators.count_until(phase.experiment, phase, moment, moment)
"""


@pytest.mark.django_db(transaction=True)
def test_a_killed_count_leaves_whole_chunks_and_is_gone_on_from(
    admit: Admit, phase: Phase, child_environment: dict[str, str]
) -> None:
    names = [f"r{i}" for i in range(REQUESTS)]
    ingest(
        [
            admit(name, phase=phase, variant=("full", "short")[i % 2], unit=f"u{i % 7}", admitted_at=NOON + i)
            for i, name in enumerate(names)
        ],
        [answered(name, thinking_tokens=10 * i) for i, name in enumerate(names)],
    )
    environment = child_environment | {"DJANGO_SETTINGS_MODULE": "curtail.settings"}
    child = subprocess.run([sys.executable, "-c", CHILD, str(phase.pk)], env=environment, timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL
    assert len(contents(phase)["counted"]) == (KILLED_IN - 1) * CHUNK

    phase.refresh_from_db()
    count(phase)
    gone_on = contents(phase)
    assert len(gone_on["counted"]) == REQUESTS
    accumulators.rebuild(phase.experiment, phase, LATER)
    assert contents(phase) == gone_on
