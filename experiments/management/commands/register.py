"""`manage.py register`: one model with its checkpoint, a use case that serves it, and an API key."""

from __future__ import annotations

import getpass
import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from experiments.capabilities import ENGINES
from experiments.grading import GRADERS
from experiments.models import ApiKey, UseCase
from experiments.services.errors import InvalidInput, ServiceError
from experiments.services.registry import (
    issue_api_key,
    register_checkpoint,
    register_model,
    register_use_case,
)


class Command(BaseCommand):
    """Registers what a first request needs; run it again to change it."""

    help = "Register a model, its checkpoint and a use case, and issue an API key (shown once)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", help="name of the model, as requests name it")
        parser.add_argument("path", help="folder of the weights, as transformers loads it")
        parser.add_argument("--engine", default="transformers", help=f"one of {', '.join(ENGINES)}")
        parser.add_argument("--checkpoint", default="release", help="name of these weights (default: release)")
        parser.add_argument("--use-case", default="default", help="name of the route (default: default)")
        parser.add_argument("--think-open", default="<think>")
        parser.add_argument("--think-close", default="</think>")
        parser.add_argument(
            "--model-opens-thinking", action="store_true", help="the model writes the opening tag, not the template"
        )
        parser.add_argument("--step-boundary", default="\\n\\n", help="text that ends a step (default: an empty line)")
        parser.add_argument("--trial-suffix", default="", help="text after the end tag that opens a trial answer")
        parser.add_argument("--max-trial-tokens", type=int, default=32)
        parser.add_argument(
            "--answer-pattern", default="", help="boxed:, final:, json:path.to.field or a regular expression"
        )
        parser.add_argument("--grader", default="exact_match", help=f"one of {', '.join(GRADERS)}")
        parser.add_argument("--grader-options", default="{}", help='JSON, as in {"ignore_case": true}')
        parser.add_argument("--context", type=int, required=True, help="tokens that the model's context holds")
        parser.add_argument("--temperature", type=float, default=0.6, help="used when a request names none")
        parser.add_argument("--margin", type=float, default=0.02, help="EM that may be lost, a fraction")
        parser.add_argument("--min-saving", type=float, default=0.05, help="tokens that must be saved, a fraction")
        parser.add_argument("--deadline", type=float, default=300.0, help="seconds until a request times out")

        parser.add_argument(
            "--retention",
            choices=UseCase.Retention.values,
            help="what becomes of prompts, thinking and answers (default: as it was; keep for a new use case)",
        )

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        actor = getpass.getuser()
        try:
            model = register_model(
                actor,
                name=options["model"],
                engine=options["engine"],
                think_open=options["think_open"],
                think_close=options["think_close"],
                template_opens_thinking=not options["model_opens_thinking"],
                step_boundary=options["step_boundary"].replace("\\n", "\n"),
                trial_suffix=options["trial_suffix"].replace("\\n", "\n"),
                max_trial_tokens=options["max_trial_tokens"],
                answer_pattern=options["answer_pattern"],
                grader=options["grader"],
                grader_options=_json(options["grader_options"]),
                max_context_tokens=options["context"],
                temperature=options["temperature"],
            )
            checkpoint = register_checkpoint(actor, model, options["checkpoint"], options["path"])
            use_case = register_use_case(
                actor,
                options["use_case"],
                name=options["use_case"],
                policy={"name": "full"},
                checkpoint=checkpoint,
                margin=options["margin"],
                min_saving=options["min_saving"],
                deadline_seconds=options["deadline"],
                **({"retention": options["retention"]} if options["retention"] else {}),
            )
            issued = issue_api_key(actor, f"{options['use_case']} key", use_case, ApiKey.Scope.values)
        except ServiceError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{checkpoint} serves use case {use_case.slug}; API key (shown once): {issued.token}")


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"grader_options must be JSON, got {text!r}: {error}", "grader_options") from error
