"""The model: a Qwen3 of 0.86 million parameters, small enough to train on two CPU cores in minutes."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from demo.tiny_reasoner.tokenizer import (
    MAX_CONTEXT_TOKENS,
    PAD,
    TOKEN_IDS,
    TURN_END,
    VOCABULARY,
    build_tokenizer,
    save_tokenizer,
)


def build_config(hidden_size: int = 128, layers: int = 4, heads: int = 2, mlp_size: int = 384) -> Qwen3Config:
    """The architecture; the defaults are what ships, smaller ones serve tests."""
    return Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=hidden_size,
        intermediate_size=mlp_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
        max_position_embeddings=MAX_CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=TOKEN_IDS[TURN_END],
        pad_token_id=TOKEN_IDS[PAD],
        dtype=torch.float32,
    )


def build_model(config: Qwen3Config, seed: int) -> Qwen3ForCausalLM:
    """A freshly initialised model in float32; the same seed gives the same weights."""
    torch.manual_seed(seed)
    config._attn_implementation = "sdpa"
    return _untrained(config)


def _untrained(config: Qwen3Config) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(config)  # type: ignore[no-untyped-call]


def save_checkpoint(model: Qwen3ForCausalLM, directory: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write everything that transformers and vLLM need: config, generation config, weights, tokenizer.

    Args:
        model: the model; it is left as it is.
        directory: created if missing.
        dtype: the number format of the stored weights.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stored = _untrained(copy.deepcopy(model.config))
    stored.load_state_dict(model.state_dict())
    torch.nn.Module.to(stored, dtype)
    stored.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=TOKEN_IDS[TURN_END], pad_token_id=TOKEN_IDS[PAD]
    )
    stored.save_pretrained(str(directory))
    # safetensors writes for the owner only; a server may run as somebody else.
    (directory / "model.safetensors").chmod(0o644)
    save_tokenizer(build_tokenizer(), directory)


def load_checkpoint(directory: Path) -> Qwen3ForCausalLM:
    """The model of a checkpoint for inference, computed in float32 whatever its weights are stored in."""
    model: Qwen3ForCausalLM = Qwen3ForCausalLM.from_pretrained(
        str(directory), dtype=torch.float32, local_files_only=True
    )
    return model
