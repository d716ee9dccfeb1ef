"""Records on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given

from learnback.v1 import checkpoints_pb2, feedback_pb2, inference_pb2
from learnback_store import protos
from learnback_store.checkpoints import CheckpointState, CheckpointStore
from learnback_store.manifest import CheckpointKind, GateVerdict
from learnback_store.paging import FeedbackFilter
from learnback_store.records import (
    Account,
    Critique,
    Exchange,
    FeedbackRecord,
    FeedbackState,
    FeedbackView,
    GenerationRef,
    Objective,
    Preference,
    Preferred,
    Signal,
)
from tests.store.samples import accounts, exchanges, feedback, publish, records, signals


def test_names_are_the_same_on_both_sides() -> None:
    for ours, theirs, prefix in (
        (FeedbackState, feedback_pb2.FeedbackState, "FEEDBACK_STATE_"),
        (Objective, feedback_pb2.Objective, "OBJECTIVE_"),
        (CheckpointState, checkpoints_pb2.CheckpointState, "CHECKPOINT_STATE_"),
        (CheckpointKind, checkpoints_pb2.CheckpointKind, "CHECKPOINT_KIND_"),
    ):
        names = {f"{prefix}{one.name}" for one in ours} | {f"{prefix}UNSPECIFIED"}
        assert names == set(theirs.keys())
    for state in FeedbackState:
        assert protos.state_from_proto(protos.state_to_proto(state)) is state


@given(exchanges)
def test_exchanges_come_back(exchange: Exchange) -> None:
    there = protos.exchange_to_proto(exchange).SerializeToString()
    assert protos.exchange_from_proto(feedback_pb2.Exchange.FromString(there)) == exchange


@given(signals)
def test_signals_come_back(signal: Signal) -> None:
    view = FeedbackView(feedback(signal=signal), Account.queued(feedback()))
    told = protos.feedback_to_proto(view)
    request = feedback_pb2.SubmitFeedbackRequest()
    name = told.WhichOneof("signal")
    assert name == signal.kind
    getattr(request, name).CopyFrom(getattr(told, name))
    other = signal.other if isinstance(signal, Preference) else ""
    assert protos.signal_from_proto(request, other) == signal


@given(records, accounts)
def test_feedback_is_told_whole(record: FeedbackRecord, account: Account) -> None:
    told = protos.feedback_to_proto(FeedbackView(record, account))
    assert told.feedback_id == record.feedback_id
    assert dict(told.labels) == record.labels
    erased = account.state is FeedbackState.ERASED
    assert told.HasField("exchange") == (not erased)
    assert told.HasField("generation") == (record.generation is not None and not erased)
    assert [protos.state_from_proto(step.state) for step in told.history] == [
        step.state for step in account.history
    ]
    assert told.state == told.history[-1].state
    assert told.update_time.ToMilliseconds() == account.update_ms
    for ours, theirs in zip(account.lessons, told.lessons, strict=True):
        assert theirs.HasField("loss_before") == (ours.loss_before is not None)
        assert theirs.HasField("margin_after") == (ours.margin_after is not None)
        assert (theirs.weight, theirs.refinement) == (ours.weight, ours.refinement)


def test_filters_are_read() -> None:
    request = feedback_pb2.ListFeedbackRequest(
        author="ada",
        states=[feedback_pb2.FEEDBACK_STATE_LEARNED],
        checkpoint="c",
        generation_id="g",
        labels={"a": "b"},
    )
    assert protos.filter_from_proto(request) == FeedbackFilter(
        "ada", frozenset({FeedbackState.LEARNED}), "c", "g", {"a": "b"}
    )


def test_what_is_unspecified_is_refused() -> None:
    empty = feedback_pb2.SubmitFeedbackRequest()
    no_thumb = feedback_pb2.SubmitFeedbackRequest(rating=feedback_pb2.Rating())
    undecided = feedback_pb2.SubmitFeedbackRequest(preference=feedback_pb2.Preference(text="x"))
    for request in (empty, no_thumb, undecided):
        with pytest.raises(ValueError, match=r"."):
            protos.signal_from_proto(request)
    nobody = inference_pb2.Chat(messages=[inference_pb2.Message(content="x")])
    with pytest.raises(ValueError, match=r"."):
        protos.chat_from_proto(nobody)


def test_a_preference_over_a_generation_bears_its_text() -> None:
    request = feedback_pb2.SubmitFeedbackRequest(
        preference=feedback_pb2.Preference(
            generation=feedback_pb2.GenerationRef(generation_id="g", candidate=1),
            preferred=feedback_pb2.PREFERRED_OTHER,
        )
    )
    signal = protos.signal_from_proto(request, "the other answer")
    expected = Preference("the other answer", Preferred.OTHER, GenerationRef("g", 1))
    assert signal == expected
    assert protos.signal_from_proto(
        feedback_pb2.SubmitFeedbackRequest(critique=feedback_pb2.Critique(text="x"))
    ) == Critique("x")


def test_a_checkpoint_is_told(checkpoints: CheckpointStore) -> None:
    published = publish(
        checkpoints,
        "ckpt-1",
        feedback_ids=("fb-1", "fb-2"),
        objectives=(Objective.KTO,),
        gate=GateVerdict(False, ("too far",), {"anchor_kl": 0.5}),
        library_versions={"torch": "2.13"},
    )
    told = protos.checkpoint_to_proto(published, ("live",))
    assert (told.name, told.digest, told.parent) == ("ckpt-1", published.digest, "base")
    assert told.state == checkpoints_pb2.CHECKPOINT_STATE_PUBLISHED
    assert told.kind == checkpoints_pb2.CHECKPOINT_KIND_ADAPTER
    assert list(told.feedback_ids) == ["fb-1", "fb-2"]
    assert list(told.objectives) == [feedback_pb2.OBJECTIVE_KTO]
    assert (list(told.gate.reasons), dict(told.gate.figures)) == (["too far"], {"anchor_kl": 0.5})
    assert list(told.aliases) == ["live"]
    assert told.size_bytes == published.manifest.size_bytes > 0
    brief = protos.checkpoint_to_proto(published, with_feedback_ids=False)
    assert (list(brief.feedback_ids), brief.feedback_count) == ([], 2)
