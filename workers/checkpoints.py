"""From the registry to engines: what is to be served, and by which engine."""

from __future__ import annotations

import os
from pathlib import Path

from django.conf import settings
from django.db.models import QuerySet

from experiments.models import Checkpoint, ModelProfile
from experiments.services.errors import InvalidInput
from experiments.services.registry import read_server
from workers.engines.base import Engine, EngineError, ThinkingProfile
from workers.served import ServedCheckpoint


def hosted_checkpoints() -> list[ServedCheckpoint]:
    """Every registered checkpoint that engine hosts serve."""
    return [_served(row) for row in _rows().exclude(model__engine=ModelProfile.Engine.OPENAI)]


def remote_checkpoints() -> list[ServedCheckpoint]:
    """Every registered checkpoint behind a remote server: gateways serve these themselves."""
    return [_served(row) for row in _rows().filter(model__engine=ModelProfile.Engine.OPENAI)]


def _rows() -> QuerySet[Checkpoint]:
    return Checkpoint.objects.select_related("model")


def _served(row: Checkpoint) -> ServedCheckpoint:
    model = row.model
    profile = ThinkingProfile(
        think_open=model.think_open,
        think_close=model.think_close,
        template_opens_thinking=model.template_opens_thinking,
        step_boundary=model.step_boundary,
        trial_suffix=model.trial_suffix,
        max_trial_tokens=model.max_trial_tokens,
        answer_pattern=model.answer_pattern,
        max_context_tokens=model.max_context_tokens,
    )
    # A relative path is one inside the installation, so that a checkout can be moved.
    path = str(Path(settings.BASE_DIR) / row.path)
    return ServedCheckpoint(row.pk, str(row), path, model.engine, profile)


def make_engine(checkpoint: ServedCheckpoint) -> Engine:
    """The engine that the checkpoint's model profile names (not started)."""
    if checkpoint.engine == ModelProfile.Engine.TRANSFORMERS:
        from workers.engines.transformers_engine import TransformersEngine

        return TransformersEngine(
            checkpoint.path,
            checkpoint.profile,
            max_concurrency=settings.ENGINE_MAX_CONCURRENCY,
            threads=settings.ENGINE_THREADS,
        )
    if checkpoint.engine == ModelProfile.Engine.VLLM:
        from workers.engines.vllm_engine.engine import VLLMEngine, VLLMOptions

        options = VLLMOptions(
            max_concurrency=settings.ENGINE_MAX_CONCURRENCY,
            threads=settings.ENGINE_THREADS,
            dtype=settings.VLLM_DTYPE,
            tensor_parallel=settings.VLLM_TENSOR_PARALLEL,
            block_size=settings.VLLM_BLOCK_SIZE,
            memory_share=settings.VLLM_MEMORY_SHARE,
            in_place=settings.VLLM_IN_PLACE,
            enforce_eager=settings.VLLM_ENFORCE_EAGER,
        )
        return VLLMEngine(checkpoint.path, checkpoint.profile, options)
    if checkpoint.engine == ModelProfile.Engine.SCRIPTED:
        from workers.engines.scripted_engine import ScriptedEngine, read_scripts

        return ScriptedEngine(
            read_scripts(checkpoint.path),
            checkpoint.profile,
            max_concurrency=settings.ENGINE_MAX_CONCURRENCY,
            seconds_per_step=settings.SCRIPTED_STEP_SECONDS,
        )
    if checkpoint.engine == ModelProfile.Engine.OPENAI:
        return _remote_engine(checkpoint)
    raise EngineError(f"no engine {checkpoint.engine!r}", code="bad_model")


def _remote_engine(checkpoint: ServedCheckpoint) -> Engine:
    """The engine of the server that ``server.json`` in the checkpoint's folder describes.

    The tokenizer's files, where the server needs them here, lie beside it.

    Raises:
        EngineError: the file is unusable, or the variable that it names for the API key is not set.
    """
    from workers.engines.openai_engine.engine import OpenAIEngine

    try:
        server = read_server(checkpoint.path)
    except InvalidInput as error:
        raise EngineError(str(error), code="bad_model") from error
    key = os.environ.get(server.api_key_variable) if server.api_key_variable else None
    if server.api_key_variable and not key:
        raise EngineError(f"{server.api_key_variable} must hold the API key of {checkpoint.name}", code="bad_model")
    return OpenAIEngine(
        server,
        checkpoint.profile,
        key=key,
        tokenizer_path=checkpoint.path,
        max_concurrency=settings.REMOTE_MAX_CONCURRENCY,
    )
