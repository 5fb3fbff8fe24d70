"""`manage.py register`."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

from experiments.models import ApiKey, Checkpoint, ModelProfile, UseCase
from experiments.services.secrets import api_key_digest

pytestmark = pytest.mark.django_db


def register(**options: Any) -> str:
    output = StringIO()
    call_command("register", "qwen", "/models/qwen", context=32768, stdout=output, **options)
    return output.getvalue()


def test_a_first_request_has_all_it_needs(redis_client: redis.Redis) -> None:
    said = register(use_case="support", step_boundary="\\n\\n", model_opens_thinking=True)
    profile = ModelProfile.objects.get(name="qwen")
    assert profile.step_boundary == "\n\n"
    assert not profile.template_opens_thinking
    use_case = UseCase.objects.get(slug="support")
    assert use_case.checkpoint == Checkpoint.objects.get(path="/models/qwen")
    assert use_case.policy["name"] == "full"
    found = re.search(r"ck_\S+", said)
    assert found is not None
    assert ApiKey.objects.get(digest=api_key_digest(found[0])).use_case == use_case


def test_registering_again_changes_instead_of_adding(redis_client: redis.Redis) -> None:
    register(margin=0.02)
    register(margin=0.05)
    assert UseCase.objects.get().margin == 0.05
    assert ModelProfile.objects.count() == Checkpoint.objects.count() == 1


def test_retention_is_registered_and_stays_when_it_is_not_named(redis_client: redis.Redis) -> None:
    register()
    assert UseCase.objects.get().retention == "keep"
    register(retention="drop")
    register(margin=0.05)
    assert UseCase.objects.get().retention == "drop"


def test_a_value_out_of_bounds_registers_nothing(redis_client: redis.Redis) -> None:
    with pytest.raises(CommandError, match=r"margin must be a fraction between 0 and 1, got 3"):
        register(margin=3.0)
    assert not ModelProfile.objects.exists()


def test_a_grader_and_its_options_are_registered(redis_client: redis.Redis) -> None:
    register(grader="plain", grader_options='{"ignore_case": true}', answer_pattern="boxed:")
    profile = ModelProfile.objects.get()
    assert (profile.grader, profile.grader_options["ignore_case"], profile.answer_pattern) == ("plain", True, "boxed:")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grader": "vibes"}, "grader must be one of exact_match, plain, numeric, multiple_choice, math_verify"),
        ({"grader_options": "{"}, "grader_options must be JSON, got '{'"),
        ({"grader_options": "[]"}, r"grader_options must be an object, got \[\]"),
        ({"grader_options": '{"x": 1}'}, "grader exact_match has no option x; it takes none"),
        ({"answer_pattern": "json:"}, "answer_pattern json: needs a path such as result.answer, got ''"),
    ],
)
def test_a_grader_that_cannot_be_used_registers_nothing(
    redis_client: redis.Redis, options: dict[str, str], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        register(**options)
    assert not ModelProfile.objects.exists()
