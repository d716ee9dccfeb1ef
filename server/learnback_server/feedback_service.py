"""The RPCs of FeedbackService, and nothing but the edge.

A submission is checked, joined to the generation that it speaks of, and queued; the answer goes out
after Redis has taken it durably. `request_id` makes a repeat safe: after UNAVAILABLE the feedback
may have been queued or not (the connection broke before Redis could say so), but never in part, and
a repeat under the same id leaves it queued once. Request ids are those of the whole service.

What became of feedback is told from Redis as the trainer wrote it there (`learnback_store.views`).
An erasure is queued for the trainer as durably; what the author sends until it is done is erased
too, what they send later is feedback like any other.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import grpc

from learnback.v1 import feedback_pb2 as pb
from learnback.v1.feedback_pb2_grpc import FeedbackServiceServicer
from learnback_server.errors import InvalidFieldError, Violation
from learnback_server.feedback_checks import (
    DEFAULT_PAGE_SIZE,
    check_erasure,
    check_id,
    check_listing,
    check_submission,
)
from learnback_server.lasting import until_closed
from learnback_server.limits import Admission
from learnback_server.store_errors import store_errors_told
from learnback_store.erasures import ErasureDesk
from learnback_store.generations import GenerationLog
from learnback_store.inbox import FeedbackInbox
from learnback_store.paging import FeedbackFilter, FeedbackPage, page_token
from learnback_store.protos import (
    erasure_to_proto,
    exchange_from_proto,
    feedback_to_proto,
    filter_from_proto,
    ref_from_proto,
    signal_from_proto,
)
from learnback_store.records import (
    Exchange,
    FeedbackRecord,
    GenerationRecord,
    new_feedback_id,
)
from learnback_store.views import FeedbackViews
from learnback_telemetry.context import note
from learnback_telemetry.tracing import link_to, traceparent

_log = logging.getLogger(__name__)

# Feedback on one page of a list, in bytes: what a gRPC client takes by default is 4 MiB. A single
# piece that is larger comes alone.
MAX_PAGE_BYTES = 3 * 1024 * 1024

Context = grpc.aio.ServicerContext[object, object]


class FeedbackService(FeedbackServiceServicer):
    """Takes feedback and accounts for it.

    Args:
        inbox: Takes it.
        views: Tells what became of it.
        generations: Finds what it speaks of.
        erasures: Takes erasures.
        calls: Gives places to calls that are answered at once.
        watchers: Gives places to calls that last.
        taken: Told the kind of each piece of feedback that was queued.
        log_texts: Whether to log what it says.
    """

    def __init__(
        self,
        inbox: FeedbackInbox,
        views: FeedbackViews,
        generations: GenerationLog,
        erasures: ErasureDesk,
        calls: Admission,
        watchers: Admission,
        taken: Callable[[str], None] = lambda _: None,
        *,
        log_texts: bool = False,
    ) -> None:
        self._inbox = inbox
        self._views = views
        self._generations = generations
        self._erasures = erasures
        self._calls = calls
        self._watchers = watchers
        self._taken = taken
        self._log_texts = log_texts

    async def SubmitFeedback(  # noqa: N802
        self, request: pb.SubmitFeedbackRequest, _context: Context
    ) -> pb.SubmitFeedbackResponse:
        """Queues feedback durably."""
        with self._calls.place(), store_errors_told():
            check_submission(request)
            note(request_id=request.request_id, generation_id=request.generation.generation_id)
            record = await self._joined(request)
            submission = await self._inbox.submit(record, request_id=request.request_id)
            note(feedback_id=submission.view.feedback_id)
            if not submission.repeated:
                self._taken(record.signal.kind)
                if self._log_texts:
                    _log.info("feedback on %r says %r", record.exchange.answer, record.signal)
        return pb.SubmitFeedbackResponse(feedback=feedback_to_proto(submission.view))

    async def GetFeedback(  # noqa: N802
        self, request: pb.GetFeedbackRequest, _context: Context
    ) -> pb.GetFeedbackResponse:
        """Tells what became of one piece of feedback."""
        with self._calls.place(), store_errors_told():
            check_id(request.feedback_id, "feedback_id")
            note(feedback_id=request.feedback_id)
            view = await self._views.get(request.feedback_id)
        return pb.GetFeedbackResponse(feedback=feedback_to_proto(view))

    async def ListFeedback(  # noqa: N802
        self, request: pb.ListFeedbackRequest, _context: Context
    ) -> pb.ListFeedbackResponse:
        """Lists feedback, newest first."""
        with self._calls.place(), store_errors_told():
            check_listing(request)
            wanted = filter_from_proto(request)
            page = await self._views.page(
                wanted,
                page_size=request.page_size or DEFAULT_PAGE_SIZE,
                token=request.page_token,
            )
        return _within_bytes(page, wanted)

    async def WatchFeedback(  # noqa: N802
        self, request: pb.WatchFeedbackRequest, _context: Context
    ) -> AsyncIterator[pb.WatchFeedbackResponse]:
        """Streams one piece of feedback until its state is final."""
        with self._watchers.place(), store_errors_told():
            check_id(request.feedback_id, "feedback_id")
            note(feedback_id=request.feedback_id)
            async for view in until_closed(self._views.watch(request.feedback_id), self._watchers):
                yield pb.WatchFeedbackResponse(feedback=feedback_to_proto(view))

    async def EraseAuthor(  # noqa: N802
        self, request: pb.EraseAuthorRequest, _context: Context
    ) -> pb.EraseAuthorResponse:
        """Asks the trainer to erase an author, or tells how far it has come."""
        with self._calls.place(), store_errors_told():
            check_erasure(request)
            note(request_id=request.request_id)
            erasure = await self._erasures.request(request.author, request.request_id)
        return pb.EraseAuthorResponse(erasure=erasure_to_proto(erasure))

    async def _joined(self, request: pb.SubmitFeedbackRequest) -> FeedbackRecord:
        """Returns the feedback with all that it speaks of."""
        if request.WhichOneof("target") == "exchange":
            exchange = exchange_from_proto(request.exchange)
            return _record(request, exchange, await self._other_answer(request, exchange))
        target = await self._generations.get(request.generation.generation_id)
        exchange = _exchange_of(target, request.generation.candidate, "generation")
        other = await self._other_answer(request, exchange)
        return _record(request, exchange, other, target)

    async def _other_answer(self, request: pb.SubmitFeedbackRequest, exchange: Exchange) -> str:
        """The text that the answer is compared with; empty if it stands in the request or nowhere.

        Raises:
            InvalidFieldError: It is an answer to another input.
        """
        if request.preference.WhichOneof("other") != "generation":
            return ""
        ref = request.preference.generation
        found = await self._generations.get(ref.generation_id)
        other = _exchange_of(found, ref.candidate, "preference.generation")
        if (other.chat, other.prompt) != (exchange.chat, exchange.prompt):
            wrong = "must be an answer to the same input as the target"
            raise InvalidFieldError([Violation("preference.generation", wrong)])
        return other.answer


def _exchange_of(record: GenerationRecord, candidate: int, path: str) -> Exchange:
    try:
        return record.exchange(candidate)
    except IndexError as error:
        raise InvalidFieldError([Violation(f"{path}.candidate", str(error))]) from error


def _record(
    request: pb.SubmitFeedbackRequest,
    exchange: Exchange,
    other_answer: str,
    target: GenerationRecord | None = None,
) -> FeedbackRecord:
    known = FeedbackRecord(
        feedback_id=new_feedback_id(),
        exchange=exchange,
        signal=signal_from_proto(request, other_answer),
        author=request.author,
        labels=dict(request.labels),
        traceparent=traceparent(),
    )
    if target is None:
        return known
    link_to(target.traceparent)
    return replace(
        known,
        generation=ref_from_proto(request.generation),
        prompt_ids=target.prompt_ids,
        answer_ids=target.candidates[request.generation.candidate].token_ids,
        answered_by=target.checkpoint,
        answered_by_digest=target.checkpoint_digest,
        asked_by=target.author,
    )


def _within_bytes(page: FeedbackPage, wanted: FeedbackFilter) -> pb.ListFeedbackResponse:
    """Returns as much of the page as a client can take, and the token of the rest."""
    response = pb.ListFeedbackResponse(next_page_token=page.next_token)
    room = MAX_PAGE_BYTES
    for place, view in enumerate(page.views):
        feedback = feedback_to_proto(view)
        room -= feedback.ByteSize()
        if room < 0 and place:
            response.next_page_token = page_token(page.views[place - 1].feedback_id, wanted.scope())
            break
        response.feedback.append(feedback)
    return response
