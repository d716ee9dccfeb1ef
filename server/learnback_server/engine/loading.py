"""Loads any transformers causal language model, or says why it can't be served.

A model is served only after it has proven itself: what it answers through the paged cache must be
what it answers without one. So an architecture that the engine does not understand is refused at
the start, with the reason, and never answers wrongly.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from learnback_server.engine import attention
from learnback_server.engine.options import ModelFacts
from learnback_server.engine.probe import probe
from learnback_server.engine.reproducible import make_reproducible
from learnback_server.engine.text import Vocabulary
from learnback_server.engine.varlen import FLASH_PAGE_TOKENS, suits_flash

logger = logging.getLogger(__name__)

BASE_CHECKPOINT = "base"
"""Name of the checkpoint that is the model itself, before any feedback."""

GATHERED_PAGE_TOKENS = 16
"""Small pages waste little and share short prefixes; gathering them costs the same."""

WIDE = 512
"""Hidden size from which a model gains on the CPU by bfloat16, where the CPU has it, and by several
threads. One product of a single row, bfloat16 against float32: 9x slower at width 128, 1.5x faster
at 1,024, 4x with 16 rows. A narrow model's products are too short to be shared out."""

MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")
"""What is fetched of a hub repository: safetensors weights only, which run no code."""


class ModelError(Exception):
    """The model can't be loaded or served; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to be served."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    facts: ModelFacts

    @property
    def page_tokens(self) -> int:
        """The size of page that suits the way the model is computed."""
        return _page_tokens(self.network)


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
    context_limit: int | None = None,
) -> LoadedModel:
    """Loads a model by its hub id or folder, and proves that the engine can serve it.

    Args:
        name: A hub id or a folder with a causal language model and its tokenizer.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        dtype: "float32", "bfloat16", "float16", or "auto": the checkpoint's own on CUDA; on the CPU
            bfloat16 if the model is wide and the CPU multiplies it natively, else float32.
        threads: CPU threads that torch computes with; 0 for one if the model is narrow, else one
            for each core.
        context_limit: Longest prompt with answer, in tokens, if the model itself allows more.

    Raises:
        ModelError: There is no such model, or it can't be served.
    """
    make_reproducible()
    attention.register()
    target = _device(device)
    folder = _folder(name)
    config = _config(name, folder)
    if threads or not _is_wide(config):
        torch.set_num_threads(threads or 1)
    tokenizer = _tokenizer(name, folder)
    vocabulary = Vocabulary(_fast(name, tokenizer))
    network = _network(name, folder, config, target, _dtype(dtype, target, config))
    _prove(name, network, vocabulary)
    _check_length(name, config.get_text_config(), context_limit)
    facts = _facts(name, folder, network, tokenizer, context_limit)
    return LoadedModel(network, tokenizer, vocabulary, facts)


def _page_tokens(network: PreTrainedModel) -> int:
    return FLASH_PAGE_TOKENS if suits_flash(network) else GATHERED_PAGE_TOKENS


def _prove(name: str, network: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Refuses a model whose paged answer is not its plain one."""
    fault = probe(network, vocabulary, _page_tokens(network))
    if fault:
        raise ModelError(
            f"{name}: {type(network).__name__} can't be served: {fault}. The engine serves decoder-"
            "only transformers with causal dot-product attention (grouped queries and sliding "
            "windows included)."
        )


def _check_length(name: str, config: PreTrainedConfig, context_limit: int | None) -> None:
    """Refuses a model that computes otherwise beyond a length that its context goes beyond.

    The proof is too short to see that, and one long sequence would change its neighbours too.
    """
    for limit, what in _turning_points(config):
        if _context_tokens(config, context_limit) > limit:
            raise ModelError(
                f"{name}: beyond {limit} tokens it needs {what}, which can't be served; limit the "
                "context (cache_tokens) to that"
            )


def _turning_points(config: PreTrainedConfig) -> Iterator[tuple[int, str]]:
    """Lengths beyond which a model computes otherwise, and how."""
    if getattr(config, "attention_chunk_size", None):
        yield config.attention_chunk_size, "attention in chunks"
    rotary = getattr(config, "rope_parameters", None) or {}
    for own in (rotary, *rotary.values()):  # one for all layers, or one for each kind of layer
        if isinstance(own, dict) and own.get("rope_type") == "longrope":
            yield own["original_max_position_embeddings"], "other rotary positions (longrope)"


def _context_tokens(config: PreTrainedConfig, limit: int | None) -> int:
    """Longest prompt with answer, in tokens."""
    own = int(config.max_position_embeddings)
    return min(own, limit or own)


def _device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen, seen = torch.device(device), torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= seen:
        raise ModelError(f"device is {device}, but torch sees {seen} CUDA devices; use cpu or auto")
    return chosen


def _dtype(dtype: str, device: torch.device, config: PreTrainedConfig) -> torch.dtype | str:
    if dtype != "auto":
        named: torch.dtype = getattr(torch, dtype)
        return named
    if device.type != "cpu":
        return "auto"
    able = torch.cpu.get_capabilities()
    native = able.get("avx512_bf16") or able.get("amx_bf16")
    return torch.bfloat16 if native and _is_wide(config) else torch.float32


def _is_wide(config: PreTrainedConfig) -> bool:
    return bool(config.get_text_config().hidden_size >= WIDE)


def _folder(name: str) -> Path:
    """The folder that a name stands for, fetched from the hub if it is not a folder itself."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(MODEL_FILES)))
    except (HFValidationError, RepositoryNotFoundError, OSError) as error:
        raise ModelError(
            f"{name}: neither a folder here nor a model that can be fetched from the hub: {error}"
        ) from error


def _config(name: str, folder: Path) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: no model can be read there: {error}") from error
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name}: an encoder-decoder model can't be served; use a decoder-only one"
        )
    return config  # type: ignore[no-any-return]


def _tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: its tokenizer can't be read: {error}") from error


def _fast(name: str, tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizers-library object behind a tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(f"{name}: it has no fast tokenizer (tokenizer.json), which is needed")
    return backend


def _network(
    name: str,
    folder: Path,
    config: PreTrainedConfig,
    device: torch.device,
    dtype: torch.dtype | str,
) -> PreTrainedModel:
    load: Any = AutoModelForCausalLM.from_pretrained  # whose result depends on its arguments
    try:
        network, loaded = load(folder, config=config, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{name}: its weights can't be loaded: {error}") from error
    if loaded["missing_keys"]:  # transformers would answer by random ones
        missing = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise ModelError(f"{name}: its weights lack {len(loaded['missing_keys'])}: {missing}")
    if not network._supports_attention_backend:
        raise ModelError(
            f"{name}: {type(network).__name__} does not take an attention function of our own"
        )
    placed: PreTrainedModel = network.to(device).eval()
    return placed


def _facts(
    name: str,
    folder: Path,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    context_limit: int | None,
) -> ModelFacts:
    text_config = network.config.get_text_config()
    defaults = network.generation_config
    return ModelFacts(
        name=name,
        checkpoint=BASE_CHECKPOINT,
        digest=weights_digest(folder),
        vocab_size=int(text_config.vocab_size),
        context_tokens=_context_tokens(text_config, context_limit),
        has_chat_template=bool(tokenizer.chat_template),
        eos_ids=_eos_ids(network, tokenizer),
        temperature=_default(defaults.temperature, 1.0),
        top_p=_default(defaults.top_p, 1.0),
        top_k=int(_default(defaults.top_k, 0)),
        min_p=_default(defaults.min_p, 0.0),
        repetition_penalty=_default(defaults.repetition_penalty, 1.0),
    )


def _default(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _eos_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that end an answer: the generation config's, else the tokenizer's."""
    configured: Any = network.generation_config.eos_token_id
    if configured is None:
        configured = tokenizer.eos_token_id
    if configured is None:
        return ()
    return tuple(configured) if isinstance(configured, list) else (int(configured),)


def weights_digest(folder: Path) -> str:
    """SHA-256 over what computes a model's answers, as "sha256:" and hexadecimal digits.

    Over the name and digest of its configuration and of each file of weights, in order of names.
    """
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {own}\n".encode())
    return f"sha256:{digest.hexdigest()}"
