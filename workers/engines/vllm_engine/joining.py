"""A request with a plan joins the batch of vLLM."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from workers.engines.vllm_engine.in_place import CONTROLS, Control
from workers.engines.vllm_engine.plan import Plan
from workers.engines.vllm_engine.vocabularies import Vocabularies

logger = logging.getLogger(__name__)


def join(arguments: Mapping[str, Any] | None, vocabularies: Vocabularies, decoded: int) -> Control | None:
    """The control of a request; None where it has no plan, or one that this model cannot follow.

    Args:
        arguments: the request's extra arguments.
        vocabularies: of the model.
        decoded: own tokens that it brings along (after a preemption).
    """
    try:
        plan = Plan.from_arguments(arguments)
        return None if plan is None else CONTROLS.control(plan, vocabularies.get(plan), decoded)
    except Exception:
        # It was looked at when the request came in, but without the tokenizer: a tag may have no token. What is raised
        # here would end vLLM's engine with all of its requests.
        logger.exception("a request is served without its plan")
        return None
