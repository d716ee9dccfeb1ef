"""The models that are measured: the embedded one, and a random one of a known shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

# Qwen/Qwen3-0.6B, from its published configuration.
QWEN3_06B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, slots=True)
class Model:
    """Where a model lies, and how many tokens it knows."""

    folder: Path
    vocab_size: int


def make(name: str, folder: Path) -> Model:
    """Finds or makes the model called `name`; what it makes goes into `folder`."""
    if name == "nano":
        import learnback_nano

        path = learnback_nano.path()
        return Model(path, AutoConfig.from_pretrained(path).vocab_size)
    if name == "qwen3-0.6b":
        return _random_qwen3(folder / name)
    raise ValueError(f"no model is called {name!r}; there are nano and qwen3-0.6b")


def _random_qwen3(folder: Path) -> Model:
    torch.manual_seed(0)
    config = Qwen3Config(**QWEN3_06B)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    alphabet = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return Model(folder, config.vocab_size)
