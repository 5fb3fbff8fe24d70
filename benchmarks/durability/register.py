"""Registers the scripted model with an experiment of two arms, and prints the API key.

`python -m benchmarks.durability.register FOLDER SECONDS`; CURTAIL_HOME names the running installation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import django

MODEL = "scripted"
THOUGHTS = 16
BUDGET = 6
ANSWER = "forty two"


def write_script(folder: Path) -> None:
    """A checkpoint of the scripted engine that thinks and answers the same for every prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    thinking = " ".join(f"thought{n}" for n in range(THOUGHTS))
    script = {"*": {"thinking": thinking, "answers": [{"since": 0, "text": ANSWER}]}}
    (folder / "script.json").write_text(json.dumps(script))


def register(folder: Path, deadline_seconds: float) -> str:
    """Register model, use case and experiment; the API key."""
    from experiments.models import ApiKey
    from experiments.services import registry
    from experiments.services.experiments import VariantSpec, create_experiment, start

    write_script(folder)
    model = registry.register_model(
        "load",
        name=MODEL,
        engine="scripted",
        think_open="<think>",
        think_close="</think>",
        template_opens_thinking=True,
        step_boundary="\n\n",
        trial_suffix="",
        max_trial_tokens=8,
        answer_pattern="",
        max_context_tokens=100_000,
    )
    checkpoint = registry.register_checkpoint("load", model, "release", str(folder))
    use_case = registry.register_use_case(
        "load",
        "load",
        name="Load",
        policy={"name": "full"},
        checkpoint=checkpoint,
        margin=0.02,
        min_saving=0.05,
        deadline_seconds=deadline_seconds,
    )
    budget = {"name": "token_budget", "parameters": {"max_thinking_tokens": BUDGET}}
    arms = [
        VariantSpec("full", {"name": "full"}, checkpoint, 0.5, is_control=True),
        VariantSpec("short", budget, checkpoint, 0.5),
    ]
    start("load", create_experiment("load", use_case, "Two arms", arms))
    return registry.issue_api_key("load", "load", use_case, ApiKey.Scope.values).token


if __name__ == "__main__":
    django.setup()
    print(register(Path(sys.argv[1]), float(sys.argv[2])))
