"""manage.py force_variant and issue_key."""

from __future__ import annotations

import io
import time

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from experiments.models import Checkpoint, ModelProfile, UseCase
from experiments.services.experiments import VariantSpec, create_experiment, start
from experiments.services.forcing import ForcedVariant, read_header
from experiments.services.routing import load_routing
from experiments.services.secrets import api_key_digest

pytestmark = pytest.mark.usefixtures("redis_client")
FULL = {"name": "full"}


@pytest.fixture
def use_cases(db: None) -> list[UseCase]:
    """Two use cases."""
    model = ModelProfile.objects.create(name="tiny", max_context_tokens=512)
    last = Checkpoint.objects.create(model=model, name="last", path="/nowhere")
    return [UseCase.objects.create(slug=slug, name=slug, checkpoint=last, policy=FULL) for slug in ("sums", "support")]


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue().strip()


def test_a_header_is_printed_that_the_gateway_reads(use_cases: list[UseCase]) -> None:
    last = use_cases[0].checkpoint
    arms = [VariantSpec("full", FULL, last, 0.5, is_control=True), VariantSpec("other", FULL, last, 0.5)]
    experiment = start("ada", create_experiment("ada", use_cases[0], "x", arms))
    name, _, value = run("force_variant", str(experiment.pk), "other", "--seconds", "60").partition(": ")
    assert name == "x-curtail-force-variant"
    assert read_header(value, time.time()) == ForcedVariant(experiment.pk, "other")
    with pytest.raises(CommandError, match="variant must be one of full, other, got 'none'"):
        run("force_variant", str(experiment.pk), "none")


def test_an_unknown_experiment_is_named(db: None) -> None:
    with pytest.raises(CommandError, match="experiment must be the id of an experiment, got 999"):
        run("force_variant", "999", "short")


def test_a_key_for_two_use_cases_is_issued(use_cases: list[UseCase]) -> None:
    token = run("issue_key", "ci", "sums", "--also", "support", "--scope", "serve").rpartition(" ")[2]
    grant = load_routing(1).keys[api_key_digest(token)]
    assert (grant.use_case, grant.scopes, grant.further) == ("sums", {"serve"}, {"support"})


def test_a_key_for_an_unknown_use_case_is_not_issued(use_cases: list[UseCase]) -> None:
    with pytest.raises(CommandError, match="use_case must be one of sums, support, got 'none'"):
        run("issue_key", "ci", "sums", "--also", "none")
