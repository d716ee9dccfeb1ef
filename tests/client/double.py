"""A server that speaks the contract over real gRPC, with scripted answers and failures.

It has no model: every answer is a fixed text. What it adds is what a real server does only by
accident: failing on demand, answering slowly, hanging, and telling what it saw.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from learnback.v1 import (
    checkpoints_pb2,
    checkpoints_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)

PIECES = ("The tower ", "was built ", "in 1889. ", "你好 🌍")
TEXT = "".join(PIECES)
DIGEST = "sha256:" + "ab" * 32
WAIT_S = 10.0


@dataclass(frozen=True)
class Failure:
    """An error to answer with, as the real server would."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "injected"
    reason: str = ""
    domain: str = "learnback"
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    quota: tuple[tuple[str, str], ...] = ()
    retry_seconds: float | None = None
    pushback_ms: int | None = None

    def details(self) -> Iterator[Message]:
        if self.reason:
            yield error_details_pb2.ErrorInfo(
                reason=self.reason, domain=self.domain, metadata=self.metadata
            )
        if self.violations:
            violation = error_details_pb2.BadRequest.FieldViolation
            yield error_details_pb2.BadRequest(
                field_violations=[violation(field=f, description=d) for f, d in self.violations]
            )
        if self.quota:
            violation = error_details_pb2.QuotaFailure.Violation
            yield error_details_pb2.QuotaFailure(
                violations=[violation(subject=s, description=d) for s, d in self.quota]
            )
        if self.retry_seconds is not None:
            delay = Duration()
            delay.FromNanoseconds(int(self.retry_seconds * 1e9))
            yield error_details_pb2.RetryInfo(retry_delay=delay)

    def abort(self, context: grpc.ServicerContext) -> None:
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details():
            status.details.add().Pack(detail)
        trailing: list[tuple[str, str | bytes]] = [
            ("grpc-status-details-bin", status.SerializeToString())
        ]
        if self.pushback_ms is not None:
            trailing.append(("grpc-retry-pushback-ms", str(self.pushback_ms)))
        context.set_trailing_metadata(trailing)
        context.abort(self.code, self.message)


@dataclass(frozen=True)
class Seen:
    """A call that arrived."""

    method: str
    request: Any
    metadata: dict[str, str]
    seconds_left: float | None


class Double(
    inference_pb2_grpc.InferenceServiceServicer,
    feedback_pb2_grpc.FeedbackServiceServicer,
    checkpoints_pb2_grpc.CheckpointServiceServicer,
):
    """The server; `address` is where it listens."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.failures: deque[Failure] = deque()
        """What the next calls fail with, in order."""
        self.seen: list[Seen] = []
        self.hang_after: int | None = None
        """Pieces after which a stream hangs until it is cancelled."""
        self.resume = threading.Event()
        """Ends the hanging; also set when the caller cancels."""
        self.break_after: int | None = None
        """Pieces after which a stream fails with the first of `failures`."""
        self.hang_calls = False
        """Whether a single answer hangs."""
        self.cancelled = threading.Event()
        """Set when a stream was cancelled by its caller before its end."""
        self.feedback: dict[str, feedback_pb2.Feedback] = {}
        self.live, self.previous = "ckpt-2", "ckpt-1"
        self.health = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(8))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, self._server)
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(self, self._server)
        checkpoints_pb2_grpc.add_CheckpointServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def fail(self, *failures: Failure) -> None:
        self.failures.extend(failures)

    @property
    def last(self) -> Seen:
        return self.seen[-1]

    def _enter(self, method: str, request: Message, context: grpc.ServicerContext) -> None:
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        left = context.time_remaining()
        self.seen.append(Seen(method, request, metadata, left))
        if self.failures and self.break_after is None:
            self.failures.popleft().abort(context)

    def _hang(self, context: grpc.ServicerContext) -> None:
        if context.add_callback(self.resume.set):
            self.resume.wait(WAIT_S)

    # InferenceService

    def Generate(self, request, context):  # noqa: N802 - the contract's name
        self._enter("Generate", request, context)
        if self.hang_calls:
            self._hang(context)
        spec = request.spec
        return inference_pb2.GenerateResponse(
            generation_id="gen-1",
            candidates=[
                inference_pb2.Candidate(
                    index=index,
                    text=TEXT,
                    token_ids=range(len(PIECES)),
                    finish_reason=inference_pb2.FINISH_REASON_STOP,
                    logprobs=[_logprob(spec, token) for token in range(len(PIECES))]
                    if spec.sampling.HasField("logprobs")
                    else [],
                    acceptance=_acceptance(spec, index),
                )
                # The last one is the best.
                for index in sorted(range(spec.sampling.n or 1), reverse=spec.rerank)
            ],
            usage=_usage(spec),
            timings=_timings(),
            checkpoint=spec.checkpoint or self.live,
            checkpoint_digest=DIGEST,
            request_id=spec.request_id,
            seed=spec.sampling.seed if spec.sampling.HasField("seed") else 7,
        )

    def GenerateStream(self, request, context):  # noqa: N802
        self._enter("GenerateStream", request, context)
        context.add_callback(lambda: None if complete else self.cancelled.set())
        complete = False
        spec = request.spec
        yield inference_pb2.GenerateStreamResponse(
            started=inference_pb2.GenerationStarted(
                generation_id="gen-1",
                checkpoint=spec.checkpoint or self.live,
                checkpoint_digest=DIGEST,
                prompt_tokens=3,
                request_id=spec.request_id,
                seed=spec.sampling.seed if spec.sampling.HasField("seed") else 7,
            )
        )
        count = spec.sampling.n or 1
        for token, piece in enumerate(PIECES):
            if token == self.hang_after:
                self._hang(context)
            if token == self.break_after:
                self.failures.popleft().abort(context)
            for index in reversed(range(count)):
                yield inference_pb2.GenerateStreamResponse(
                    delta=inference_pb2.GenerationDelta(
                        index=index,
                        text=piece,
                        token_ids=[token],
                        logprobs=[_logprob(spec, token)]
                        if spec.sampling.HasField("logprobs")
                        else [],
                    )
                )
        complete = True
        yield inference_pb2.GenerateStreamResponse(
            finished=inference_pb2.GenerationFinished(
                candidates=[
                    inference_pb2.CandidateEnd(
                        index=index,
                        finish_reason=inference_pb2.FINISH_REASON_STOP,
                        acceptance=_acceptance(spec, index),
                    )
                    for index in reversed(range(count))
                ],
                usage=_usage(spec),
                timings=_timings(),
            )
        )

    # FeedbackService

    def SubmitFeedback(self, request, context):  # noqa: N802
        self._enter("SubmitFeedback", request, context)
        kind = request.WhichOneof("signal")
        kept = feedback_pb2.Feedback(
            feedback_id=f"fb-{len(self.feedback)}",
            author=request.author,
            labels=request.labels,
            state=feedback_pb2.FEEDBACK_STATE_QUEUED,
            create_time=Timestamp(seconds=1_700_000_000),
        )
        getattr(kept, kind).CopyFrom(getattr(request, kind))
        target = request.WhichOneof("target")
        getattr(kept, target).CopyFrom(getattr(request, target))
        self.feedback[kept.feedback_id] = kept
        return feedback_pb2.SubmitFeedbackResponse(feedback=kept)

    def GetFeedback(self, request, context):  # noqa: N802
        self._enter("GetFeedback", request, context)
        return feedback_pb2.GetFeedbackResponse(feedback=self.feedback[request.feedback_id])

    def ListFeedback(self, request, context):  # noqa: N802
        self._enter("ListFeedback", request, context)
        size, start = request.page_size or 2, int(request.page_token or 0)
        kept = list(self.feedback.values())
        more = start + size < len(kept)
        return feedback_pb2.ListFeedbackResponse(
            feedback=kept[start : start + size],
            next_page_token=str(start + size) if more else "",
        )

    def WatchFeedback(self, request, context):  # noqa: N802
        self._enter("WatchFeedback", request, context)
        kept = self.feedback[request.feedback_id]
        for state in ("QUEUED", "LEARNING", "LEARNED"):
            kept.state = feedback_pb2.FeedbackState.Value(f"FEEDBACK_STATE_{state}")
            yield feedback_pb2.WatchFeedbackResponse(feedback=kept)

    def EraseAuthor(self, request, context):  # noqa: N802
        self._enter("EraseAuthor", request, context)
        return feedback_pb2.EraseAuthorResponse(
            erasure=feedback_pb2.Erasure(
                erasure_id="er-1",
                author_digest=DIGEST,
                state=feedback_pb2.ERASURE_STATE_PURGING,
                feedback_purged=2,
                tainted_checkpoints=["ckpt-2"],
            )
        )

    # CheckpointService

    def ListCheckpoints(self, request, context):  # noqa: N802
        self._enter("ListCheckpoints", request, context)
        start = int(request.page_token or 0)
        return checkpoints_pb2.ListCheckpointsResponse(
            checkpoints=[_checkpoint(f"ckpt-{2 - start}")],
            next_page_token=str(start + 1) if start < 2 else "",
        )

    def GetCheckpoint(self, request, context):  # noqa: N802
        self._enter("GetCheckpoint", request, context)
        name = {"live": self.live, "previous": self.previous}.get(
            request.checkpoint, request.checkpoint
        )
        return checkpoints_pb2.GetCheckpointResponse(checkpoint=_checkpoint(name))

    def WatchCheckpoints(self, request, context):  # noqa: N802
        self._enter("WatchCheckpoints", request, context)
        yield checkpoints_pb2.WatchCheckpointsResponse(aliases={"live": self.live})
        self._hang(context)

    def PromoteCheckpoint(self, request, context):  # noqa: N802
        self._enter("PromoteCheckpoint", request, context)
        self.previous, self.live = self.live, request.checkpoint
        return checkpoints_pb2.PromoteCheckpointResponse(
            checkpoint=_checkpoint(self.live), previous=self.previous
        )

    def RollbackCheckpoint(self, request, context):  # noqa: N802
        self._enter("RollbackCheckpoint", request, context)
        self.previous, self.live = self.live, request.checkpoint or self.previous
        return checkpoints_pb2.RollbackCheckpointResponse(
            checkpoint=_checkpoint(self.live), rolled_back=self.previous
        )


def _usage(spec: inference_pb2.GenerationSpec) -> inference_pb2.Usage:
    return inference_pb2.Usage(
        prompt_tokens=3, completion_tokens=len(PIECES) * (spec.sampling.n or 1), cached_tokens=1
    )


def _timings() -> inference_pb2.Timings:
    return inference_pb2.Timings(
        queue_duration=Duration(nanos=1_000_000),
        time_to_first_token=Duration(nanos=20_000_000),
        total_duration=Duration(seconds=1, nanos=500_000_000),
    )


def _acceptance(spec: inference_pb2.GenerationSpec, index: int) -> float | None:
    return (index + 1) / 8 if spec.acceptance or spec.rerank else None


def _logprob(spec: inference_pb2.GenerationSpec, token: int) -> inference_pb2.TokenLogprob:
    piece = PIECES[token].encode()
    top = inference_pb2.TopLogprob(token_id=token, token=piece, logprob=-0.25)
    return inference_pb2.TokenLogprob(
        token_id=token, token=piece, logprob=-0.25, top=[top] * spec.sampling.logprobs
    )


def _checkpoint(name: str) -> checkpoints_pb2.Checkpoint:
    return checkpoints_pb2.Checkpoint(
        name=name,
        digest=DIGEST,
        kind=checkpoints_pb2.CHECKPOINT_KIND_ADAPTER,
        state=checkpoints_pb2.CHECKPOINT_STATE_PUBLISHED,
        feedback_ids=["fb-0"],
        feedback_count=1,
        objectives=[feedback_pb2.OBJECTIVE_DISTILLATION],
        gate=checkpoints_pb2.GateVerdict(passed=True, figures={"adoption": 0.9}),
        size_bytes=1234,
    )


def wait_until(condition, seconds: float = WAIT_S) -> bool:
    """Waits for something that another thread is about to do."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
