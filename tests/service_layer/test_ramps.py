"""Raising coverage: by hand, and along a ramp that waits for its time and for health."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.utils import timezone

from experiments import wire
from experiments.models import AuditEvent, Experiment, Snapshot, UseCase
from experiments.services import experiments as service
from experiments.services.declarations import declare
from experiments.services.errors import InvalidInput, WrongState
from experiments.services.ledger import ingest
from experiments.services.looks import look
from experiments.services.ramps import advance, advance_ramps, raise_coverage, ramp_status
from experiments.services.routing import load_routing
from experiments.statistics.guardrails import Guardrail, GuardrailMetric, to_json
from tests.service_layer.conftest import Admit, answered, make_draft

pytestmark = pytest.mark.usefixtures("redis_client")

LookWell = Callable[[Experiment], None]
RAMP = [
    {"coverage": 0.01, "hold_seconds": 3600},
    {"coverage": 0.5, "hold_seconds": 60},
    {"coverage": 1.0, "hold_seconds": 0},
]


def ramped(use_case: UseCase, **changes: Any) -> Experiment:
    """A running experiment at the first step of the ramp."""
    return service.start("ada", declare("ada", make_draft(use_case), {"ramp": RAMP} | changes))


def since(experiment: Experiment, seconds: float) -> None:
    """Make its coverage that old."""
    Experiment.objects.filter(pk=experiment.pk).update(coverage_since=timezone.now() - timedelta(seconds=seconds))


def due(use_case: UseCase, **changes: Any) -> Experiment:
    """One whose first step has been held long enough, without a look yet."""
    experiment = ramped(use_case, **changes)
    since(experiment, 3601)
    return experiment


@pytest.fixture
def look_well(admit: Admit) -> LookWell:
    """Looks at an experiment after a few right answers of each arm."""

    def take(experiment: Experiment) -> None:
        phase = experiment.phase
        assert phase is not None
        keys = {f"{phase.pk}-{key}-{n}": key for key in phase.weights for n in range(5)}
        ingest(
            [admit(name, phase=phase, variant=key, unit=name, reference="42") for name, key in keys.items()],
            [answered(name) for name in keys],
        )
        look(experiment.pk)

    return take


def coverage(experiment: Experiment) -> float:
    return Experiment.objects.get(pk=experiment.pk).coverage


def test_a_ramp_starts_at_its_first_step(use_case: UseCase) -> None:
    experiment = ramped(use_case)
    assert (experiment.coverage, experiment.ramp) == (0.01, RAMP)


def test_a_coverage_beside_a_ramp_must_be_that_of_its_first_step(use_case: UseCase) -> None:
    with pytest.raises(InvalidInput, match=r"coverage must be that of the ramp's first step, 0\.01, got 0\.3"):
        declare("ada", make_draft(use_case), {"ramp": RAMP, "coverage": 0.3})


def test_a_step_is_taken_when_its_time_is_over_and_all_is_well(use_case: UseCase, look_well: LookWell) -> None:
    experiment = due(use_case)
    look_well(experiment)
    assert advance(experiment.pk)
    assert coverage(experiment) == 0.5
    event = AuditEvent.objects.get(action="raise coverage")
    assert (event.actor, event.before, event.after) == ("ramp", {"coverage": 0.01}, {"coverage": 0.5})
    assert event.why == "1% was held for 3600 s, and the newest look is healthy with no guardrail breached"


def test_a_step_opens_no_phase_and_moves_no_range(use_case: UseCase, look_well: LookWell) -> None:
    experiment = due(use_case)
    look_well(experiment)
    (before,) = load_routing(1).routes["arithmetic"].experiments
    advance(experiment.pk)
    (after,) = load_routing(2).routes["arithmetic"].experiments
    assert after.phase_id == before.phase_id
    assert [low for low, _ in after.ranges] == [low for low, _ in before.ranges]
    assert all(wide > narrow for (_, wide), (_, narrow) in zip(after.ranges, before.ranges, strict=True))


def test_a_step_waits_for_its_time(use_case: UseCase, look_well: LookWell) -> None:
    experiment = ramped(use_case)
    since(experiment, 3590)
    look_well(experiment)
    assert not advance(experiment.pk)
    assert coverage(experiment) == 0.01


def test_the_next_step_waits_for_a_look_at_the_present_one(use_case: UseCase, look_well: LookWell) -> None:
    experiment = due(use_case)
    look_well(experiment)
    assert [advance(experiment.pk), advance(experiment.pk)] == [True, False]
    status = ramp_status(Experiment.objects.get())
    assert status is not None
    assert status.next_coverage == 1.0
    assert status.held == "there is no look at this coverage from the last 300 seconds"


def test_an_old_look_holds_it(use_case: UseCase, look_well: LookWell) -> None:
    experiment = due(use_case)
    look_well(experiment)
    Snapshot.objects.update(taken_at=timezone.now() - timedelta(seconds=301))
    assert not advance(experiment.pk)


def test_a_wrong_sample_ratio_holds_it(use_case: UseCase, admit: Admit) -> None:
    experiment = due(use_case, automatic=False)
    phase = experiment.phase
    assert phase is not None
    ingest([admit(f"r{n}", phase=phase, variant="short", unit=f"u{n}") for n in range(1_000)], [])
    look(experiment.pk)
    assert not advance(experiment.pk)
    status = ramp_status(Experiment.objects.get())
    assert status is not None
    assert status.held.startswith("Exposures (full 0, short 1000) contradict the declared weights")


def test_a_breached_guardrail_holds_it(use_case: UseCase, admit: Admit) -> None:
    rail = to_json([Guardrail(GuardrailMetric.EMPTY, 0.1)])
    experiment = due(use_case, automatic=False, guardrails=rail)
    phase = experiment.phase
    assert phase is not None
    names = [(f"{key}{n}", key) for key in ("full", "short") for n in range(150)]
    admissions = [admit(name, phase=phase, variant=key, unit=name, reference="42") for name, key in names]
    ingest(admissions, [answered(name, "" if key == "short" else "42") for name, key in names])
    look(experiment.pk)
    assert not advance(experiment.pk)
    status = ramp_status(Experiment.objects.get())
    assert status is not None
    assert status.held.startswith("Empty answers of short: 100.00%")


def test_a_paused_experiment_stays_where_it_is(use_case: UseCase, look_well: LookWell) -> None:
    experiment = due(use_case)
    look_well(experiment)
    service.pause("ada", experiment)
    assert not advance(experiment.pk)
    assert advance_ramps() == 0


def test_a_resumed_one_holds_its_step_anew(use_case: UseCase, look_well: LookWell) -> None:
    experiment = due(use_case)
    resumed = service.resume("ada", service.pause("ada", experiment))
    look_well(experiment)
    assert not advance(resumed.pk)


def test_all_due_ramps_are_advanced_to_their_end(use_case: UseCase, look_well: LookWell) -> None:
    experiment = due(use_case)
    taken = []
    for _ in range(3):
        look_well(experiment)
        taken.append(advance_ramps())
        since(experiment, 3601)
    assert (taken, coverage(experiment)) == ([1, 1, 0], 1.0)
    assert ramp_status(Experiment.objects.get()) is None


def test_gateways_hear_of_a_step(
    use_case: UseCase,
    look_well: LookWell,
    redis_client: redis.Redis,
    django_capture_on_commit_callbacks: Callable[..., Any],
) -> None:
    experiment = due(use_case)
    look_well(experiment)
    with django_capture_on_commit_callbacks(execute=True):
        advance(experiment.pk)
    assert redis_client.get(wire.CONFIG_VERSION_KEY) == b"1"


def test_a_person_may_raise_coverage_past_steps(use_case: UseCase) -> None:
    experiment = raise_coverage("ada", ramped(use_case), 0.6, "all is well")
    assert experiment.coverage == 0.6
    event = AuditEvent.objects.get(action="raise coverage")
    assert (event.actor, event.why) == ("ada", "all is well")
    status = ramp_status(experiment)
    assert status is not None
    assert status.next_coverage == 1.0


@pytest.mark.parametrize("wanted", [0.01, 0.0, 1.5, float("nan")])
def test_coverage_is_only_raised(use_case: UseCase, wanted: float) -> None:
    experiment = ramped(use_case)
    with pytest.raises(InvalidInput, match=r"coverage must be above the present 0\.01 and at most 1, got"):
        raise_coverage("ada", experiment, wanted)
    assert coverage(experiment) == 0.01


def test_only_a_running_experiment_raises_its_coverage(draft: Experiment) -> None:
    with pytest.raises(WrongState, match="is draft, this needs it to be running"):
        raise_coverage("ada", draft, 1.0)


def test_an_arm_without_traffic_holds_it(use_case: UseCase) -> None:
    experiment = due(use_case)
    look(experiment.pk)
    assert not advance(experiment.pk)
    status = ramp_status(Experiment.objects.get())
    assert status is not None
    assert status.held == "no completion of full has been counted in this phase yet"
