"""Feedback as tests send it, and the store as the trainer sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from learnback.v1 import feedback_pb2 as pb
from learnback.v1.feedback_pb2_grpc import FeedbackServiceStub
from learnback_store.connection import Client, connect
from learnback_store.keys import Keys
from tests.server.running import RunningServer, greedy


def stub_of(server: RunningServer) -> FeedbackServiceStub:
    return FeedbackServiceStub(server.channel)


def answered(server: RunningServer, prompt: str = "Capital of France?", **fields) -> str:
    """The id of a fresh answer."""
    return server.generate(greedy(prompt, 4, **fields)).generation_id


def about(generation_id: str, candidate: int = 0, **fields) -> pb.SubmitFeedbackRequest:
    """Feedback on an answer of the service; a critique unless it is said otherwise."""
    if not {"critique", "rating", "correction", "preference"} & fields.keys():
        fields["critique"] = pb.Critique(text="too long")
    ref = pb.GenerationRef(generation_id=generation_id, candidate=candidate)
    return pb.SubmitFeedbackRequest(generation=ref, **fields)


def told(**fields) -> pb.SubmitFeedbackRequest:
    """A critique of an exchange that is sent along."""
    fields = {
        "exchange": pb.Exchange(prompt="Capital of France?", answer="Rome."),
        "critique": pb.Critique(text="no, Paris"),
    } | fields
    return pb.SubmitFeedbackRequest(**fields)


def submit(server: RunningServer, request: pb.SubmitFeedbackRequest, **options) -> pb.Feedback:
    return stub_of(server).SubmitFeedback(request, **options).feedback


def get(server: RunningServer, feedback_id: str) -> pb.Feedback:
    return stub_of(server).GetFeedback(pb.GetFeedbackRequest(feedback_id=feedback_id)).feedback


def listed(server: RunningServer, **fields) -> list[pb.Feedback]:
    """Every page of a list."""
    found: list[pb.Feedback] = []
    token = ""
    while True:
        request = pb.ListFeedbackRequest(page_token=token, **fields)
        page = stub_of(server).ListFeedback(request)
        found += page.feedback
        token = page.next_page_token
        if not token:
            return found


@contextmanager
def trainers_side(server: RunningServer) -> Iterator[tuple[Client, Keys]]:
    """A connection of one's own to the server's Redis, and its keys."""
    with connect(server.config.redis_url) as client:
        yield client, Keys(server.config.redis_namespace)
