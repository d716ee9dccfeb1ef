"""The RPCs of InferenceService, and nothing but the edge.

Each call takes a place, is read, goes to the engine, and is recorded (`records.py`) and answered
from what comes back. However it ends (answered, failed, cancelled, disconnected, out of time),
leaving the `with` frees its place here and its slot in the engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import grpc

from learnback.v1 import inference_pb2 as pb
from learnback.v1.inference_pb2_grpc import InferenceServiceServicer
from learnback_server.engine import messages
from learnback_server.engine.messages import Finished, FinishReason, GenerationRequest
from learnback_server.errors import (
    DeadlineError,
    DrainingError,
    InternalError,
    InvalidFieldError,
    QueueFullError,
    QueueTimeoutError,
    Violation,
)
from learnback_server.intake import Asked, Intake
from learnback_server.limits import Admission
from learnback_server.mailbox import Mailbox, PostOffice
from learnback_server.records import GenerationRecorder, Recording
from learnback_server.wire import delta_event, finished_event, started_event, whole_reply
from learnback_telemetry.context import note
from learnback_telemetry.tracing import Attribute, describe

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[object, object]


class Generates(Protocol):
    """What the edge asks of the engine while it serves."""

    def submit(self, request: GenerationRequest) -> None:
        """Queues a request, or raises QueueFullError or EngineStoppedError."""

    def cancel(self, generation_id: str) -> None:
        """Ends a generation at the next step."""


class InferenceService(InferenceServiceServicer):
    """Generates answers.

    Args:
        engine: Makes the tokens.
        post: Brings what the engine says; the engine must publish to it.
        admission: Gives places to calls.
        intake: Reads what is asked.
        recorder: Records what was answered.
        report_lost: Called when the engine turns out to have stopped, which ends the server.
    """

    def __init__(
        self,
        engine: Generates,
        post: PostOffice,
        admission: Admission,
        intake: Intake,
        recorder: GenerationRecorder,
        report_lost: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._post = post
        self._admission = admission
        self._intake = intake
        self._recorder = recorder
        self._report_lost = report_lost

    async def Generate(  # noqa: N802
        self, request: pb.GenerateRequest, context: Context
    ) -> pb.GenerateResponse:
        """Generates an answer and returns it whole."""
        with self._admission.place():
            asked = await self._read(request, context)
            with self._running(asked) as mailbox:
                deltas, finished = await mailbox.all()
            _describe(asked, finished)
            refuse_if_failed(asked, finished)
            with self._recorder.recording(asked) as recording:
                recording.add(deltas)
                await recording.complete(finished)
        return whole_reply(asked, deltas, finished)

    async def GenerateStream(  # noqa: N802
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Generates an answer and streams it."""
        with self._admission.place():
            asked = await self._read(request, context)
            with self._running(asked) as mailbox, self._recorder.recording(asked) as recording:
                async for event in _stream(asked, mailbox, recording):
                    yield event

    async def _read(
        self, request: pb.GenerateRequest | pb.GenerateStreamRequest, context: Context
    ) -> Asked:
        arrived = time.monotonic()
        if not request.HasField("spec"):
            raise InvalidFieldError([Violation("spec", "is required")])
        remaining = context.time_remaining()
        call_deadline = None if remaining is None else arrived + remaining
        streamed = isinstance(request, pb.GenerateStreamRequest)
        asked = await self._intake.read(request.spec, arrived, call_deadline, streamed=streamed)
        note(request_id=asked.request_id, generation_id=asked.request.generation_id)
        return asked

    @contextmanager
    def _running(self, asked: Asked) -> Iterator[Mailbox]:
        """Has the engine run the request for as long as the `with` lasts."""
        generation_id = asked.request.generation_id
        with self._post.mailbox(generation_id) as mailbox:
            self._submit(asked.request)
            try:
                yield mailbox
            finally:
                if mailbox.finished is None:
                    self._engine.cancel(generation_id)

    def _submit(self, request: GenerationRequest) -> None:
        try:
            self._engine.submit(request)
        except messages.QueueFullError as error:
            raise QueueFullError from error
        except messages.CheckpointGoneError as error:
            # Let go for another, which the end of the server left no time to load.
            raise DrainingError from error
        except messages.EngineStoppedError as error:
            self._report_lost()
            raise DrainingError from error


async def _stream(
    asked: Asked, mailbox: Mailbox, recording: Recording
) -> AsyncIterator[pb.GenerateStreamResponse]:
    opened = False
    while True:
        mail = await mailbox.next()
        if mail.finished is not None:
            _describe(asked, mail.finished)
            refuse_if_failed(asked, mail.finished)
        if not opened:
            opened = True
            yield started_event(asked)
        recording.add(mail.deltas)
        for delta in mail.deltas:
            yield delta_event(delta)
        if mail.finished is not None:
            await recording.complete(mail.finished)
            yield finished_event(asked, mail.finished)
            return


def _describe(asked: Asked, finished: Finished) -> None:
    """Tells the call's span what became of the generation, by OpenTelemetry's names."""
    request = asked.request
    known: dict[str, Attribute] = {
        "gen_ai.operation.name": "chat" if asked.spec.HasField("chat") else "text_completion",
        "gen_ai.response.id": request.generation_id,
        "gen_ai.response.model": asked.checkpoint.name,
        "gen_ai.response.finish_reasons": [end.reason.name.lower() for end in finished.candidates],
        "gen_ai.usage.input_tokens": finished.prompt_tokens,
        "gen_ai.usage.output_tokens": finished.completion_tokens,
        "learnback.checkpoint_digest": asked.checkpoint.digest,
    }
    if finished.started is not None:
        known["learnback.queue_seconds"] = finished.started - request.arrived
    if finished.first_token is not None:
        known["gen_ai.response.time_to_first_chunk"] = finished.first_token - request.arrived
    describe(known)


def refuse_if_failed(asked: Asked, finished: Finished) -> None:
    """Raises the error that the caller is to see, if this end is no answer at all.

    An answer that was cut short by `time_limit` or by the end of the drain is an answer still.
    """
    reasons = {end.reason for end in finished.candidates}
    if FinishReason.ERROR in reasons:
        _log.error("generation %s failed: %s", finished.generation_id, finished.error)
    if reasons == {FinishReason.ERROR}:
        raise InternalError(finished.generation_id)
    if FinishReason.QUEUE_TIMEOUT in reasons:
        waited = finished.finished - asked.request.arrived
        raise QueueTimeoutError(
            f"waited {waited:.3f} s in the queue; try again later, or set a longer queue_timeout"
        )
    if FinishReason.ABORTED in reasons and finished.started is None:
        raise DrainingError
    if FinishReason.DEADLINE in reasons and _call_is_over(asked, finished):
        raise DeadlineError("the deadline of the call was over; allow more time, or set time_limit")


def _call_is_over(asked: Asked, finished: Finished) -> bool:
    return asked.call_deadline is not None and finished.finished >= asked.call_deadline
