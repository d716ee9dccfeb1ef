"""The calls of FeedbackService."""

from __future__ import annotations

from learnback.v1 import feedback_pb2
from learnback_client import checks
from learnback_client.call import Call, Page, request_id, watch_timeout
from learnback_client.feedback import (
    Erasure,
    Feedback,
    FeedbackState,
    read_erasure,
    read_feedback,
)
from learnback_client.options import (
    CallOptions,
    FeedbackFilter,
    MoveOptions,
    SubmitOptions,
    refuse_unknown,
)
from learnback_client.signals import Signal, Target, write_signal, write_target

_SERVICE = "/learnback.v1.FeedbackService/"


def submit_feedback(
    about: Target, signal: Signal, options: SubmitOptions
) -> Call[feedback_pb2.SubmitFeedbackResponse, Feedback]:
    """SubmitFeedback."""
    refuse_unknown(options, SubmitOptions.__optional_keys__)
    request = feedback_pb2.SubmitFeedbackRequest(
        author=checks.optional_text("author", options.get("author")),
        labels=checks.labels(options.get("labels") or {}),
        request_id=request_id(options.get("request_id")),
    )
    write_target(request, about)
    write_signal(request, signal)
    return Call(
        _SERVICE + "SubmitFeedback",
        request,
        feedback_pb2.SubmitFeedbackResponse,
        lambda response: read_feedback(response.feedback),
        options.get("timeout"),
        request_id=request.request_id,
    )


def get_feedback(
    feedback_id: str, options: CallOptions
) -> Call[feedback_pb2.GetFeedbackResponse, Feedback]:
    """GetFeedback."""
    refuse_unknown(options, CallOptions.__optional_keys__)
    return Call(
        _SERVICE + "GetFeedback",
        feedback_pb2.GetFeedbackRequest(feedback_id=checks.required("feedback_id", feedback_id)),
        feedback_pb2.GetFeedbackResponse,
        lambda response: read_feedback(response.feedback),
        options.get("timeout"),
    )


def list_feedback(
    options: FeedbackFilter,
) -> Call[feedback_pb2.ListFeedbackResponse, Page[Feedback]]:
    """ListFeedback, one page."""
    refuse_unknown(options, FeedbackFilter.__optional_keys__)
    states = checks.members("states", options.get("states"), FeedbackState)
    request = feedback_pb2.ListFeedbackRequest(
        page_size=checks.integer("page_size", options.get("page_size") or 0),
        author=checks.optional_text("author", options.get("author")),
        states=[feedback_pb2.FeedbackState.Value(f"FEEDBACK_STATE_{each.name}") for each in states],
        checkpoint=checks.optional_text("checkpoint", options.get("checkpoint")),
        generation_id=checks.optional_text("generation_id", options.get("generation_id")),
        labels=checks.labels(options.get("labels") or {}),
    )
    return Call(
        _SERVICE + "ListFeedback",
        request,
        feedback_pb2.ListFeedbackResponse,
        lambda response: Page(
            tuple(read_feedback(each) for each in response.feedback), response.next_page_token
        ),
        options.get("timeout"),
    )


def watch_feedback(
    feedback_id: str, options: CallOptions
) -> Call[feedback_pb2.WatchFeedbackResponse, Feedback]:
    """WatchFeedback."""
    refuse_unknown(options, CallOptions.__optional_keys__)
    return Call(
        _SERVICE + "WatchFeedback",
        feedback_pb2.WatchFeedbackRequest(feedback_id=checks.required("feedback_id", feedback_id)),
        feedback_pb2.WatchFeedbackResponse,
        lambda response: read_feedback(response.feedback),
        watch_timeout(options),
    )


def erase_author(
    author: str, options: MoveOptions
) -> Call[feedback_pb2.EraseAuthorResponse, Erasure]:
    """EraseAuthor."""
    refuse_unknown(options, MoveOptions.__optional_keys__)
    call_id = request_id(options.get("request_id"))
    return Call(
        _SERVICE + "EraseAuthor",
        feedback_pb2.EraseAuthorRequest(
            author=checks.required("author", author), request_id=call_id
        ),
        feedback_pb2.EraseAuthorResponse,
        lambda response: read_erasure(response.erasure, call_id),
        options.get("timeout"),
        request_id=call_id,
    )
