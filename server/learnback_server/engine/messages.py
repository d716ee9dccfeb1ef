"""What the edge and the engine say to each other.

The edge sends `GenerationRequest` and cancellations; the engine answers with the events below, in
order, for each generation: `Started` once, `Delta` any number of times, `Finished` exactly once,
whatever happens. A generation that never started (its queue time-out passed, it was cancelled while
waiting) gets `Finished` alone. No torch here: plain values only, which are never changed after they
are sent, so they may cross threads freely.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FinishReason(enum.Enum):
    """Why a candidate ended. Values equal those of `learnback.v1.FinishReason`."""

    STOP = 1
    LENGTH = 2
    CANCELLED = 3
    DEADLINE = 4
    ABORTED = 5
    ERROR = 6
    # Below: not on the wire. The generation never left the queue.
    QUEUE_TIMEOUT = 100


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen, with every default resolved and every range checked by the edge."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    """Candidate i samples with a generator of its own, seeded by this and i."""
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """Number of likeliest tokens to report beside the chosen one; None reports nothing."""
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to answer `n` times. Times are seconds of `time.monotonic()`."""

    generation_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    checkpoint: str
    """Name of the checkpoint (never an alias) that the whole generation is pinned to."""
    n: int = 1
    scored: bool = False
    """Whether each answer that comes to its end is told how likely a user is to accept it, if the
    checkpoint has a head for that."""
    priority: int = 0
    """Higher goes first."""
    arrived: float = 0.0
    queue_deadline: float | None = None
    """When to give up waiting: ends as QUEUE_TIMEOUT."""
    deadline: float | None = None
    """When to end with what there is: ends as DEADLINE, in the queue or while decoding."""
    trace_id: str = ""
    """The trace that it belongs to, for those who count; empty if there is none."""


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the likeliest tokens of a position."""

    token_id: int
    token: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """What the model thought of one position (nats, temperature 1, before any penalty)."""

    token_id: int
    token: bytes
    logprob: float
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The engine has taken the generation from the queue."""

    generation_id: str
    time: float


@dataclass(frozen=True, slots=True)
class Delta:
    """A candidate goes on. Text is whole characters; ids can run ahead of it."""

    generation_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CandidateEnd:
    """How one candidate ended."""

    index: int
    reason: FinishReason
    matched_stop: str = ""
    acceptance: float | None = None
    """How likely a user is to accept it, 0 to 1; None if that was not asked for or is not known."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The generation is over; its pages are free. No event follows."""

    generation_id: str
    candidates: tuple[CandidateEnd, ...]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    started: float | None
    """When the engine took it; None if it never did."""
    first_token: float | None
    finished: float
    error: str = ""
    """For the log, when a candidate ended as ERROR."""


Event = Started | Delta | Finished


@dataclass(frozen=True, slots=True)
class EngineStats:
    """How busy the engine is, as of its last step."""

    running: int
    waiting: int
    pages_used: int
    """Pages held by running requests; pages that only the prefix cache holds count as free."""
    pages_total: int
    prefix_queries: int
    """Prompt tokens looked up in the prefix cache since the start."""
    prefix_hits: int
    """Prompt tokens found there."""
    steps: int


class QueueFullError(Exception):
    """The waiting queue is at its bound; nothing was queued."""


class CheckpointGoneError(Exception):
    """The engine does not hold this checkpoint, or no longer takes generations for it."""


class EngineStoppedError(Exception):
    """The engine takes no more requests: it drains, has stopped, or its thread died."""
