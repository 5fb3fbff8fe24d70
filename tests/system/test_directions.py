"""Use case, context and forced variant, from the official client to the stored admission."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from demo.scenario import FULL, MODEL
from experiments.models import Admission, Exposure
from experiments.services.forcing import issue_header
from experiments.services.registry import issue_api_key, register_use_case
from experiments.services.use_cases import change_use_case
from tests.system.conftest import Installation, wait_for

BUDGET = {"name": "token_budget", "parameters": {"max_thinking_tokens": 8}}


def ask(installation: Installation, token: str = "", headers: dict[str, str] | None = None, **metadata: str) -> Any:
    """The raw response to one question."""
    with openai.OpenAI(api_key=token or installation.token, base_url=f"{installation.url}/v1", max_retries=0) as client:
        return client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": "1 + 2"}],
            metadata=metadata,
            extra_headers=headers or {},
        )


def stored(raw: Any) -> Admission:
    pk = raw.parse().id
    wait_for(lambda: Admission.objects.filter(pk=pk).exists())
    return Admission.objects.get(pk=pk)


def refreshed(installation: Installation) -> None:
    version = int(installation.redis.get("curtail:config:version") or 0)
    wait_for(lambda: installation.gateway._routing.current.version >= version)


def test_a_forced_request_is_served_by_its_arm_and_exposes_nobody(installation: Installation) -> None:
    experiment = installation.start_experiment(BUDGET)
    issued = issue_header("test", experiment, "treatment", 60)
    raw = ask(installation, headers={"x-curtail-force-variant": issued.value}, conversation_id="c")
    assert raw.headers["x-curtail-variant"] == "treatment"
    assert raw.headers["x-curtail-forced"] == "true"
    assert raw.parse().usage.completion_tokens_details.reasoning_tokens <= 16
    assert stored(raw).phase is None
    assert not Exposure.objects.exists()


def test_a_request_reaches_the_use_case_that_it_names(installation: Installation) -> None:
    other = register_use_case(
        "test", "support", name="Support", policy=FULL, checkpoint=installation.checkpoint, deadline_seconds=60.0
    )
    token = issue_api_key("test", "both", installation.use_case, ["serve"], further=[other]).token
    refreshed(installation)
    raw = ask(installation, token, {"x-curtail-use-case": "support"})
    assert raw.headers["x-curtail-use-case"] == "support"
    assert stored(raw).use_case == other
    with pytest.raises(openai.PermissionDeniedError, match="may not name the use case 'support'"):
        ask(installation, headers={"x-curtail-use-case": "support"})


def test_a_context_picks_the_policy_in_force_and_is_the_segment(installation: Installation) -> None:
    change_use_case("test", installation.use_case, {"policies_by_context": {"batch": BUDGET}})
    refreshed(installation)
    admission = stored(ask(installation, context="batch"))
    assert (admission.segment, admission.policy["name"]) == ("batch", "token_budget")
    admission = stored(ask(installation, context="realtime"))
    assert (admission.segment, admission.policy["name"]) == ("realtime", "full")
