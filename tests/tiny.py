"""Tiny causal language models with random weights, for tests that need a model but no sense.

Each is a real checkpoint folder, written by `save_pretrained`, so that tests load it by the same
path as any other model. The weights are random but peaked (a large initialiser), so that greedy
decoding does not hang on ties between near-equal logits.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

SPECIAL_TOKENS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

CONTEXT_TOKENS = 512
SLIDING_WINDOW = 24

_SHAPE = {
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


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the 256 bytes, so that any character spans several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _config(architecture: str, vocab_size: int) -> PreTrainedConfig:
    if architecture == "llama":
        return LlamaConfig(vocab_size=vocab_size, **_SHAPE)
    if architecture == "qwen3":
        return Qwen3Config(vocab_size=vocab_size, **_SHAPE)
    if architecture == "mistral":
        return MistralConfig(vocab_size=vocab_size, sliding_window=SLIDING_WINDOW, **_SHAPE)
    raise ValueError(f"no tiny model of architecture {architecture!r}")


def write_tiny_model(folder: Path, architecture: str = "llama", seed: int = 0) -> Path:
    """Writes a tiny model with its tokenizer into `folder` and returns it."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(architecture, len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
