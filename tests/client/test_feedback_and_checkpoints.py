"""Feedback and checkpoints, by both clients."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from learnback_client import (
    AnswerText,
    ChatMessage,
    CheckpointKind,
    CheckpointState,
    Correction,
    Critique,
    ErasureState,
    Exchange,
    FeedbackState,
    GenerationRef,
    Objective,
    Preference,
    Preferred,
    Rating,
    Role,
    Thumb,
)

EXCHANGE = Exchange("1884", messages=(ChatMessage(Role.USER, "When?"),))


def test_feedback_is_told_back(client):
    kept = client.critique("gen-1", "Too long.", author="ann", labels={"a": "b"})
    assert kept.feedback_id == "fb-0"
    assert kept.signal == Critique("Too long.")
    assert kept.generation == GenerationRef("gen-1")
    assert kept.exchange is None
    assert (kept.author, kept.labels) == ("ann", {"a": "b"})
    assert kept.state is FeedbackState.QUEUED
    assert kept.created == datetime.fromtimestamp(1_700_000_000, UTC)
    assert kept.updated is None
    assert client.get_feedback("fb-0") == kept


def test_a_reply_a_candidate_or_an_exchange_can_be_spoken_of(client):
    reply = client.generate("a", n=2)
    assert client.critique(reply, "No.").generation == GenerationRef("gen-1", 0)
    assert client.critique(reply.candidates[1], "No.").generation == GenerationRef("gen-1", 1)
    kept = client.critique(EXCHANGE, "No.")
    assert (kept.generation, kept.exchange) == (None, EXCHANGE)
    asked = Exchange("1884", prompt="The tower was built in")
    assert client.critique(asked, "No.").exchange == asked


@pytest.mark.parametrize(
    ("score", "signal"),
    [
        (0.5, Rating(0.5)),
        (-1, Rating(-1.0)),
        ("up", Rating(Thumb.UP)),
        (Thumb.DOWN, Rating(Thumb.DOWN)),
    ],
)
def test_ratings(client, score, signal):
    assert client.rate("gen-1", score).signal == signal


def test_corrections(client):
    assert client.correct("gen-1", "It was 1889.").signal == Correction("It was 1889.")


@pytest.mark.parametrize(
    ("better", "over", "target", "preference"),
    [
        ("g1", "g2", "g1", Preference(GenerationRef("g2"), Preferred.TARGET)),
        ("g1", AnswerText("t"), "g1", Preference(AnswerText("t"), Preferred.TARGET)),
        (AnswerText("t"), "g1", "g1", Preference(AnswerText("t"), Preferred.OTHER)),
        (EXCHANGE, "g2", EXCHANGE, Preference(GenerationRef("g2"), Preferred.TARGET)),
        ("g2", EXCHANGE, EXCHANGE, Preference(GenerationRef("g2"), Preferred.OTHER)),
    ],
)
def test_preferences(client, better, over, target, preference):
    kept = client.prefer(better, over)
    assert kept.signal == preference
    assert target in (kept.exchange, kept.generation and kept.generation.generation_id)


def test_a_listing_fetches_pages_as_it_goes(client, server):
    for number in range(5):
        client.critique("gen-1", f"No {number}.")
    calls = len(server.seen)
    listing = client.list_feedback(page_size=2, states=["queued", FeedbackState.LEARNED])
    assert len(server.seen) == calls
    ids = [each.feedback_id for each in listing]
    assert ids == [f"fb-{number}" for number in range(5)]
    assert len(server.seen) == calls + 3
    assert [each.request.page_token for each in server.seen[calls:]] == ["", "2", "4"]
    assert list(server.last.request.states) == [1, 3]


def test_watching_ends_with_the_last_state(client):
    kept = client.critique("gen-1", "No.")
    states = [each.state for each in client.watch_feedback(kept.feedback_id)]
    assert states == [FeedbackState.QUEUED, FeedbackState.LEARNING, FeedbackState.LEARNED]


def test_erasure(client, server):
    receipt = client.erase_author("ann")
    assert receipt.state is ErasureState.PURGING
    assert receipt.tainted_checkpoints == ("ckpt-2",)
    assert receipt.done is None
    again = client.erase_author("ann", request_id=receipt.request_id)
    assert again.request_id == server.seen[0].request.request_id


def test_checkpoints(client):
    names = [each.name for each in client.list_checkpoints(states=["published"])]
    assert names == ["ckpt-2", "ckpt-1", "ckpt-0"]
    live = client.get_checkpoint("live")
    assert (live.kind, live.state) == (CheckpointKind.ADAPTER, CheckpointState.PUBLISHED)
    assert live.objectives == (Objective.DISTILLATION,)
    assert live.gate.figures == {"adoption": 0.9}


def test_aliases_move_there_and_back(client, server):
    move = client.promote_checkpoint("ckpt-9", alias="live")
    assert (move.checkpoint.name, move.previous) == ("ckpt-9", "ckpt-2")
    assert server.last.request.alias == "live"
    move = client.rollback_checkpoint()
    assert (move.checkpoint.name, move.previous) == ("ckpt-2", "ckpt-9")


def test_watching_checkpoints(client):
    watching = client.watch_checkpoints()
    assert next(watching) == {"live": "ckpt-2"}
    watching.close()
