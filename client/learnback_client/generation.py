"""What a generation answers: the whole reply, the events of a stream, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from learnback.v1 import inference_pb2
from learnback_client.protos import read_enum, read_seconds


class Role(StrEnum):
    """Who speaks in a conversation. Listed in the contract's order."""

    UNSPECIFIED = "unspecified"
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(StrEnum):
    """Why an answer ended. Listed in the contract's order."""

    UNSPECIFIED = "unspecified"
    STOP = "stop"
    """The model ended it, or a stop string did."""
    LENGTH = "length"
    """`max_tokens` was reached."""
    CANCELLED = "cancelled"
    """The caller cancelled."""
    DEADLINE = "deadline"
    """`time_limit` was over."""
    ABORTED = "aborted"
    """The server shut down before the answer was complete."""
    ERROR = "error"
    """The server failed."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the likeliest tokens at a position."""

    token_id: int
    token: bytes
    """Its bytes, which need not be whole characters."""
    logprob: float
    """Natural logarithm."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """What the model thought of one token of the answer, at temperature 1 and before penalties."""

    token_id: int
    token: bytes
    """Its bytes, which need not be whole characters."""
    logprob: float
    """Natural logarithm."""
    top: tuple[TopLogprob, ...]
    """The likeliest tokens there, likeliest first; as many as were asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted over all candidates."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Tokens of the input that were taken from the prefix cache."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in seconds from the arrival of the request at the server."""

    queue: float | None
    """Until the engine took it."""
    first_token: float | None
    """Until the first token (TTFT); None if there was none."""
    total: float | None
    """Until the end."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer."""

    generation_id: str
    """Of the reply that it belongs to, so that a candidate alone can be given feedback."""
    index: int
    """Place among the candidates, from 0."""
    text: str
    """The answer; a matched stop string is not part of it."""
    token_ids: tuple[int, ...]
    """All generated tokens, those that end the answer included."""
    finish_reason: FinishReason
    matched_stop: str
    """The stop string that ended it; empty if another reason did."""
    logprobs: tuple[TokenLogprob, ...]
    """One for each of `token_ids` if they were asked for, else empty."""
    acceptance: float | None = None
    """How likely a user is to accept it, 0 to 1; None if that was not asked for or is not known."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, with all that is known of how it was made."""

    generation_id: str
    """By which feedback names this reply."""
    candidates: tuple[Candidate, ...]
    """The answers, as many as `n`, by index; the best first if `rerank` was asked for."""
    usage: Usage
    timings: Timings
    checkpoint: str
    """Name of the checkpoint that made every token."""
    checkpoint_digest: str
    """"sha256:" and 64 hexadecimal digits."""
    request_id: str
    """As sent, or as chosen by the client."""
    seed: int
    """Sent back, it makes the same answer again."""
    raw: inference_pb2.GenerateResponse = field(repr=False, compare=False)
    """The message of the contract."""

    @property
    def text(self) -> str:
        """The first answer."""
        return self.candidates[0].text if self.candidates else ""

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first answer ended."""
        return self.candidates[0].finish_reason if self.candidates else FinishReason.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class Started:
    """First event of a stream: the engine has taken the request."""

    generation_id: str
    checkpoint: str
    checkpoint_digest: str
    prompt_tokens: int
    request_id: str
    seed: int
    raw: inference_pb2.GenerationStarted = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Delta:
    """Event of a stream: an answer goes on."""

    index: int
    """Which candidate, from 0."""
    text: str
    """Text to append: whole characters; may be empty."""
    token_ids: tuple[int, ...]
    """Tokens to append; they can run ahead of the text."""
    logprobs: tuple[TokenLogprob, ...]
    raw: inference_pb2.GenerationDelta = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of a stream: every candidate has ended."""

    finish_reasons: tuple[FinishReason, ...]
    """By index of the candidate."""
    usage: Usage
    timings: Timings
    raw: inference_pb2.GenerationFinished = field(repr=False, compare=False)
    acceptances: tuple[float | None, ...] = ()
    """As `Candidate.acceptance`, by index of the candidate."""


Event: TypeAlias = Started | Delta | Finished


def read_reply(response: inference_pb2.GenerateResponse) -> Reply:
    """Reads the answer of Generate."""
    return Reply(
        generation_id=response.generation_id,
        candidates=tuple(
            _read_candidate(response.generation_id, each) for each in response.candidates
        ),
        usage=_read_usage(response.usage),
        timings=_read_timings(response.timings),
        checkpoint=response.checkpoint,
        checkpoint_digest=response.checkpoint_digest,
        request_id=response.request_id,
        seed=response.seed,
        raw=response,
    )


def read_event(response: inference_pb2.GenerateStreamResponse) -> Event | None:
    """Reads one message of GenerateStream; None for an event that only a newer server knows."""
    kind = response.WhichOneof("event")
    if kind == "started":
        return _read_started(response.started)
    if kind == "delta":
        return _read_delta(response.delta)
    if kind == "finished":
        return _read_finished(response.finished)
    return None


def text_of(event: Event) -> str | None:
    """Returns the text that an event adds to the first answer; None if it adds none."""
    return event.text or None if isinstance(event, Delta) and event.index == 0 else None


def _read_started(started: inference_pb2.GenerationStarted) -> Started:
    return Started(
        generation_id=started.generation_id,
        checkpoint=started.checkpoint,
        checkpoint_digest=started.checkpoint_digest,
        prompt_tokens=started.prompt_tokens,
        request_id=started.request_id,
        seed=started.seed,
        raw=started,
    )


def _read_delta(delta: inference_pb2.GenerationDelta) -> Delta:
    return Delta(
        index=delta.index,
        text=delta.text,
        token_ids=tuple(delta.token_ids),
        logprobs=_read_logprobs(delta.logprobs),
        raw=delta,
    )


def _read_finished(finished: inference_pb2.GenerationFinished) -> Finished:
    ends = sorted(finished.candidates, key=lambda end: end.index)
    return Finished(
        finish_reasons=tuple(read_enum(FinishReason, end.finish_reason) for end in ends),
        usage=_read_usage(finished.usage),
        timings=_read_timings(finished.timings),
        raw=finished,
        acceptances=tuple(_read_acceptance(end) for end in ends),
    )


def _read_candidate(generation_id: str, candidate: inference_pb2.Candidate) -> Candidate:
    return Candidate(
        generation_id=generation_id,
        index=candidate.index,
        text=candidate.text,
        token_ids=tuple(candidate.token_ids),
        finish_reason=read_enum(FinishReason, candidate.finish_reason),
        matched_stop=candidate.matched_stop,
        logprobs=_read_logprobs(candidate.logprobs),
        acceptance=_read_acceptance(candidate),
    )


def _read_acceptance(
    told: inference_pb2.Candidate | inference_pb2.CandidateEnd,
) -> float | None:
    return told.acceptance if told.HasField("acceptance") else None


def _read_logprobs(positions: Sequence[inference_pb2.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            token_id=each.token_id,
            token=each.token,
            logprob=each.logprob,
            top=tuple(TopLogprob(top.token_id, top.token, top.logprob) for top in each.top),
        )
        for each in positions
    )


def _read_usage(usage: inference_pb2.Usage) -> Usage:
    return Usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)


def _read_timings(timings: inference_pb2.Timings) -> Timings:
    return Timings(
        queue=read_seconds(timings, "queue_duration"),
        first_token=read_seconds(timings, "time_to_first_token"),
        total=read_seconds(timings, "total_duration"),
    )
