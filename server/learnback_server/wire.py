"""What goes over the wire: the engine's events as messages of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration

from learnback.v1 import inference_pb2 as pb
from learnback_server.engine import messages
from learnback_server.engine.messages import Delta, Finished
from learnback_server.intake import Asked

_NANOS_PER_SECOND = 1_000_000_000


def started_event(asked: Asked) -> pb.GenerateStreamResponse:
    """Returns the first message of a stream."""
    return pb.GenerateStreamResponse(
        started=pb.GenerationStarted(
            generation_id=asked.request.generation_id,
            checkpoint=asked.checkpoint.name,
            checkpoint_digest=asked.checkpoint.digest,
            prompt_tokens=len(asked.request.prompt_ids),
            request_id=asked.request_id,
            seed=asked.request.sampling.seed,
        )
    )


def delta_event(delta: Delta) -> pb.GenerateStreamResponse:
    """Returns the message by which a stream goes on."""
    return pb.GenerateStreamResponse(
        delta=pb.GenerationDelta(
            index=delta.index,
            text=delta.text,
            token_ids=delta.token_ids,
            logprobs=_logprobs(delta.logprobs),
        )
    )


def finished_event(asked: Asked, finished: Finished) -> pb.GenerateStreamResponse:
    """Returns the last message of a stream."""
    ends = [
        pb.CandidateEnd(
            index=end.index,
            finish_reason=_reason(end),
            matched_stop=end.matched_stop,
            acceptance=end.acceptance,
        )
        for end in finished.candidates
    ]
    return pb.GenerateStreamResponse(
        finished=pb.GenerationFinished(
            candidates=ends, usage=_usage(finished), timings=_timings(asked, finished)
        )
    )


def whole_reply(asked: Asked, deltas: Iterable[Delta], finished: Finished) -> pb.GenerateResponse:
    """Returns the answer in one piece, its candidates in order of acceptance if that was asked for.

    `deltas` has at most one per candidate.
    """
    by_index = {delta.index: delta for delta in deltas}
    nothing = Delta(asked.request.generation_id, 0, "", ())
    candidates = []
    for end in _ordered(finished.candidates, by_acceptance=asked.spec.rerank):
        delta = by_index.get(end.index, nothing)
        candidates.append(
            pb.Candidate(
                index=end.index,
                text=delta.text,
                token_ids=delta.token_ids,
                finish_reason=_reason(end),
                matched_stop=end.matched_stop,
                logprobs=_logprobs(delta.logprobs),
                acceptance=end.acceptance,
            )
        )
    return pb.GenerateResponse(
        generation_id=asked.request.generation_id,
        candidates=candidates,
        usage=_usage(finished),
        timings=_timings(asked, finished),
        checkpoint=asked.checkpoint.name,
        checkpoint_digest=asked.checkpoint.digest,
        request_id=asked.request_id,
        seed=asked.request.sampling.seed,
    )


def _ordered(
    ends: Sequence[messages.CandidateEnd], *, by_acceptance: bool
) -> Sequence[messages.CandidateEnd]:
    """The candidates by index, or the likeliest to be accepted first and those unscored last."""
    if not by_acceptance:
        return ends
    return sorted(ends, key=lambda end: 1.0 if end.acceptance is None else -end.acceptance)


def _reason(end: messages.CandidateEnd) -> pb.FinishReason.ValueType:
    return pb.FinishReason.ValueType(end.reason.value)


def _logprobs(logprobs: Iterable[messages.TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(
            token_id=chosen.token_id,
            token=chosen.token,
            logprob=chosen.logprob,
            top=[
                pb.TopLogprob(token_id=top.token_id, token=top.token, logprob=top.logprob)
                for top in chosen.top
            ],
        )
        for chosen in logprobs
    ]


def _usage(finished: Finished) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=finished.prompt_tokens,
        completion_tokens=finished.completion_tokens,
        cached_tokens=finished.cached_tokens,
    )


def _timings(asked: Asked, finished: Finished) -> pb.Timings:
    arrived = asked.request.arrived
    # What never left the queue waited there to its end.
    left_queue = finished.finished if finished.started is None else finished.started
    timings = pb.Timings(
        queue_duration=_duration(left_queue - arrived),
        total_duration=_duration(finished.finished - arrived),
    )
    if finished.first_token is not None:
        timings.time_to_first_token.CopyFrom(_duration(finished.first_token - arrived))
    return timings


def _duration(seconds: float) -> Duration:
    nanos = round(seconds * _NANOS_PER_SECOND)
    return Duration(seconds=nanos // _NANOS_PER_SECOND, nanos=nanos % _NANOS_PER_SECOND)
