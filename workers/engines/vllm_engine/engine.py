"""The vLLM engine: one ``AsyncLLM`` shared by all requests of the worker, on CPU and GPU.

Written against vLLM 0.32. ``import vllm`` takes seconds: it happens in :meth:`VLLMEngine.start`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from experiments.policies import Exit, ExitReason, Signal
from workers.engines.base import EngineError, GenerationRequest, ThinkingProfile
from workers.engines.driven import DrivenEngine, Emit, MakeDriver
from workers.engines.driver import Ask, Driver, Notes, Piece
from workers.engines.vllm_engine import lifeline
from workers.engines.vllm_engine.plan import ARGUMENT
from workers.engines.vocabulary import HuggingFaceVocabulary, encode_chat, read_end_ids

_PACKAGE = "workers.engines.vllm_engine"
# Branches run beside their requests: as many again may be in the batch.
_ROWS_PER_REQUEST = 2

# What vLLM's CPU build needs to be fast (each can be overridden from outside).
_CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Or the worker becomes a process of its own, for whose answers EngineCore waits by spinning on a core.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The first request with log-probabilities stalls for half a minute otherwise.
    "TORCHDYNAMO_DISABLE": "1",
}


@dataclass(frozen=True, slots=True)
class VLLMOptions:
    """How vLLM serves.

    Attributes:
        max_concurrency: requests decoded at once (branches come on top).
        dtype: of weights and cache, by name; "auto" takes the checkpoint's.
        tensor_parallel: GPUs that share the model.
        block_size: tokens in one block of the prefix cache; a branch computes what does not fill a block anew. None: as
            vLLM chooses (on a CPU 32, the least it can, where vLLM would take 128).
        memory_share: share of a GPU's memory that vLLM may take, in (0, 1].
        in_place: whether exits are applied inside the sampler; otherwise requests are aborted and continued.
        enforce_eager: whether to do without compiled graphs; always on CPUs.
        threads: CPU threads of an operation; None: as torch chooses.
        log_stats: whether vLLM keeps its own counts (Prometheus).
        prefix_caching: whether branches and continuations reuse what has been computed; without it they are slow.
        extra_logits_processors: further ones for vLLM, as "module:class", before ours.
    """

    max_concurrency: int = 64
    dtype: str = "auto"
    tensor_parallel: int = 1
    block_size: int | None = None
    memory_share: float = 0.9
    in_place: bool = True
    enforce_eager: bool = False
    threads: int | None = None
    log_stats: bool = False
    prefix_caching: bool = True
    extra_logits_processors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_concurrency", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.memory_share <= 1:
            raise ValueError(f"memory_share must be in (0, 1], got {self.memory_share}")


class VLLMEngine(DrivenEngine):
    """Serves one checkpoint with vLLM.

    Args:
        path: folder (or name) of the checkpoint.
        profile: how the model thinks.
        options: how vLLM serves.
    """

    def __init__(self, path: str, profile: ThinkingProfile, options: VLLMOptions | None = None) -> None:
        self._options = options or VLLMOptions()
        super().__init__(self._options.max_concurrency)
        self._path = path
        self._profile = profile
        self._llm: Any = None
        self._decoder: _AsyncLLMDecoder | None = None
        self._tokenizer: Any = None
        self._vocabulary: HuggingFaceVocabulary | None = None

    @property
    def alive(self) -> bool:
        return self._llm is not None and not self._llm.errored

    @property
    def unfinished(self) -> int:
        """Requests and branches that vLLM has in flight."""
        return int(self._llm.output_processor.get_num_unfinished_requests()) if self._llm is not None else 0

    async def start(self) -> None:
        """Start vLLM's processes and load the weights. Raises EngineError when they cannot be served."""
        await asyncio.to_thread(lifeline.reap_orphans)
        try:
            self._llm = await asyncio.to_thread(self._load)
        except EngineError:
            raise
        except Exception as error:  # vLLM raises what it likes
            raise EngineError(f"vLLM cannot serve {self._path!r}: {error}", code="bad_model") from error
        self._decoder = _AsyncLLMDecoder(self._llm)

    async def close(self) -> None:
        llm, self._llm, self._decoder = self._llm, None, None
        self._fail_all()
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)

    # -- loading ---------------------------------------------------------------------------------------------

    def _load(self) -> Any:
        options = self._options
        if not _has_gpu():
            for name, value in _CPU_ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            if options.threads is not None:
                os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
        from transformers import AutoTokenizer
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._path)
            ends = read_end_ids(self._path)
        except (OSError, ValueError) as error:
            raise EngineError(f"cannot load checkpoint {self._path!r}: {error}", code="bad_model") from error
        self._vocabulary = HuggingFaceVocabulary(self._tokenizer, self._profile, ends)
        arguments: dict[str, Any] = {
            "model": self._path,
            "dtype": options.dtype,
            "tensor_parallel_size": options.tensor_parallel,
            "max_model_len": self._profile.max_context_tokens,
            "max_num_seqs": options.max_concurrency * _ROWS_PER_REQUEST,
            "enable_prefix_caching": options.prefix_caching,
            "logits_processors": [*options.extra_logits_processors],
            "enforce_eager": options.enforce_eager or not _has_gpu(),
            "disable_log_stats": not options.log_stats,
            "gpu_memory_utilization": options.memory_share,
        }
        block_size = options.block_size or (None if _has_gpu() else 32)
        if block_size is not None:
            arguments["block_size"] = block_size
        if options.tensor_parallel == 1:
            # The worker inside EngineCore: one process less, and a step without a hop.
            arguments["distributed_executor_backend"] = "uni"
        if options.in_place:
            arguments["worker_extension_cls"] = f"{_PACKAGE}.rpc.InPlaceRpc"
            runner = AsyncEngineArgs(**arguments).create_engine_config().use_v2_model_runner
            shell = "sampler_v2" if runner else "sampler_v1"
            arguments["logits_processors"].append(f"{_PACKAGE}.{shell}:InPlaceExits")
        with lifeline.owning():
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    # -- requests --------------------------------------------------------------------------------------------

    def _refusal(self, request: GenerationRequest) -> str | None:
        """Why this engine cannot apply a request's policy; None: it can."""
        policy = request.policy
        if Signal.END_MARGIN not in policy.signals:
            return None
        if policy.needs_branch:
            return f"policy {policy.name} reads the running request and branches of it; vLLM gives one or the other"
        if not self._options.in_place:
            return f"policy {policy.name} reads the running request, which needs exits in place"
        if request.has_record:
            return f"policy {policy.name} reads the running request; a recorded thought is fed, and shows it nothing"
        return None

    def _prepare(self, request: GenerationRequest) -> MakeDriver:
        if self._decoder is None or self._vocabulary is None:
            raise EngineError("the engine is not running", code="unavailable")
        if (reason := self._refusal(request)) is not None:
            raise EngineError(reason, code="unsupported", invalid_request=True)
        prompt = encode_chat(self._tokenizer, request.messages, self._profile)
        return partial(self._make_driver, request, prompt)

    def _make_driver(self, request: GenerationRequest, prompt: list[int], emit: Emit) -> Driver:
        decoder, vocabulary = self._decoder, self._vocabulary
        if decoder is None or vocabulary is None:
            raise EngineError("the engine was shut down", code="unavailable")
        # The sampler counts from a request's own first token: behind a record it would count wrong.
        in_place = self._options.in_place and not request.has_record
        return Driver(request, prompt, vocabulary, self._profile, decoder, emit, in_place=in_place)


class _AsyncLLMDecoder:
    """`AsyncLLM` as a driver sees it."""

    def __init__(self, llm: Any) -> None:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        self._llm = llm
        self._params = SamplingParams
        self._prompt = TokensPrompt
        self._delta = RequestOutputKind.DELTA

    async def decode(self, ask: Ask) -> AsyncIterator[Piece]:
        params = self._params(
            temperature=ask.temperature,
            top_p=ask.top_p,
            seed=ask.seed,
            max_tokens=ask.max_tokens,
            logprobs=0 if ask.logprobs else None,
            detokenize=False,
            output_kind=self._delta,
            extra_args={ARGUMENT: ask.plan.to_json()} if ask.plan is not None else None,
        )
        cached = 0
        stream = self._llm.generate(self._prompt(prompt_token_ids=ask.prompt), params, ask.id)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                cached = max(cached, output.num_cached_tokens or 0)
                decoded = output.outputs[0]
                tokens = tuple(decoded.token_ids)
                logprobs: tuple[float, ...] = ()
                if ask.logprobs:
                    # With 0 alternatives each place holds the sampled token alone.
                    logprobs = tuple(
                        place[token].logprob for place, token in zip(decoded.logprobs or (), tokens, strict=True)
                    )
                yield Piece(tokens, logprobs, cached)

    async def end_thinking(self, key: str) -> None:
        await self._llm.collective_rpc("curtail_end_thinking", args=(key,))

    async def notes(self, key: str) -> Notes:
        said = (await self._llm.collective_rpc("curtail_take_notes", args=(key,)))[0]
        decision = None
        if said["decision"] is not None:
            reason, step, detail = said["decision"]
            decision = Exit(ExitReason(reason), step, detail)
        return Notes(tuple((step, value) for step, value in said["readings"]), decision)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
