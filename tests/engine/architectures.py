"""Configurations of tiny models beyond those of `tests.tiny`: to serve, and to refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    Llama4TextConfig,
    MambaConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    T5Config,
)

from tests.tiny import CONTEXT_TOKENS, SLIDING_WINDOW, byte_tokenizer

_DECODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 256,
}


def gpt2(**changes: Any) -> GPT2Config:
    """Learned positions, no grouped queries."""
    own: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT_TOKENS}
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 256, "initializer_range": 0.3}
    return GPT2Config(vocab_size=len(byte_tokenizer()), **own, **ends, **changes)


def gemma3(**changes: Any) -> Gemma3TextConfig:
    """Layers of two kinds: a sliding window in some, everything in others."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    own: dict[str, Any] = {
        "num_hidden_layers": len(kinds),
        "layer_types": kinds,
        "query_pre_attn_scalar": 16,
    }
    return Gemma3TextConfig(
        vocab_size=len(byte_tokenizer()),
        sliding_window=SLIDING_WINDOW,
        **_DECODER | own | changes,
    )


def mixtral() -> MixtralConfig:
    """Experts, of which each token takes its own."""
    experts: dict[str, Any] = {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": None,
    }
    return MixtralConfig(vocab_size=len(byte_tokenizer()), **_DECODER | experts)


def llama4(chunk: int) -> Llama4TextConfig:
    """Attention in chunks of the text, beyond the first chunk."""
    experts: dict[str, Any] = {"num_local_experts": 2, "intermediate_size_mlp": 96}
    return Llama4TextConfig(
        vocab_size=len(byte_tokenizer()), attention_chunk_size=chunk, **_DECODER | experts
    )


def longrope(original: int) -> Phi3Config:
    """Other rotary positions as soon as a text is longer than `original`."""
    factors: dict[str, Any] = {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8}
    rotary: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 1e4} | factors
    return Phi3Config(
        vocab_size=len(byte_tokenizer()),
        original_max_position_embeddings=original,
        rope_parameters=rotary | {"original_max_position_embeddings": original},
        **_DECODER,
    )


def gemma2() -> Gemma2Config:
    """A soft cap on attention scores."""
    return Gemma2Config(vocab_size=len(byte_tokenizer()), query_pre_attn_scalar=16, **_DECODER)


def gpt_oss() -> GptOssConfig:
    """Learned sinks in attention."""
    experts: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 1}
    return GptOssConfig(vocab_size=len(byte_tokenizer()), **experts, **_DECODER)


def mamba() -> MambaConfig:
    """No attention at all."""
    own: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    return MambaConfig(vocab_size=len(byte_tokenizer()), **own)


def t5() -> T5Config:
    """An encoder and a decoder."""
    own: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5Config(vocab_size=len(byte_tokenizer()), decoder_start_token_id=0, **own)


def write_model(folder: Path, config: PreTrainedConfig, seed: int = 0) -> Path:
    """Writes a model with random weights and the tokenizer of bytes into `folder`."""
    torch.manual_seed(seed)
    family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    family.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
