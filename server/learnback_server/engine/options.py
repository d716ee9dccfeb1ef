"""What can be set about the engine, and what is known of the model it runs. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The bounds of the step loop. The defaults suit a small model on a few CPU cores."""

    max_running: int = 64
    """Sequences decoded together; also rows of one step."""
    max_waiting: int = 1024
    """Generations that may wait; one more is refused with QueueFullError."""
    step_tokens: int = 1024
    """Most tokens of one forward pass: one for each decoding sequence, the rest prefill."""
    page_tokens: int = 0
    """Tokens in one page of the key-value cache. 0: what suits the model (16; on a GPU in 16 bits
    256, the least that FlashAttention takes: over smaller ones the slower SDPA computes)."""
    cache_tokens: int = 65536
    """Tokens that the whole key-value cache holds."""
    prefix_cache: bool = True
    """Whether full pages of finished prompts are kept for prompts that begin alike."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the edge needs to know of the model in order to check a request."""

    name: str
    """As configured: a hub id, a folder, or "nano"."""
    checkpoint: str
    """Name of the checkpoint that these weights are ("base" for the model itself)."""
    digest: str
    """"sha256:" and 64 hexadecimal digits over the weights."""
    vocab_size: int
    """Ids run from 0 to this, exclusive."""
    context_tokens: int
    """Prompt and answer together."""
    has_chat_template: bool
    eos_ids: tuple[int, ...] = ()
    temperature: float = 1.0
    """This and the rest: sampling defaults of the model's generation configuration."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
